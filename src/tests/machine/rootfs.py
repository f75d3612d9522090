"""Makes a Debian root file system for a test machine: packages unpacked, not configured, then fixed up by hand.

Nothing of the other architecture runs for it, so it takes a minute where a configured one takes many. To be run as
root, for the owners of the files.

    rootfs.py --arch arm64|amd64 --out DIRECTORY

leaves DIRECTORY/root.ext4 (an image without a partition table) and, for arm64, kernel/.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

import initrd

SUITE = "bookworm"
IMAGE_BYTES = 768 * 1024 * 1024
HOSTNAME = "testpi"
MACHINE_ID = "0123456789abcdef0123456789abcdef"

PACKAGES = """
base-files base-passwd bash busybox-static coreutils dash dbus debconf debianutils diffutils dpkg findutils gawk grep
gzip hostname init-system-helpers iproute2 libc-bin libnss-systemd login mawk mount passwd perl-base procps sed systemd
systemd-sysv tar udev util-linux
""".split()
KERNELS = {"arm64": ["linux-image-arm64", "kmod"], "amd64": []}
LINKS = {"arm64": ["bin", "sbin", "lib"], "amd64": ["bin", "sbin", "lib", "lib64"]}

# Nothing here is of use to the service, and each costs time under emulation.
MASKED = """
apt-daily.timer apt-daily-upgrade.timer console-getty.service dpkg-db-backup.timer e2scrub_all.timer
e2scrub_reap.service fstrim.timer getty@.service getty.target ldconfig.service serial-getty@.service
systemd-firstboot.service systemd-hwdb-update.service systemd-journal-flush.service systemd-logind.service
systemd-networkd.service systemd-pcrphase.service systemd-pstore.service systemd-random-seed.service
systemd-udev-trigger.service systemd-udevd.service systemd-update-utmp.service systemd-user-sessions.service
systemd-update-utmp-runlevel.service systemd-udevd-control.socket systemd-udevd-kernel.socket
""".split()

# A shell for the host on the line that the kernel's command line names: one script in, its output and exit code back.
CONTROL = r"""#!/bin/bash
line=$(sed -nE 's/.*machine\.control=([^ ]+).*/\1/p' /proc/cmdline)
until [[ -c $line ]]; do sleep 0.1; done
case $line in *tty*) stty -F "$line" raw -echo 115200 ;; esac
exec 3<>"$line"
while read -r id seconds script <&3; do
  output=$(
    base64 -d <<<"$script" 2>/dev/null | timeout -k 1 "$seconds" bash 2>&1 3>&- | base64 -w 0
    exit "${PIPESTATUS[1]}"
  )
  printf '\n= %s %d %s\n' "$id" "$?" "$output" >&3
done
"""

CONTROL_UNIT = """[Unit]
Description=The test's line into the machine
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
Before=shutdown.target
Conflicts=shutdown.target

[Service]
ExecStart=/usr/local/sbin/machine-control
Restart=always
# The freeze and the load of a test must not touch it.
OOMScoreAdjust=-1000
TasksMax=infinity

[Install]
WantedBy=sysinit.target
"""

# The emulator's network has one answer to every question, so nobody is asked. Without one there is only loopback.
NETWORK = r"""#!/bin/bash
ip link set lo up
grep -q machine.network=none /proc/cmdline && exit 0
for ((tries = 0; tries < 300; tries++)); do
  for path in /sys/class/net/{e,u}*; do
    [[ -e $path ]] || continue
    ip address replace 10.0.2.15/24 dev "${path##*/}"
    ip link set "${path##*/}" up
    exit
  done
  sleep 0.1
done
echo 'no network card'
exit 1
"""

NETWORK_UNIT = """[Unit]
Description=The test machine's network
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
Before=network-online.target network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/machine-network

