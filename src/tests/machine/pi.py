"""The package on an emulated arm64 machine of 512 MB with real systemd, clients on the host; then a flashed card.

    pi.py --deb FILE --root DIRECTORY --work DIRECTORY [--binary FILE]

DIRECTORY of --root is what rootfs.py made for arm64.
"""

import argparse
import subprocess
from pathlib import Path

import card
import crowd
import guest
import unit
from rules import Rules, expect

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = 300

# All clients come from one address, the emulator's; and 0.0.0.0 is what the forwarded port leads to.
SETTINGS = {
    "listen": '"0.0.0.0:50051"',
    "allow_open": "true",
    "sessions_max": "512",
    "connections_per_ip_max": "512",
}


def configured(text):
    """The shipped configuration with the test's settings, as a user would edit it."""
    lines = []
    for line in text.splitlines():
        key = line.split(" = ")[0]
        lines.append(f"{key} = {SETTINGS[key]}" if key in SETTINGS else line)
    return "\n".join(lines) + "\n"


def configure(machine):
    edits = " ".join(f"-e 's/^{key} = .*/{key} = {value}/'" for key, value in SETTINGS.items())
    machine.run(f"sed -i {edits} /etc/streamward/streamward.toml && systemctl restart streamward")


def reachable(rules, machine, words="a client on the host logs in, follows and publishes"):
    with rules.rule(words):
        unit.until_active(machine)
        crowd.crowd(target(machine), 1, 3, 8, lambda _: None)


def target(machine):
    return f"127.0.0.1:{machine.port}"


def restarted(rules, machine):
    with rules.rule("systemctl restart under load: all come back, what was acknowledged was delivered, gaps are told"):
        load = crowd.Load(target(machine), followers=20, publishers=4)
        machine.run("systemctl restart streamward")
        load.until_back()
        first, acked = load.close()
        load.check(first, acked)
        before = sum(epoch == first for epoch, _ in acked)
        rules.figure("acknowledged before and after the restart under load", f"{before} and {len(acked) - before}")
        ends = {end for follower in load.followers for end in follower.ends if end[1]}
        expect(("UNAVAILABLE", "SERVER_DRAINING") in ends, f"the streams ended with {ends}")


def crowded(rules, machine, words, memory_cgroup):
    """300 clients at once. The peak is the kernel's own, so that nothing between two looks is missed."""
    with rules.rule(f"{CLIENTS} clients of the host are served and the memory stays under the budget, {words}"):
        machine.run("systemctl restart streamward")
        unit.until_active(machine)
        pid = unit.main_pid(machine)
        budget = unit.status(machine)["memory"]["budget_bytes"]
        levels = []

        def sample(when):
            seen = unit.status(machine)
            levels.append((when, seen["sessions"], seen["pressure"], seen["memory"]["used_bytes"]))

        entered, had = crowd.crowd(target(machine), CLIENTS, events=40, event_bytes=4096, sample=sample)
        peak = int(unit.process_status(machine, pid)["VmHWM"].split()[0]) * 1024
        rules.figure(
            f"{CLIENTS} clients {words}",
            f"in after {entered:.0f} s, 40 x 4 KiB to each in {had:.0f} s, "
            f"peak RSS {peak / 1e6:.1f} MB, budget {budget / 1e6:.1f} MB",
        )
        expect(levels[0][1] == CLIENTS, f"{levels}")
        expect(peak < budget and all(used < budget for *_, used in levels), f"peak {peak}, budget {budget}, {levels}")
        expect(all(level == "NORMAL" for _, _, level, _ in levels), str(levels))
        expect(unit.main_pid(machine) == pid, "it was restarted on the way")
        group = "/sys/fs/cgroup" + unit.show(machine, "ControlGroup")["ControlGroup"]
        code, highest = machine.call(f"cat {group}/memory.peak")
        expect((code == 0) == memory_cgroup, f"memory.peak: {highest}")
        if memory_cgroup:
            rules.figure(f"peak of the control group, {words}", f"{int(highest) / 1e6:.1f} MB")
            expect(int(highest) < 256 << 20, highest)
            events = machine.run(f"cat {group}/memory.events")
            expect("oom_kill 0" in events and "max 0" in events, events)


