"""Images of a card as Raspberry Pi OS has them, small: a FAT boot partition and an ext4 root, made without root."""

import os
import pathlib
import re
import struct
import subprocess

MIB = 1024 * 1024
SECTOR = 512
BOOT_OFFSET = 4 * MIB
BOOT_SIZE = 16 * MIB
ROOT_OFFSET = BOOT_OFFSET + BOOT_SIZE
ROOT_SIZE = 44 * MIB
CMDLINE = "console=serial0,115200 root=PARTUUID=5e3da3da-02 rootfstype=ext4 fsck.repair=yes rootwait\n"

ARM64, ARM, AMD64 = 183, 40, 62
TOOLS = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin", MTOOLS_SKIP_CHECK="1", LC_ALL="C")


def elf(machine, size=4096, fill=b"\0"):
    """A file that passes for a program of this machine as long as nobody runs it."""
    header = struct.pack("<4s5B7xHHI", b"\x7fELF", 1 if machine == ARM else 2, 1, 1, 0, 0, 2, machine, 1)
    return header + fill * (size - len(header))


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, env=TOOLS, **options).stdout


def tree(root, machine=ARM64, systemd=True, package=False, files=()):
    """What of a Raspberry Pi OS `flash` and `install` look at."""
    for directory in (
        "boot/firmware",
        "usr/bin",
        "usr/lib/systemd/system",
        "usr/lib/sysusers.d",
        "var/lib/dpkg/info",
        "etc/systemd/system/multi-user.target.wants",
    ):
        (root / directory).mkdir(parents=True)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    # So many that the directory is indexed, as it is on a real card.
    for number in range(700):
        (root / f"usr/bin/a-program-with-a-rather-long-name-{number}").write_text("#!/bin/sh\n")
    (root / "usr/bin/sh").write_bytes(elf(machine))
    if systemd:
        (root / "usr/lib/systemd/systemd").write_bytes(elf(machine))
    if package:
        (root / "var/lib/dpkg/info/streamward.list").write_text("/.\n/usr\n/usr/bin\n/usr/bin/streamward\n")
    for name, text in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


class Card:
    """An image file, and what is in it."""

    def __init__(self, directory, name="card.img", root_size=ROOT_SIZE, label="dos", **options):
        self.path = pathlib.Path(directory) / name
        files = pathlib.Path(directory) / f"{name}.tree"
        files.mkdir()
        tree(files, **options)
        self.path.touch()
        os.truncate(self.path, ROOT_OFFSET + root_size + MIB)
        types = ("c", "83") if label == "dos" else ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "L")
        table = f"label: {label}\n" + "".join(
            f"start={start // SECTOR}, size={size // SECTOR}, type={kind}\n"
            for start, size, kind in ((BOOT_OFFSET, BOOT_SIZE, types[0]), (ROOT_OFFSET, root_size, types[1]))
        )
        run("sfdisk", "--quiet", self.path, input=table.encode())
        self._place(BOOT_OFFSET, BOOT_SIZE, lambda file: run("mkfs.vfat", file))
        (files.parent / "cmdline").write_text(CMDLINE)
        run("mcopy", "-i", f"{self.path}@@{BOOT_OFFSET}", files.parent / "cmdline", "::cmdline.txt")

        def root(file):
            run("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", files, file)
            subprocess.run(["e2fsck", "-fyD", file], capture_output=True, env=TOOLS, check=False)

        self._place(ROOT_OFFSET, root_size, root)
        run("rm", "-r", files)

    def _place(self, offset, size, make):
        part = self.path.with_suffix(".part")
        part.touch()
        os.truncate(part, size)
        make(part)
        run(
            "dd",
            f"if={part}",
            f"of={self.path}",
            f"seek={offset}",
            "oflag=seek_bytes",
            "bs=1M",
            "conv=notrunc,sparse",
            "status=none",
        )
        part.unlink()

    @property
    def filesystem(self):
        return f"{self.path}?offset={ROOT_OFFSET}"

    def ask(self, command):
        return run("debugfs", "-R", command, self.filesystem).decode(errors="replace")

    def change(self, *commands):
        run("debugfs", "-w", "-f", "-", self.filesystem, input="\n".join(commands).encode())

    def details(self, path):
        """(type, mode, uid, gid, links), or None."""
        said = self.ask(f"stat {path}")
        found = re.search(r"Type: (\w+) .*Mode:\s+(\d+).*User:\s+(\d+)\s+Group:\s+(\d+).*Links: (\d+)", said, re.DOTALL)
        return (found[1], found[2], *(int(found[n]) for n in (3, 4, 5))) if found else None

    def leads_to(self, path):
        found = re.search(r'Fast link dest: "([^"]*)"', self.ask(f"stat {path}"))
        return found[1] if found else None

    def read(self, path):
        out = self.path.with_suffix(".read")
        self.ask(f"dump {path} {out}")
        contents = out.read_bytes()
        out.unlink()
        return contents

    def names(self, directory):
        return {line.split("/")[5] for line in self.ask(f"ls -p {directory}").splitlines() if line.count("/") >= 6}

    def cmdline(self, name="cmdline.txt"):
        return run("mtype", "-i", f"{self.path}@@{BOOT_OFFSET}", f"::{name}").decode()

    def fsck(self):
        """What e2fsck has to say, changing nothing: empty when all is well."""
        done = subprocess.run(["e2fsck", "-fn", self.filesystem], capture_output=True, env=TOOLS, check=False)
        return "" if done.returncode == 0 else done.stdout.decode()
