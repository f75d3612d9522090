"""scripts/deploy: over a real ssh connection to a host whose package manager and systemd are stand-ins."""

import os
import pathlib
import pty
import shutil
import signal
import subprocess
import threading

import cards
import hosts
import pytest


@pytest.fixture
def deploy(script, host):
    """`deploy("--deb", file)` deploys to the test's host."""
    options = host.listen()
    return lambda *arguments, **settings: script("deploy", *options, *arguments, **settings)


@pytest.fixture
def package(tmp_path, host, native):
    """`package("arm64")` makes a Debian package; the host's dpkg then installs the native program."""
    shutil.copy(native, host.directory / "fake/streamward")

    def make(arch, padding=0):
        tree = tmp_path / f"package-{arch}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: streamward\nVersion: 0.1.0\nArchitecture: {arch}\nMaintainer: a test\nDescription: a test\n"
        )
        (tree / "padding").write_bytes(os.urandom(padding))
        file = tmp_path / f"streamward_0.1.0_{arch}.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--build", "--root-owner-group", tree, file], check=True, capture_output=True
        )
        return file

    return make


def test_a_package_is_installed_and_serves(deploy, host, package):
    done = deploy("--deb", package(hosts.ARCH))
    assert done.code == 0, done
    assert host.acted() == [
        f"dpkg --force-confold --install ./streamward_0.1.0_{hosts.ARCH}.deb",
        "systemctl restart streamward.service",
        "systemctl start streamward.service",
    ]
    assert "streamward.service - Streamward" in done.out
    assert "phase     serving" in done.out
    assert done.out.endswith("serves\n")
    assert host.connections() == 1
    assert host.left_in_tmp() == []


def test_a_host_without_dpkg_gets_the_program(deploy, host, native):
    host.without("dpkg")
    done = deploy("--binary", native)
    assert done.code == 0, done
    assert (host.directory / "usr/bin/streamward").read_bytes() == native.read_bytes()
    assert (host.directory / "etc/streamward/streamward.toml").is_file()
    assert host.acted()[-3:] == [
        "systemctl enable --quiet streamward.service",
        "systemctl restart streamward.service",
        "systemctl start streamward.service",
    ]
    assert host.connections() == 1
    assert host.left_in_tmp() == []


def test_it_builds_for_the_host_it_found(deploy, host, native, builder, tmp_path):
    host.without("dpkg")
    done = deploy(**builder(native))
    assert done.code == 0, done
    assert f"--target {hosts.MACHINE}-unknown-linux-musl" in (tmp_path / "asked").read_text()
    assert (host.directory / "usr/bin/streamward").read_bytes() == native.read_bytes()


def test_a_build_that_fails_leaves_the_host_alone(deploy, host, builder, tmp_path):
    done = deploy(**builder(tmp_path / "nothing"))
    assert_untouched(host, done)
    assert "the build failed" in done.err


def test_what_an_earlier_build_left_is_taken_as_the_host_needs_it(deploy, host, native, package, tmp_path):
    target = tmp_path / "target"
    built = target / f"{hosts.MACHINE}-unknown-linux-musl/release"
    built.mkdir(parents=True)
    shutil.copy(native, built / "streamward")
    done = deploy("--no-build", CARGO_TARGET_DIR=str(target))
    assert done.code == 2
    assert "scripts/package" in done.err
    (target / "debian").mkdir()
    shutil.copy(package(hosts.ARCH), target / "debian")
    done = deploy("--no-build", CARGO_TARGET_DIR=str(target))
    assert done.code == 0, done
    assert host.acted()[0].startswith("dpkg --force-confold --install ./streamward_0.1.0")
    # A 32-bit system on a 64-bit kernel runs the program, and cannot take the package.
    (host.directory / "fake/asked").unlink()
    host.tell(architecture="armhf")
    done = deploy("--no-build", CARGO_TARGET_DIR=str(target))
    assert done.code == 0, done
    assert not host.asked("dpkg")[1:]


def test_a_program_that_still_runs_after_the_installation_is_restarted(deploy, host, package):
    (host.directory / "proc/7").mkdir(parents=True)
    (host.directory / "proc/7/exe").symlink_to("/usr/bin/streamward (deleted)")
    host.tell(pid="7")
    assert deploy("--deb", package(hosts.ARCH)).code == 0
    assert host.acted()[-1] == "systemctl restart streamward.service"


# Refused before anything is copied


def assert_untouched(host, done):
    assert done.code == 2, done
    assert host.acted() == []
    assert "tar " not in host.commands()
    assert host.left_in_tmp() == []
    assert host.connections() == 1


def test_a_package_for_another_architecture_is_refused(deploy, host, package):
    done = deploy("--deb", package(hosts.OTHER_ARCH))
    assert_untouched(host, done)
    assert f"scripts/package --arch {hosts.ARCH}" in done.err