[Install]
WantedBy=multi-user.target network-online.target
"""


def run(*command, **kwargs):
    return subprocess.run(command, check=True, **kwargs)


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def unpack(arch, root):
    """Fetches and unpacks the packages, with those themselves left in the apt cache for `record`."""
    links = " ".join(LINKS[arch])
    archive = root.with_suffix(".tar")
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        f"--architectures={arch}",
        f"--include={','.join(PACKAGES + KERNELS[arch])}",
        f'--setup-hook=for name in {links}; do mkdir -p "$1/usr/$name"; ln -sfn "usr/$name" "$1/$name"; done',
        "--skip=cleanup/apt",
        SUITE,
        str(archive),
    )
    root.mkdir()
    run("tar", "--extract", "--file", str(archive), "--directory", str(root), "--exclude=./dev/*")
    archive.unlink()


def record(root):
    """Tells dpkg that what was unpacked is installed, so that it can install our package on top."""
    status, info = [], root / "var/lib/dpkg/info"
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True).stdout
        name = control.split("Package: ", 1)[1].splitlines()[0]
        status.append(control.rstrip("\n") + "\nStatus: install ok installed\n")
        if "\nMulti-Arch: same" in control:
            name += ":" + control.split("\nArchitecture: ", 1)[1].splitlines()[0]
        listed = subprocess.run(
            f"dpkg-deb --fsys-tarfile {package} | tar --list", shell=True, check=True, capture_output=True, text=True
        ).stdout
        files = [line.removeprefix(".").rstrip("/") or "/." for line in listed.splitlines()]
        write(info / f"{name}.list", "\n".join(files) + "\n")
    write(root / "var/lib/dpkg/status", "\n".join(status))
    for leaf in ("available", "diversions", "statoverride"):
        write(root / "var/lib/dpkg" / leaf, "")
    for directory in ("updates", "triggers", "parts"):
        (root / "var/lib/dpkg" / directory).mkdir(exist_ok=True)
    write(info / "format", "1\n")
    for cache in ("var/cache/apt", "var/lib/apt"):
        shutil.rmtree(root / cache)


def slim(root):
    for board_files in root.glob("usr/lib/linux-image-*"):
        shutil.rmtree(board_files)
    for unneeded in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "usr/share/zoneinfo",
        "usr/lib/modules",
        "usr/lib/udev/hwdb.d",
        "boot",
    ):
        shutil.rmtree(root / unneeded, ignore_errors=True)
        if not unneeded.startswith("usr/lib") and unneeded != "boot":
            (root / unneeded).mkdir()
    (root / "usr/lib/modules").mkdir()
    (root / "boot").mkdir()


def configure(root):
    """What the packages' own scripts would have done, as far as the machine needs it."""
    masters = root / "usr/share/base-passwd"
    write(
        root / "etc/passwd",
        (masters / "passwd.master").read_text().replace("root:*:", "root:x:")
        + "messagebus:x:100:107::/nonexistent:/usr/sbin/nologin\n",
    )
    groups = "messagebus:x:107:\nsystemd-journal:x:101:\nsystemd-network:x:102:\n"
    groups += "render:x:103:\nkvm:x:104:\ninput:x:105:\nsgx:x:106:\n"
    write(root / "etc/group", (masters / "group.master").read_text() + groups)
    users = [line.split(":")[0] for line in (root / "etc/passwd").read_text().splitlines()]
    write(root / "etc/shadow", "".join(f"{user}:*:19000:0:99999:7:::\n" for user in users), 0o640)
    write(
        root / "etc/gshadow",
        "".join(f"{line.split(':')[0]}:*::\n" for line in (root / "etc/group").read_text().splitlines()),
        0o640,
    )
    write(root / "etc/nsswitch.conf", "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files\n")
    write(root / "etc/hosts", f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n")
    write(root / "etc/hostname", HOSTNAME + "\n")
    write(root / "etc/machine-id", MACHINE_ID + "\n")
    write(root / "etc/fstab", "")
    write(root / "etc/environment", "")
    write(root / "etc/systemd/journald.conf.d/machine.conf", "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
    # A test that waits for ninety seconds has failed already.
    write(root / "etc/systemd/system.conf.d/machine.conf", "[Manager]\nDefaultTimeoutStopSec=20s\n")
    link(root / "usr/bin/awk", "gawk")
    link(root / "etc/mtab", "../proc/self/mounts")
    units = root / "etc/systemd/system"
    link(units / "default.target", "/lib/systemd/system/multi-user.target")
    for unit in MASKED:
        link(units / unit, "/dev/null")
    write(root / "usr/local/sbin/machine-control", CONTROL, 0o755)
    write(root / "usr/local/sbin/machine-network", NETWORK, 0o755)
    # Too long for the line into the machine.
    write(root / "usr/local/share/probe.pl", Path(__file__).with_name("probe.pl").read_text())
    write(units / "machine-control.service", CONTROL_UNIT)
    write(units / "machine-network.service", NETWORK_UNIT)
    link(units / "sysinit.target.wants/machine-control.service", "../machine-control.service")
    link(units / "multi-user.target.wants/machine-network.service", "../machine-network.service")
    link(units / "network-online.target.wants/machine-network.service", "../machine-network.service")
    for directory in ("proc", "sys", "dev", "run", "tmp", "root", "mnt"):
        (root / directory).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)


def pack(root, image):
    image.unlink(missing_ok=True)
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=0",
        "-d",
        str(root),
        str(image),
        str(IMAGE_BYTES // 1024),
        stdout=subprocess.DEVNULL,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True, choices=sorted(KERNELS))
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    out = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    root = out / "root"
    unpack(options.arch, root)
    record(root)
    if KERNELS[options.arch]:
        initrd.collect(root, out / "kernel")
    slim(root)
    configure(root)
    pack(root, out / "root.ext4")
    shutil.rmtree(root)
    write(out / "complete", "")


if __name__ == "__main__":
    main()
