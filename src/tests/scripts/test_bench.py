"""scripts/bench-peers, in a project of its own, with a cargo that measures nothing."""

import pathlib
import shutil
import stat

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BEGIN = "<!-- bench-peers: begin -->"
END = "<!-- bench-peers: end -->"
README = f"# Hub\n\nBefore.\n\n{BEGIN}\nold tables\n{END}\n\nAfter.\n"

CARGO = """#!/bin/bash
echo "cargo $*" >>"$ASKED"
[[ $1 == bench ]] || exit 0
while (($# > 0)); do
  [[ $1 == --markdown ]] && markdown=$2
  shift
done
echo 'the measurements'
[[ -z ${markdown-} ]] || printf 'A Pi.\\n\\n| a | b |\\n' >"$markdown"
[[ -z ${KILLED-} ]] || kill -s "$KILLED" "$PPID"
exit "${CODE:-0}"
"""


class Project:
    """A checkout with the script and a README, and the tools that the script may find."""

    def __init__(self, directory, script):
        self.root = directory / "project"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("bench-peers", "common"):
            shutil.copy2(ROOT / "scripts" / name, self.root / "scripts")
        self.readme = self.root / "README.md"
        self.readme.write_text(README)
        self.readme.chmod(0o640)
        self.server = self.root / "hub"
        self.server.write_text("a program")
        self.tools = directory / "tools"
        self.tools.mkdir()
        self.asked_file = directory / "asked"
        for tool in ("awk bash cat chmod cmp cp cut dirname env grep id mkdir mktemp mv realpath rm sed uname").split():
            (self.tools / tool).symlink_to(shutil.which(tool))
        self.fake("cargo", CARGO)
        # Neither fetches anything.
        self.fake("apt-get", '#!/bin/sh\necho "apt-get $*" >>"$ASKED"\nexit 1\n')
        for tool in ("cc", "taskset"):
            self.fake(tool, "#!/bin/sh\n")
        self.script = script

    def fake(self, name, text):
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def run(self, *arguments, **environment):
        settings = {"PATH": str(self.tools), "ASKED": str(self.asked_file), **environment}
        return self.script(self.root / "scripts/bench-peers", "--server", self.server, *arguments, **settings)

    def asked(self, what):
        return [line for line in self.asked_file.read_text().splitlines() if line.startswith(what)]

    def files(self):
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def project(tmp_path, script):
    return Project(tmp_path, script)


def test_the_readme_gets_the_tables_in_their_place_only(project):
    done = project.run("--readme", "--quick", "--only", "fanout,start")
    assert done.code == 0, done
    made = "`scripts/bench-peers --readme --quick --only fanout,start` wrote this on:\nA Pi.\n\n| a | b |\n"
    assert project.readme.read_text() == README.replace("old tables\n", made)
    assert stat.S_IMODE(project.readme.stat().st_mode) == 0o640
    assert project.files() == ["README.md", "hub", "scripts"]
    assert "the measurements" in done.out
    again = project.run("--readme", "--quick", "--only", "fanout,start")
    assert again.code == 0
    assert project.readme.read_text() == README.replace("old tables\n", made)


def test_without_being_asked_the_readme_stays_as_it_is(project):
    assert project.run().code == 0
    assert project.readme.read_text() == README
    (bench,) = project.asked("cargo bench")
    assert bench.endswith(f"-- all --server {project.server} --peers {project.root}/target")


@pytest.mark.parametrize("signal", ["TERM", "INT", "KILL"])
def test_an_interrupted_run_leaves_the_readme_as_it_was(project, signal, tmp_path):
    done = project.run("--readme", KILLED=signal)
    assert done.code != 0
    assert project.readme.read_text() == README
    if signal != "KILL":
        assert [name for name in project.files() if name.startswith(".README")] == []
        assert list(tmp_path.glob("tmp.*")) == []


def test_a_run_that_failed_leaves_the_readme_as_it_was(project):
    done = project.run("--readme", CODE="101")
    assert done.code == 101
    assert project.readme.read_text() == README
    assert project.files() == ["README.md", "hub", "scripts"]


def test_a_missed_mark_is_written_down_and_told_by_the_exit_code(project):
    done = project.run("--readme", "--check", CODE="1")
    assert done.code == 1
    assert "| a | b |" in project.readme.read_text()
    assert "--check" in project.asked("cargo bench")[0]


@pytest.mark.parametrize("place", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_readme_without_the_place_is_told_before_anything_is_measured(project, place):
    project.readme.write_text(f"# Hub\n\n{place}")
    done = project.run("--readme")
    assert done.code == 2
    assert "no place for the tables" in done.err
    assert project.readme.read_text() == f"# Hub\n\n{place}"
    assert not project.asked_file.exists()


def test_a_peer_that_cannot_be_had_is_left_out_and_told(project):
    done = project.run()
    assert done.code == 0, done
    # Debian's are also looked for where Debian puts them.
    missing = [peer for peer in ("nats-server", "mosquitto") if not shutil.which(peer, path="/usr/sbin:/sbin")]
    for peer in (*missing, "the server with grpc-js", "the server with grpcio"):
        assert f"{peer} cannot be had here and is left out" in done.err
    assert "with tonic cannot be had" not in done.err
    assert len(project.asked("cargo build --release --locked")) == 1
    assert len(project.asked("cargo bench")) == 1


def test_a_peer_that_is_here_is_not_installed(project):
    for name in ("nats-server", "mosquitto"):
        project.fake(name, "#!/bin/sh\n")
    done = project.run()
    assert "mosquitto" not in done.err and "nats-server" not in done.err
    assert [line for line in project.asked("apt-get") if "nats-server" in line or "mosquitto" in line] == []


def test_a_server_that_is_not_there_is_refused(project):
    done = project.script(project.root / "scripts/bench-peers", "--server", "/nothing", PATH=str(project.tools))
    assert done.code == 2
    assert "/nothing is not there" in done.err
    assert not project.asked_file.exists()
