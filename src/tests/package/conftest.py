"""The package under test, and throw-away Debian roots in which dpkg and the maintainer scripts really run."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

SERVICE = "streamward.service"
SOCKET = "streamward.socket"
CONFIG = "etc/streamward/streamward.toml"

# Stands in for the way to systemd: notes what it is asked for and what the program then was. What needs no running
# systemd, as enabling, the real one does.
SYSTEMCTL = """\
#!/bin/sh
verb= rest=
for argument; do
  case $argument in
  -*) ;;
  *) if [ -z "$verb" ]; then verb=$argument; else rest="$rest $argument"; fi ;;
  esac
done
case $verb in
preset | is-enabled | enable | disable) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@" ;;
is-active) [ -e /active ] ; exit ;;
esac
echo "$verb$rest" >>/calls
case $verb in
start | restart)
  [ ! -e /cannot-start ] || exit 1
  cp /usr/bin/streamward /active
  ;;
stop) rm -f /active ;;
esac
"""


def run(*command, check=True, **options):
    """The command's output; when it fails, the test does, with all it said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        check=False, **options,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def given(name):
    path = os.environ.get(name)
    assert path, f"{name} is not set: run scripts/test package"
    return pathlib.Path(path)


@pytest.fixture(scope="session")
def package():
    """The package that scripts/package built."""
    return given("STREAMWARD_PACKAGE")


@pytest.fixture(scope="session")
def scratch():
    """Gives new directories, which go with the session. Not pytest's own: those it keeps for three runs."""
    with tempfile.TemporaryDirectory(prefix="streamward-package-") as parent:
        yield lambda: pathlib.Path(tempfile.mkdtemp(dir=parent))


@pytest.fixture(scope="session")
def unpacked(package, scratch):
    """Its files, and its control files under DEBIAN."""
    directory = scratch() / "unpacked"
    run("dpkg-deb", "--raw-extract", package, directory)
    return directory


@pytest.fixture(scope="session")
def rebuilt(unpacked, scratch):
    """`rebuilt("0.9.9", edit)` is the package as a later version; `edit` gets its directory."""

    def build(version, edit=lambda directory: None):
        directory = scratch() / "package"
        shutil.copytree(unpacked, directory, symlinks=True)
        control = directory / "DEBIAN/control"
        lines = control.read_text().splitlines(keepends=True)
        lines = [f"Version: {version}\n" if line.startswith("Version:") else line for line in lines]
        control.write_text("".join(lines))
        # Another program, told apart by its last byte.
        with (directory / "usr/bin/streamward").open("ab") as program:
            program.write(version.encode())
        edit(directory)
        made = directory.with_suffix(".deb")
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", directory, made)
        return made

    return build


class Root:
    """A Debian of its own."""

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name

    def run(self, *command, check=True):
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return run("chroot", self.path, *command, check=check, env=settings)

    def install(self, package, *options):
        copy = self / "package.deb"
        shutil.copy(package, copy)
        try:
            return self.run("dpkg", *options, "--install", "/package.deb")
        finally:
            copy.unlink()

    def dpkg(self, *arguments):
        return self.run("dpkg", *arguments)

    def state(self):
        """What dpkg knows of the package, such as `ii`; empty when nothing."""
        listed = self.run("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Abbrev}\n")
        return dict(line.split(maxsplit=1) for line in listed.splitlines()).get("streamward", "").strip()

    def is_enabled(self, unit):
        wants = (self / "etc/systemd/system").glob("*.wants")
        return any((directory / unit).is_symlink() for directory in wants)

    def note_calls(self):
        (self / "usr/bin/systemctl").rename(self / "usr/bin/systemctl.real")
        (self / "usr/bin/systemctl").write_text(SYSTEMCTL)
        (self / "usr/bin/systemctl").chmod(0o755)

    def calls(self):
        """What systemd was asked for since the last look."""
        log = self / "calls"
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return calls

    def files(self):
        """Every path outside dpkg's own records and logs, with what it holds."""
        ours = {}
        for directory, names, files in os.walk(self.path):
            here = pathlib.Path(directory)
            for name in [*names, *files]:
                path = here / name
                place = str(path.relative_to(self.path))
                if place.startswith(("var/lib/dpkg", "var/log", "var/cache", "dev", "proc", "sys")):
                    continue
                if path.is_symlink():
                    ours[place] = os.readlink(path)
                else:
                    ours[place] = path.read_bytes() if path.is_file() else None
        return ours


@pytest.fixture(scope="session")
def first_root(scratch):
    archive = given("STREAMWARD_PACKAGE_ROOT")
    assert os.geteuid() == 0, "dpkg in a root of its own needs to be root: chroot(2)"
    first = Root(scratch() / "root")
    first.path.mkdir()
    run("tar", "--extract", "--file", archive, "--directory", first.path)
    before = first.files()
    yield first
    # The copies share its files.
    assert first.files() == before, "a test wrote into the root that all have in common"


@pytest.fixture
def root(first_root, scratch):
    """A Debian with systemd installed, not running."""
    copy = Root(scratch() / "root")
    # By links: dpkg and its like replace files, and write into none.
    run("cp", "--archive", "--link", first_root.path, copy.path)
    yield copy
    shutil.rmtree(copy.path)


@pytest.fixture
def bare(root):
    """A Debian without systemd, as in most containers."""
    root.run("dpkg", "--purge", "--force-depends", "systemd")
    assert not (root / "usr/bin/systemctl").exists() and not (root / "usr/bin/systemd-sysusers").exists()
    return root


@pytest.fixture
def running(root):
    """A Debian whose systemd runs, as far as a package can tell."""
    root.note_calls()
    (root / "run/systemd/system").mkdir(parents=True)
    return root