def test_a_program_for_another_architecture_is_refused(deploy, host, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(cards.elf({"amd64": cards.ARM64, "arm64": cards.AMD64}[hosts.ARCH]))
    done = deploy("--binary", other)
    assert_untouched(host, done)
    assert f"scripts/build-pi --arch {hosts.ARCH}" in done.err


@pytest.mark.parametrize(("machine", "message"), [("armv7l", "is a 32-bit system"), ("riscv64", "is riscv64;")])
def test_a_machine_nothing_is_built_for_is_refused_before_the_build(deploy, host, tmp_path, machine, message):
    host.tell(machine=machine)
    # Were it to build, the missing cargo would be the answer.
    done = deploy(path=tmp_path)
    assert_untouched(host, done)
    assert message in done.err


def test_a_host_without_systemd_is_refused(deploy, host, native):
    (host.directory / "run/systemd/system").rmdir()
    done = deploy("--binary", native)
    assert_untouched(host, done)
    assert "does not run systemd" in done.err


def test_a_package_for_a_host_without_dpkg_is_refused(deploy, host, package):
    host.without("dpkg")
    done = deploy("--deb", package(hosts.ARCH))
    assert_untouched(host, done)
    assert "--binary FILE" in done.err


def test_a_host_that_cannot_be_reached_is_told(script, native):
    port = str(hosts.free_port())
    done = script("deploy", "127.0.0.1", "--binary", native, "--", "-p", port, "-o", "BatchMode=yes")
    assert done.code == 2
    assert "there is no ssh connection to 127.0.0.1" in done.err


# As another user than root


SILENT = '[ "$1" != -n ] || shift\nexec "$@"\n'
ASKING = '[ "$1" != -n ] || exit 1\necho "password for pi:"\nread -r word\n[ "$word" = secret ] || exit 1\nexec "$@"\n'


def test_whoever_is_not_root_becomes_it_with_sudo(deploy, host, package):
    host.stand_in("id", "echo 1000\n")
    host.stand_in("sudo", f'echo "sudo $*" >>/fake/asked\n{SILENT}')
    done = deploy("--deb", package(hosts.ARCH))
    assert done.code == 0, done
    assert any(line.startswith("sudo -n sh /tmp/streamward.") for line in host.asked("sudo"))
    assert host.left_in_tmp() == []


def test_without_sudo_or_without_a_terminal_for_its_question_nothing_is_copied(deploy, host, package):
    host.stand_in("id", "echo 1000\n")
    file = package(hosts.ARCH)
    done = deploy("--deb", file)
    assert_untouched(host, done)
    assert "has no sudo" in done.err
    host.stand_in("sudo", ASKING)
    done = deploy("--deb", file)
    assert done.code == 2
    assert "asks for a password" in done.err
    assert "tar " not in host.commands()


@pytest.mark.parametrize(("word", "code"), [("secret", 0), ("wrong", 2)])
def test_sudo_asks_its_question_at_the_terminal(deploy, host, package, word, code):
    host.stand_in("id", "echo 1000\n")
    host.stand_in("sudo", ASKING)
    ours, theirs = pty.openpty()
    os.write(ours, f"{word}\n".encode())
    done = deploy("--deb", package(hosts.ARCH), terminal=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.code == code, done
    assert "password for pi:" in done.out
    assert bool(host.asked("dpkg")[1:]) == (code == 0)
    assert host.left_in_tmp() == []


# It does not serve


def test_an_installation_that_fails_is_told_with_what_it_said(deploy, host, package):
    host.tell(dpkg_fails="")
    done = deploy("--deb", package(hosts.ARCH))
    assert done.code == 2
    assert "dpkg: error: it did not work" in done.out
    assert "the installation on" in done.err
    assert host.left_in_tmp() == []


def test_a_service_that_is_active_but_does_not_answer_does_not_serve(deploy, host, package):
    host.tell(mute="")
    done = deploy("--deb", package(hosts.ARCH))
    assert done.code == 1
    assert "no admin socket found" in done.said
    assert "it does not serve" in done.err
    assert host.left_in_tmp() == []


# The host goes away


def in_background(action):
    box = []
    thread = threading.Thread(target=lambda: box.append(action()))
    thread.start()

    def result():
        thread.join(60)
        assert box, "it did not end"
        return box[0]

    return result


def slow_tar(host):
    """The host's tar takes a kilobyte and then nothing until it is told to go on."""
    host.stand_in(
        "tar",
        "head -c 1024 >/dev/null; touch /fake/held\n"
        'while [ -e /fake/hold ]; do sleep 0.02; done; exec /usr/bin/tar "$@"\n',
    )
    host.tell(hold="")


def test_a_host_lost_while_files_are_copied_is_as_it_was(deploy, host, package):
    slow_tar(host)
    file = package(hosts.ARCH, padding=16_000_000)
    result = in_background(lambda: deploy("--deb", file))
    hosts.until(lambda: host.knows("held"))
    assert host.left_in_tmp() != []
    host.lose(signal.SIGKILL)
    done = result()
    assert done.code == 2
    assert "the files did not get to" in done.err
    host.forget("hold")
    hosts.until(lambda: host.left_in_tmp() == [])
    assert host.acted() == []


def test_a_host_that_falls_silent_is_given_up(deploy, host, package):
    slow_tar(host)
    file = package(hosts.ARCH, padding=16_000_000)
    quick = (
        "--ssh-option",
        "ServerAliveInterval=1",
        "--ssh-option",
        "ServerAliveCountMax=1",
        "--ssh-option",
        "ConnectTimeout=1",
    )
    result = in_background(lambda: deploy("--deb", file, *quick))
    hosts.until(lambda: host.knows("held"))
    host.lose(signal.SIGSTOP)
    done = result()
    assert done.code == 2
    assert "the files did not get to" in done.err
    host.forget("hold")


def test_an_installation_goes_on_when_the_connection_is_lost(deploy, host, package):
    host.tell(hold="")
    file = package(hosts.ARCH)
    result = in_background(lambda: deploy("--deb", file))
    hosts.until(lambda: host.knows("held"))
    # What a terminal sends to all in it when its line is lost.
    installing = host.processes("/finish ")
    assert installing
    host.lose(signal.SIGKILL)
    for pid in installing:
        os.kill(pid, signal.SIGHUP)
    done = result()
    assert done.code == 1
    assert "was lost while it installed" in done.err
    host.forget("hold")
    hosts.until(lambda: host.left_in_tmp() == [])
    assert "systemctl start streamward.service" in host.acted()
    assert pathlib.Path(host.directory / "usr/bin/streamward").exists()