def rebooted(rules, machine):
    with rules.rule("after a reboot it serves by itself"):
        machine.reboot()
        unit.until_active(machine, timeout=120)
        expect(unit.show(machine, "NRestarts")["NRestarts"] == "0", "not at the first try")
        crowd.crowd(target(machine), 1, 3, 8, lambda _: None)


def package(rules, machine):
    """The life of the package on one machine, up to a reboot."""
    rules.section("power on, 512 MB")
    rules.figure("power on to a shell, virt board", f"{machine.start():.0f} s")
    unit.install(rules, machine)
    unit.static(rules, machine)
    unit.process(rules, machine)
    unit.admin(rules, machine)
    unit.figures(rules, machine, "under emulation")
    configure(machine)
    reachable(rules, machine)
    rules.section("under load")
    restarted(rules, machine)
    crowded(rules, machine, "with the kernel's memory cgroup", memory_cgroup=True)
    rules.section("ends and beginnings")
    unit.stopped(rules, machine)
    unit.activated(rules, machine)
    unit.killed(rules, machine)
    unit.frozen(rules, machine)
    unit.upgraded(rules, machine)
    rebooted(rules, machine)


def without_memory_cgroup(rules, machine):
    """The same disk, started as Raspberry Pi OS starts; at last the package is removed."""
    rules.section("power on with cgroup_disable=memory, as Raspberry Pi OS boots")
    machine.start()
    reachable(rules, machine, "without the memory cgroup it serves by itself")
    unit.process(rules, machine, memory_cgroup=False)
    with rules.rule("doctor says that the memory cgroup is off, and how to turn it on"):
        found = next(check for check in unit.doctor(machine)["checks"] if check["id"] == "memory_cgroup")
        expect(found["verdict"] == "warn" and "cgroup_enable=memory" in found["advice"], str(found))
    crowded(rules, machine, "with cgroup_disable=memory", memory_cgroup=False)
    unit.removed(rules, machine)


def packaged(rules, options):
    disk = options.work / "virt.ext4"
    guest.sparse_copy(options.root / "root.ext4", disk)
    guest.inject(disk, {unit.DEB: (options.deb, "644")})
    kernel = options.root / "kernel"
    machine = guest.Qemu(options.work, "virt", kernel, disk)
    try:
        with rules.tried("the package"):
            package(rules, machine)
        machine.power_off()
        machine = guest.Qemu(options.work, "virt-no-memory-cgroup", kernel, disk, append="cgroup_disable=memory")
        with rules.tried("the package without the memory cgroup"):
            without_memory_cgroup(rules, machine)
    finally:
        machine.kill()
        disk.unlink()


def flashed(rules, options):
    """A card that scripts/flash wrote, in a board with a Raspberry Pi's devices and 1 GB."""
    rules.section("a flashed card on the raspi3b board")
    image = options.work / "card.img"
    configuration = options.work / "card.toml"
    configuration.write_text(configured((ROOT / "systemd/streamward.toml").read_text()))
    card.make(options.root / "root.ext4", image)
    with rules.rule("scripts/flash puts the hub into an image that has none"):
        command = [
            ROOT / "scripts/flash",
            "--binary",
            options.binary,
            "--config",
            configuration,
            "--memory-cgroup",
            image,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        expect(done.returncode == 0 and "done: " in done.stdout, done.stdout + done.stderr)
    machine = guest.Qemu(
        options.work,
        "raspi3b",
        options.root / "kernel",
        image,
        board="raspi3b",
        memory="1024",
        append=card.cmdline(image),
    )
    try:
        with rules.tried("the flashed card"):
            rules.figure("power on to a shell, raspi3b board", f"{machine.start():.0f} s")
            reachable(rules, machine, "the flashed card boots, and a client on the host is served")
            unit.process(rules, machine)
            with rules.rule("the flashed card's kernel has its memory cgroup on"):
                expect("cgroup_enable=memory" in machine.run("cat /proc/cmdline"), "it is not on the line")
    finally:
        machine.kill()
        image.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deb", required=True, type=Path)
    parser.add_argument("--binary", required=True, type=Path)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--only", choices=["package", "card"], help="half of it")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    guest.end_with_the_test()
    rules = Rules()
    if options.only != "card":
        packaged(rules, options)
    if options.only != "package":
        flashed(rules, options)
    raise SystemExit(rules.close(options.work))


if __name__ == "__main__":
    main()
