"""scripts/install: into a directory, and on a host with systemd."""

import os
import pathlib
import shutil

import cards
import hosts
import pytest

FILES = {
    "usr/bin/streamward": 0o755,
    "usr/lib/systemd/system/streamward.service": 0o644,
    "usr/lib/systemd/system/streamward.socket": 0o644,
    "usr/lib/sysusers.d/streamward.conf": 0o644,
    "etc/streamward/streamward.toml": 0o644,
}
CONFIG = "etc/streamward/streamward.toml"
WANTS = "etc/systemd/system/multi-user.target.wants/streamward.service"
SOURCE = pathlib.Path(__file__).resolve().parents[3]


def files_in(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink())


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "root"
    cards.tree(directory)
    return directory


def test_into_a_directory_everything_has_its_place_and_mode(script, root, program):
    old = files_in(root)
    os.umask(0o077)
    try:
        done = script("install", "--root", root, "--binary", program)
    finally:
        os.umask(0o022)
    assert done.code == 0, done
    assert sorted(set(files_in(root)) - set(old)) == sorted([*FILES, WANTS])
    for name, mode in FILES.items():
        assert (root / name).stat().st_mode & 0o7777 == mode, name
    assert (root / CONFIG).parent.stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/bin/streamward").read_bytes() == program.read_bytes()
    assert os.readlink(root / WANTS) == "/usr/lib/systemd/system/streamward.service"


def test_installing_twice_is_installing_once(script, root, program):
    assert script("install", "--root", root, "--binary", program).code == 0
    before = {name: (root / name).lstat() for name in files_in(root)}
    done = script("install", "--root", root, "--binary", program)
    assert done.code == 0, done
    assert {name: (root / name).lstat() for name in files_in(root)}.keys() == before.keys()
    for name in FILES:
        assert (root / name).stat().st_ino == before[name].st_ino, name


def test_a_configuration_that_is_there_is_never_overwritten(script, root, program):
    (root / CONFIG).parent.mkdir()
    (root / CONFIG).write_text("# mine\n")
    done = script("install", "--root", root, "--binary", program)
    assert done.code == 0
    assert "streamward.toml.new" in done.out
    assert (root / CONFIG).read_text() == "# mine\n"
    default = (SOURCE / "systemd/streamward.toml").read_bytes()
    assert (root / f"{CONFIG}.new").read_bytes() == default
    # Said once, not at every run; and gone when there is no difference any more.
    assert "streamward.toml.new" not in script("install", "--root", root, "--binary", program).out
    (root / CONFIG).write_bytes(default)
    assert script("install", "--root", root, "--binary", program).code == 0
    assert not (root / f"{CONFIG}.new").exists()


def test_remove_leaves_the_configuration_and_purge_does_not(script, root, program):
    old = files_in(root)
    assert script("install", "--root", root, "--binary", program).code == 0
    (root / CONFIG).write_text("# mine\n")
    done = script("install", "--root", root, "--remove")
    assert done.code == 0
    assert files_in(root) == sorted([*old, CONFIG])
    assert script("install", "--root", root, "--binary", program).code == 0
    assert (root / CONFIG).read_text() == "# mine\n"
    assert script("install", "--root", root, "--remove", "--purge").code == 0
    assert files_in(root) == old
    assert not (root / CONFIG).parent.exists()
    # Removing what is not there is fine too.
    assert script("install", "--root", root, "--remove").code == 0


def test_a_program_for_another_architecture_is_refused(script, root, tmp_path):
    old = files_in(root)
    for machine, why in (
        (cards.AMD64, "is for amd64, and this system is arm64"),
        (cards.ARM, "is no program for 64-bit"),
    ):
        other = tmp_path / "other"
        other.write_bytes(cards.elf(machine))
        done = script("install", "--root", root, "--binary", other)
        assert done.code == 2
        assert why in done.err
    other.write_text("#!/bin/sh\n")
    assert script("install", "--root", root, "--binary", other).code == 2
    assert files_in(root) == old


def test_a_directory_that_is_no_system_yet_takes_either_architecture(script, tmp_path, program):
    root = tmp_path / "stage"
    root.mkdir()
    assert script("install", "--root", root, "--binary", program).code == 0
    assert set(files_in(root)) == {*FILES, WANTS}


def test_what_the_package_manager_owns_is_left_to_it(script, root, program):
    (root / "var/lib/dpkg/info/streamward.list").write_text("/.\n/usr/bin/streamward\n")
    (root / "usr/bin/streamward").write_text("the package's")
    old = files_in(root)
    done = script("install", "--root", root, "--binary", program)
    assert done.code == 2
    assert "apt install ./streamward" in done.err
    done = script("install", "--root", root, "--remove", "--purge")
    assert done.code == 2
    assert "apt remove streamward" in done.err
    assert files_in(root) == old
    assert (root / "usr/bin/streamward").read_text() == "the package's"


