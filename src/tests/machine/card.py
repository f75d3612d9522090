"""An SD card image as a Raspberry Pi's: a FAT partition to boot from, the root file system behind it."""

import subprocess

from guest import sparse_copy

MIB = 1 << 20
BOOT_MIB, ROOT_AT_MIB = 63, 64
# The emulated card reader takes powers of two only.
CARD_MIB = 1024
CMDLINE = "console=ttyAMA1,115200 root=/dev/mmcblk0p2 rootfstype=ext4 fsck.repair=yes rootwait"


def run(*command, **kwargs):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, **kwargs).stdout


def make(root_image, card):
    """Writes `card`: nothing of Streamward is on it yet."""
    root = card.with_suffix(".root")
    sparse_copy(root_image, root)
    run("tune2fs", "-j", root)
    boot = card.with_suffix(".boot")
    boot.unlink(missing_ok=True)
    run("mkfs.vfat", "-C", "-n", "bootfs", boot, BOOT_MIB * 1024)
    line = card.with_suffix(".cmdline")
    line.write_text(CMDLINE + "\n")
    run("mcopy", "-i", boot, line, "::cmdline.txt")
    card.unlink(missing_ok=True)
    with open(card, "wb") as image:
        image.truncate(CARD_MIB * MIB)
    layout = f"label: dos\nunit: sectors\nstart=1MiB, size={BOOT_MIB}MiB, type=c\nstart={ROOT_AT_MIB}MiB, type=83\n"
    run("sfdisk", "--quiet", card, input=layout.replace("unit: sectors\n", "").encode())
    for part, at in ((boot, 1), (root, ROOT_AT_MIB)):
        run("dd", f"if={part}", f"of={card}", "bs=1M", f"seek={at}", "conv=notrunc,sparse")
        part.unlink()
    line.unlink()


def cmdline(card):
    """The kernel's line as the card's boot partition has it."""
    return run("mtype", "-i", f"{card}@@{MIB}", "::cmdline.txt").decode().strip()
