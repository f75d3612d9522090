"""scripts/flash: what it puts into an image, what it leaves alone, and what it refuses."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess

import cards
import pytest

FILES = {
    "/usr/bin/streamward": "0755",
    "/usr/lib/systemd/system/streamward.service": "0644",
    "/usr/lib/systemd/system/streamward.socket": "0644",
    "/usr/lib/sysusers.d/streamward.conf": "0644",
    "/etc/streamward/streamward.toml": "0644",
}
LINK = "/etc/systemd/system/multi-user.target.wants/streamward.service"
UNIT = "/usr/lib/systemd/system/streamward.service"


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def assert_complete(card, program):
    for name, mode in FILES.items():
        assert card.details(name) == ("regular", mode, 0, 0, 1), name
    assert card.read("/usr/bin/streamward") == program.read_bytes()
    assert card.details(LINK)[0] == "symlink"
    assert card.leads_to(LINK) == UNIT
    for directory in {os.path.dirname(name) for name in [*FILES, LINK]}:
        assert not [name for name in card.names(directory) if name.endswith(".new")], directory
        assert card.details(directory)[:2] == ("directory", "0755")
    # The one that was not there. The image's others belong to whoever made it.
    assert card.details("/etc/streamward")[2:4] == (0, 0)
    assert card.fsck() == ""


def test_puts_all_files_with_their_modes_and_the_link_that_enables(script, card, program):
    cmdline = card.cmdline()
    done = script("flash", card.path, "--binary", program)
    assert done.code == 0, done
    assert_complete(card, program)
    for name in FILES:
        if not name.startswith("/usr/bin"):
            source = os.path.basename(name).replace("streamward.conf", "streamward.sysusers")
            with open(f"{os.path.dirname(cards.__file__)}/../../../systemd/{source}", "rb") as file:
                assert card.read(name) == file.read(), name
    assert len(card.names("/usr/bin")) == 704
    assert card.cmdline() == cmdline


def test_a_kernel_finds_what_it_put_into_an_indexed_directory(script, card, program, tmp_path):
    assert script("flash", card.path, "--binary", program).code == 0
    with mounted(card, tmp_path) as root:
        assert (root / "usr/bin/streamward").read_bytes() == program.read_bytes()
        assert (root / "usr/bin/a-program-with-a-rather-long-name-699").exists()
        assert os.readlink(f"{root}{LINK}") == UNIT


def test_a_second_run_changes_no_byte(script, card, program):
    assert script("flash", card.path, "--binary", program).code == 0
    before = digest(card.path)
    done = script("flash", card.path, "--binary", program)
    assert done.code == 0, done
    assert done.out.count("unchanged: ") == 5
    assert digest(card.path) == before


def test_an_upgrade_replaces_the_program_and_keeps_the_configuration(script, card, program, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[server]\nlisten = "0.0.0.0:50051"\n')
    assert script("flash", card.path, "--binary", program, "--config", config).code == 0
    program.write_bytes(cards.elf(cards.ARM64, 2_000_000, b"2"))
    done = script("flash", card.path, "--binary", program)
    assert done.code == 0, done
    assert "kept: /etc/streamward/streamward.toml" in done.out
    assert_complete(card, program)
    assert card.read("/etc/streamward/streamward.toml") == config.read_bytes()


def test_a_named_configuration_replaces_the_one_there(script, card, program, tmp_path):
    assert script("flash", card.path, "--binary", program).code == 0
    config = tmp_path / "mine.toml"
    config.write_text("# mine\n")
    assert script("flash", card.path, "--binary", program, "--config", config).code == 0
    assert_complete(card, program)
    assert card.read("/etc/streamward/streamward.toml") == b"# mine\n"


def test_a_dry_run_tells_every_step_and_changes_no_byte(script, card, program):
    before = digest(card.path)
    done = script("flash", card.path, "--binary", program, "--memory-cgroup", "--dry-run")
    assert done.code == 0, done
    for step in [*FILES, LINK, "cmdline.txt"]:
        assert f"{step}" in done.out
    assert done.out.count("would ") == 7
    assert "nothing was written" in done.out
    assert digest(card.path) == before


def test_directories_that_are_missing_are_made(script, card, program):
    card.change("rmdir /usr/lib/sysusers.d", f"rmdir {os.path.dirname(LINK)}", "rmdir /etc/systemd/system")
    assert script("flash", card.path, "--binary", program).code == 0
    assert_complete(card, program)
    for directory in ("/usr/lib/sysusers.d", "/etc/systemd/system", os.path.dirname(LINK)):
        assert card.details(directory)[2:4] == (0, 0)


def test_a_name_with_every_odd_character_is_taken(script, card, program):
    odd = card.path.with_name("a card?offset=7@@9 'x'.img")
    card.path.rename(odd)
    assert script("flash", odd, "--binary", program).code == 0
    odd.rename(card.path)
    assert_complete(card, program)


def test_a_table_in_the_newer_format_is_taken(script, program, tmp_path):
    card = cards.Card(tmp_path, label="gpt")
    assert script("flash", card.path, "--binary", program).code == 0
    assert_complete(card, program)


def test_the_memory_cgroup_is_turned_on_once_and_in_the_one_line(script, card, program):
    assert script("flash", card.path, "--binary", program, "--memory-cgroup").code == 0
    assert card.cmdline() == cards.CMDLINE.replace("\n", " cgroup_enable=memory\n")
    assert card.cmdline("cmdline.bak") == cards.CMDLINE
    before = digest(card.path)
    assert script("flash", card.path, "--binary", program, "--memory-cgroup").code == 0
    assert digest(card.path) == before
    assert_complete(card, program)


def test_a_unit_put_there_by_hand_is_told_and_left(script, card, program, tmp_path):
    own = tmp_path / "own"
    own.write_text("[Service]\n")
    card.change("cd /etc/systemd/system", f"write {own} streamward.service")
    done = script("flash", card.path, "--binary", program)
    assert done.code == 0, done
    assert "/etc/systemd/system/streamward.service hides the unit" in done.err
    assert card.read("/etc/systemd/system/streamward.service") == b"[Service]\n"
    assert_complete(card, program)


# Interrupted


def broken_debugfs(directory, body):
    """A debugfs for PATH that runs `body` when it is to write; `$real` is the real one."""
    directory.mkdir()
    fake = directory / "debugfs"
    real = shutil.which("debugfs", path=cards.TOOLS["PATH"])
    fake.write_text(f'#!/bin/bash\nreal={real}\nif [[ $1 == -w ]]; then\n{body}\nfi\nexec $real "$@"\n')
    fake.chmod(0o755)
    return directory


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_whoever_is_interrupted_between_steps_has_an_image_that_boots_as_before(script, card, program, tmp_path, steps):
    counter = tmp_path / "counter"
    fakes = broken_debugfs(
        tmp_path / "fakes", f'echo >>{counter}\n(($(wc -l <{counter}) <= {steps})) || kill -KILL "$PPID" $$'
    )
    done = script("flash", card.path, "--binary", program, path=fakes)
    assert done.code == -9
    assert card.fsck() == ""
    assert card.details(LINK) is None
    assert (card.details("/usr/bin/streamward") is not None) == (steps > 0)
    assert card.read("/usr/lib/systemd/systemd") == cards.elf(cards.ARM64)
    assert script("flash", card.path, "--binary", program).code == 0
    assert_complete(card, program)


@pytest.mark.parametrize("lines", range(1, 9))
def test_whoever_is_interrupted_within_an_upgrade_can_mend_it_and_go_on(script, card, program, tmp_path, lines):
    assert script("flash", card.path, "--binary", program).code == 0
    old = program.read_bytes()
    program.write_bytes(cards.elf(cards.ARM64, 900_000, b"2"))
    fakes = broken_debugfs(
        tmp_path / "fakes",
        f'head -n {lines} "$3" >"$3.part"; $real -w -f "$3.part" "$4" || true; kill -KILL "$PPID" $$',
    )
    assert script("flash", card.path, "--binary", program, path=fakes).code == -9
    # What a boot does first.
    mended = subprocess.run(["e2fsck", "-fp", card.filesystem], capture_output=True, env=cards.TOOLS, check=False)
    assert mended.returncode in (0, 1), mended
    if card.details("/usr/bin/streamward"):
        assert card.read("/usr/bin/streamward") in (old, program.read_bytes())
    done = script("flash", card.path, "--binary", program)
    assert done.code == 0, done
    assert_complete(card, program)


def test_a_debugfs_that_fails_is_noticed(script, card, program, tmp_path):
    fakes = broken_debugfs(tmp_path / "fakes", "exit 0")
    done = script("flash", card.path, "--binary", program, path=fakes)
    assert done.code == 2
    assert "/usr/bin/streamward is not as it was written" in done.err


# Refused


def unpartitioned(card):
    with card.path.open("r+b") as file:
        file.write(b"\0" * 4096)


def header(bytes_):
    def change(card):
        with card.path.open("r+b") as file:
            file.write(bytes_)

    return change


def emptied(card):
    card.path.write_bytes(b"")


def without_its_end(card):
    os.truncate(card.path, cards.ROOT_OFFSET + cards.ROOT_SIZE // 2)


def without_ext4(card):
    with card.path.open("r+b") as file:
        file.seek(cards.ROOT_OFFSET)
        file.write(b"\0" * 65536)


def types(first, second):
    def change(card):
        cards.run("sfdisk", "--quiet", "--part-type", card.path, "1", first)
        cards.run("sfdisk", "--quiet", "--part-type", card.path, "2", second)

    return change


def program_for(machine):
    def change(card):
        other = card.path.with_name("other")
        other.write_bytes(cards.elf(machine) if machine else b"#!/bin/sh\n")
        card.change("rm /usr/lib/systemd/systemd", "cd /usr/lib/systemd", f"write {other} systemd")

    return change


def changed(*commands):
    return lambda card: card.change(*commands)


def with_the_package(card):
    listing = card.path.with_name("listing")
    listing.write_text("/.\n/usr/bin/streamward\n")
    card.change("cd /var/lib/dpkg/info", f"write {listing} streamward.list")


def full(card):
    filler = card.path.with_name("filler")
    filler.touch()
    said = card.ask("show_super_stats -h")
    numbers = {line.split(":")[0]: line.split(":")[1].split()[0] for line in said.splitlines() if ":  " in line}
    free = int(numbers["Free blocks"]) - int(numbers["Reserved block count"])
    filler.write_bytes(b"x" * ((free - 900) * int(numbers["Block size"])))
    card.change(f"write {filler} filler")


REFUSED = {
    "compressed-xz": (header(b"\xfd7zXZ\0"), "unpack it first: xz -dk"),
    "compressed-zip": (header(b"PK\3\4"), "unpack it first: unzip"),
    "compressed-gzip": (header(b"\x1f\x8b\x08"), "unpack it first: gunzip"),
    "compressed-zstd": (header(b"\x28\xb5\x2f\xfd"), "unpack it first: zstd"),
    "no-image": (unpartitioned, "no partition table"),
    "empty": (emptied, "no partition table"),
    "cut-short": (without_its_end, "shorter than its partition table says"),
    "no-boot-partition": (types("83", "83"), "first partition is not a FAT boot partition"),
    "no-linux-partition": (types("c", "7"), "second partition is not a Linux one"),
    "no-ext4": (without_ext4, "no ext4 file system"),
    "32-bit": (program_for(cards.ARM), "32-bit system; take the 64-bit"),
    "amd64": (program_for(cards.AMD64), "not an arm64 program"),
    "a-script": (program_for(None), "not an arm64 program"),
    "no-systemd": (changed("rm /usr/lib/systemd/systemd"), "has no systemd"),
    "with-the-package": (with_the_package, "apt install"),
    "full": (full, "KiB free"),
    "not-shut-down": (changed("feature needs_recovery"), "not shut down cleanly"),
    "damaged": (changed("sif /usr/bin/sh links_count 7"), "is damaged"),
    "link-leads-elsewhere": (
        changed(f"cd {os.path.dirname(LINK)}", "symlink streamward.service /dev/null"),
        "leads elsewhere",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_and_no_byte_changed(script, card, program, why):
    spoil, message = REFUSED[why]
    spoil(card)
    before = digest(card.path)
    done = script("flash", card.path, "--binary", program, "--memory-cgroup")
    assert done.code == 2, done
    assert message in done.err
    assert done.err.startswith("scripts/flash: ")
    assert digest(card.path) == before


def test_a_program_that_is_not_for_the_pi_is_refused(script, card, tmp_path):
    before = digest(card.path)
    other = tmp_path / "other"
    other.write_bytes(cards.elf(cards.AMD64))
    done = script("flash", card.path, "--binary", other)
    assert done.code == 2
    assert "not an arm64 program; build one with scripts/build-pi" in done.err
    done = script("flash", card.path, CARGO_TARGET_DIR=str(tmp_path / "nothing"))
    assert done.code == 2
    assert "build it with scripts/build-pi" in done.err
    assert digest(card.path) == before


def test_an_image_without_cmdline_is_refused_only_when_it_is_to_change(script, card, program):
    cards.run("mdel", "-i", f"{card.path}@@{cards.BOOT_OFFSET}", "::cmdline.txt")
    before = digest(card.path)
    done = script("flash", card.path, "--binary", program, "--memory-cgroup")
    assert done.code == 2
    assert "no cmdline.txt" in done.err
    assert digest(card.path) == before
    assert script("flash", card.path, "--binary", program).code == 0


# Devices


@contextlib.contextmanager
def attached(card, *options):
    """The image as a block device."""
    made = subprocess.run(
        ["losetup", "--find", "--show", *options, card.path],
        capture_output=True,
        text=True,
        env=cards.TOOLS,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        cards.run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(card, directory):
    root = directory / "root"
    root.mkdir()
    with attached(card, "--read-only", "--offset", str(cards.ROOT_OFFSET)) as device:
        made = subprocess.run(["mount", "-o", "ro", device, root], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no mount to be had: {made.stderr.strip()}")
        try:
            yield root
        finally:
            cards.run("umount", root)


@pytest.fixture
def device(card):
    with attached(card) as name:
        yield name


def test_a_device_is_written_only_when_its_name_is_typed(script, card, program, device):
    before = digest(card.path)
    for answer in ("", "y\n", "yes\n", "/dev/sdz\n"):
        done = script("flash", device, "--binary", program, answer=answer)
        assert done.code == 2, done
        assert "Type the name of the device" in done.err
        assert "nothing was written" in done.err
        assert digest(card.path) == before
    done = script("flash", device, "--binary", program, answer=f"{device}\n")
    assert done.code == 0, done
    assert_complete(card, program)


def test_yes_writes_a_device_without_asking(script, card, program, device):
    done = script("flash", device, "--binary", program, "--yes")
    assert done.code == 0, done
    assert "Type the name" not in done.said
    assert_complete(card, program)


def test_an_image_in_use_as_a_device_is_refused(script, card, program, device):
    before = digest(card.path)
    done = script("flash", card.path, "--binary", program)
    assert done.code == 2
    assert f"in use as {device}" in done.err
    assert digest(card.path) == before


def test_a_mounted_device_is_refused(script, card, program, tmp_path):
    root = tmp_path / "mounted"
    root.mkdir()
    with attached(card, "--offset", str(cards.ROOT_OFFSET)) as device:
        made = subprocess.run(["mount", device, root], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no mount to be had: {made.stderr.strip()}")
        try:
            done = script("flash", device, "--binary", program, "--yes")
        finally:
            cards.run("umount", root)
    assert done.code == 2
    assert f"is mounted at {root}; unmount it first" in done.err


def test_a_card_with_a_mounted_partition_is_refused(script, card, program, tmp_path):
    root = tmp_path / "mounted"
    root.mkdir()
    with attached(card, "--partscan") as device:
        made = subprocess.run(["mount", f"{device}p2", root], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no partitions of loop devices to be had: {made.stderr.strip()}")
        try:
            whole = script("flash", device, "--binary", program, "--yes")
            part = script("flash", f"{device}p2", "--binary", program, "--yes")
        finally:
            cards.run("umount", root)
    assert (whole.code, part.code) == (2, 2)
    assert f"is mounted at {root}; unmount it first" in whole.err
    assert f"name the whole card: {device}" in part.err


def test_the_disk_the_system_runs_from_is_refused(script, program):
    source = cards.run("findmnt", "-nvo", "SOURCE", "/").decode().strip()
    if not source.startswith("/dev/"):
        pytest.skip(f"this system does not run from a disk of its own but from {source}")
    device = pathlib.Path("/sys/class/block", os.path.basename(os.path.realpath(source))).resolve()
    disk = f"/dev/{device.parent.name if (device / 'partition').exists() else device.name}"
    # A dry run: were the refusal broken, this test would still be harmless.
    done = script("flash", disk, "--binary", program, "--dry-run")
    assert done.code == 2
    assert "a disk that this system runs from" in done.err