def test_a_unit_put_there_by_hand_is_told_and_left(script, root, program):
    own = root / "etc/systemd/system/streamward.service"
    own.write_text("[Service]\n")
    done = script("install", "--root", root, "--binary", program)
    assert done.code == 0
    assert f"{own} hides the unit installed now" in done.err
    assert own.read_text() == "[Service]\n"


def test_a_package_that_was_removed_does_not_own_anything(script, root, program):
    (root / "var/lib/dpkg/info/streamward.list").write_text("/etc/streamward/streamward.toml\n")
    assert script("install", "--root", root, "--binary", program).code == 0


# On a host with systemd


@pytest.fixture
def installer(host, native):
    """`installer("--remove")` runs the script on the host, from a copy there."""
    copy = host.directory / "copy"
    shutil.copytree(SOURCE / "systemd", copy / "systemd")
    (copy / "scripts").mkdir()
    for name in ("install", "common"):
        shutil.copy(SOURCE / "scripts" / name, copy / "scripts")
    shutil.copy(native, host.directory / "copy/streamward")

    def run(*arguments, **options):
        return host.run("bash", "/copy/scripts/install", *arguments, **options)

    return run


def test_on_a_host_it_is_enabled_and_started(installer, host):
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 0, done
    assert "streamward is active" in done.stdout
    assert host.acted() == [
        "systemd-sysusers /usr/lib/sysusers.d/streamward.conf",
        "systemctl daemon-reload",
        "systemctl enable --quiet streamward.service",
        "systemctl restart streamward.service",
    ]
    for name in FILES:
        assert (host.directory / name).is_file()


def test_what_did_not_change_is_not_restarted(installer, host):
    assert installer("--binary", "/copy/streamward").returncode == 0
    (host.directory / "fake/asked").unlink()
    assert installer("--binary", "/copy/streamward").returncode == 0
    assert host.acted()[-1] == "systemctl start streamward.service"
    with (host.directory / "copy/streamward").open("ab") as file:
        file.write(b"newer")
    assert installer("--binary", "/copy/streamward").returncode == 0
    assert host.acted()[-1] == "systemctl restart streamward.service"


def test_no_start_only_puts_the_files(installer, host):
    done = installer("--binary", "/copy/streamward", "--no-start")
    assert done.returncode == 0
    assert not [line for line in host.acted() if "enable" in line or "start" in line.split()]


def test_a_service_that_does_not_start_is_told_with_its_status(installer, host):
    host.tell(broken="")
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 2
    assert "the service does not start" in done.stderr
    assert "streamward.service - Streamward" in done.stderr


def test_a_configuration_the_new_program_refuses_keeps_the_old_one_running(installer, host):
    assert installer("--binary", "/copy/streamward").returncode == 0
    (host.directory / CONFIG).write_text("nonsense = 1\n")
    (host.directory / "fake/asked").unlink()
    with (host.directory / "copy/streamward").open("ab") as file:
        file.write(b"newer")
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 2
    assert "nothing was installed" in done.stderr
    assert "unknown key `nonsense`" in done.stderr
    assert not (host.directory / "usr/bin/streamward").read_bytes().endswith(b"newer")
    assert host.acted() == []


def test_removing_stops_and_disables_first(installer, host):
    assert installer("--binary", "/copy/streamward").returncode == 0
    (host.directory / "fake/asked").unlink()
    assert installer("--remove").returncode == 0
    assert host.acted() == [
        "systemctl disable --now --quiet streamward.service streamward.socket",
        "systemctl daemon-reload",
    ]
    assert (host.directory / CONFIG).exists()
    assert not (host.directory / "usr/bin/streamward").exists()


def test_another_machine_is_refused_with_what_to_do(installer, host):
    host.tell(machine=hosts.OTHER_MACHINE)
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 2
    assert f"scripts/build-pi --arch {hosts.OTHER_ARCH}" in done.stderr
    host.tell(machine="armv7l")
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 2
    assert "64-bit" in done.stderr
    assert host.asked() == []


def test_without_systemd_or_without_root_nothing_happens(installer, host):
    done = installer("--binary", "/copy/streamward", user="65534")
    assert done.returncode == 2
    assert "needs root" in done.stderr
    (host.directory / "run/systemd/system").rmdir()
    done = installer("--binary", "/copy/streamward")
    assert done.returncode == 2
    assert "systemd does not run here" in done.stderr
    assert host.asked() == []
    assert not (host.directory / "usr/bin/streamward").exists()
