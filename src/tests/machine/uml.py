"""The unit on User-Mode Linux: real systemd and every restriction, in less than a minute, without emulation.

uml.py --binary FILE --root ROOT.EXT4 --work DIRECTORY
"""

import argparse
import tempfile
from pathlib import Path

import guest
import unit
from rules import Rules

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"
WATCHDOG_SECONDS = 4


def installed(binary, directory):
    """The files of the package, at their places, and two of this test: faster where the unit would make it wait."""
    changed = directory / "streamward.toml"
    changed.write_text((SYSTEMD / "streamward.toml").read_text().replace('retry_after = "5s"', 'retry_after = "1s"'))
    watchdog = directory / "watchdog.conf"
    watchdog.write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nRestartSec=500ms\n")
    return {
        "/usr/bin/streamward": (binary, "755"),
        "/usr/lib/systemd/system/streamward.service": (SYSTEMD / "streamward.service", "644"),
        "/usr/lib/systemd/system/streamward.socket": (SYSTEMD / "streamward.socket", "644"),
        "/usr/lib/sysusers.d/streamward.conf": (SYSTEMD / "streamward.sysusers", "644"),
        "/etc/streamward/streamward.toml": (changed, "644"),
        "/etc/systemd/system/streamward.service.d/watchdog.conf": (watchdog, "644"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=Path)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    guest.end_with_the_test()
    rules = Rules()
    disk = options.work / "uml.ext4"
    guest.sparse_copy(options.root, disk)
    with tempfile.TemporaryDirectory() as directory:
        guest.inject(disk, installed(options.binary, Path(directory)))
    machine = guest.Uml(options.work, "uml", disk)
    try:
        with rules.tried("User-Mode Linux"):
            rules.figure("power on to a shell", f"{machine.start():.1f} s")
            with rules.rule("the service becomes active with every restriction on"):
                machine.run("systemctl enable --now --quiet streamward")
            unit.static(rules, machine)
            unit.process(rules, machine)
            unit.admin(rules, machine)
            unit.figures(rules, machine, "in User-Mode Linux")
            unit.frozen(rules, machine, WATCHDOG_SECONDS)
            unit.killed(rules, machine)
            unit.stopped(rules, machine)
            unit.activated(rules, machine)
    finally:
        machine.kill()
        disk.unlink()
    raise SystemExit(rules.close(options.work))


if __name__ == "__main__":
    main()
