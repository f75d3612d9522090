"""The kernel of the arm64 machine and what it must load before it finds its root: an initial RAM file system of a
static busybox and the few modules of two boards, in the order they need each other."""

import gzip
import shutil
from pathlib import Path

# QEMU's `virt` board, then its `raspi3b`.
VIRT = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "ext4", "crc32c_generic"]
RASPI = ["bcm2835", "sdhci-iproc", "dwc2", "cdc_ether", "rndis_host", "phy-generic", "raspberrypi-power", "mmc_block"]
BOARD = "bcm2837-rpi-3-b.dtb"

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
while read -r module; do /bin/busybox insmod "/modules/$module" 2>/dev/null; done </modules/order
root=$(/bin/busybox sed -nE 's/.*root=([^ ]+).*/\\1/p' /proc/cmdline)
tries=0
until /bin/busybox mount -t ext4 "$root" /new 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -gt 600 ] && { echo "no root file system on $root"; /bin/busybox poweroff -f; }
  /bin/busybox usleep 100000
done
/bin/busybox mount --move /dev /new/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /new /sbin/init
"""


def depends(module):
    """The modules that one names in its own header."""
    for field in module.read_bytes().split(b"\0"):
        if field.startswith(b"depends="):
            return [name.decode() for name in field.removeprefix(b"depends=").split(b",") if name]
    return []


def ordered(names, modules):
    """The files of these modules and of all they need, each after what it needs; a name not there is built in."""
    found = {}

    def add(name):
        path = modules.get(name.replace("-", "_"))
        if path is None or path in found:
            return
        for needed in depends(path):
            add(needed)
        found[path] = None

    for name in names:
        add(name)
    return list(found)


def entry(name, mode, content=b""):
    """One file of a cpio archive. They need no numbers of their own: none has a second name."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def collect(root, out):
    """Leaves vmlinuz, initrd.gz and the board's device tree of the kernel that is unpacked in `root`."""
    out.mkdir()
    kernel = next((root / "boot").glob("vmlinuz-*"))
    release = kernel.name.removeprefix("vmlinuz-")
    shutil.copy(kernel, out / "vmlinuz")
    shutil.copy(next(root.glob(f"usr/lib/linux-image-{release}/broadcom/{BOARD}")), out / BOARD)
    modules = {
        path.name.split(".ko")[0].replace("-", "_"): path for path in (root / "usr/lib/modules" / release).rglob("*.ko")
    }
    chosen = ordered(VIRT + RASPI, modules)
    if not any(path.stem == "virtio_blk" for path in chosen):
        raise SystemExit(f"the kernel {release} has no virtio_blk.ko: its modules are named or packed otherwise")
    parts = [entry(name, 0o40755) for name in ("bin", "dev", "new", "proc", "modules")]
    parts.append(entry("bin/busybox", 0o100755, (root / "usr/bin/busybox").read_bytes()))
    parts.append(entry("init", 0o100755, INIT.encode()))
    parts += [entry(f"modules/{path.name}", 0o100644, path.read_bytes()) for path in chosen]
    parts.append(entry("modules/order", 0o100644, "".join(f"{path.name}\n" for path in chosen).encode()))
    parts.append(entry("TRAILER!!!", 0))
    Path(out / "initrd.gz").write_bytes(gzip.compress(b"".join(parts), 6))
