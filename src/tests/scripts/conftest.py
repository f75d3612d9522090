"""The scripts are run as a user runs them: whole, against images and hosts that each test has for itself."""

import os
import pathlib
import shutil
import subprocess

import pytest

import cards
import hosts

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"


CARGO = """#!/bin/bash
echo "cargo $* | $RUSTC_WRAPPER | $(env | grep -E '_LINKER=' | sort | tr '\\n' ' ')" >>"$ASKED"
echo "commit $SOURCE_COMMIT" >>"$ASKED"
# The wrapper, asked what it would hand to rustc; a stand-in, so that there is no compiler to run.
"$RUSTC_WRAPPER" echo rustc --crate-name x >>"$ASKED"
triple=${!#}
mkdir -p "$CARGO_TARGET_DIR/$triple/release"
cp "$LEAVES" "$CARGO_TARGET_DIR/$triple/release/streamward"
"""


class Done:
    """A script that has ended: its exit code, and all it said."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr
        self.said = self.out + self.err

    def __repr__(self):
        return f"exit code {self.code}\n{self.said}"


@pytest.fixture
def script(tmp_path):
    """`script("flash", image, "--yes")` runs scripts/flash; `path=` goes before PATH, `answer=` is what is typed, at a
    `terminal=` where one is given."""

    def run(name, *arguments, path=None, answer="", terminal=None, seconds=60, **environment):
        settings = dict(os.environ, LC_ALL="C", TMPDIR=str(tmp_path))
        settings.pop("CARGO_TARGET_DIR", None)
        settings.update(environment)
        if path:
            settings["PATH"] = f"{path}:{settings['PATH']}"
        typed = {"input": answer} if terminal is None else {"stdin": terminal}
        return Done(
            subprocess.run(
                [SCRIPTS / name, *arguments],
                env=settings,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                **typed,
            )
        )

    return run


@pytest.fixture(scope="session")
def first_card(tmp_path_factory):
    return cards.Card(tmp_path_factory.mktemp("card"))


@pytest.fixture
def card(first_card, tmp_path):
    """An image of this test's own."""
    copy = object.__new__(cards.Card)
    copy.path = tmp_path / "card.img"
    cards.run("cp", "--sparse=always", first_card.path, copy.path)
    return copy


@pytest.fixture
def program(tmp_path):
    """Something flash takes for the arm64 program, over several blocks."""
    file = tmp_path / "streamward-arm64"
    file.write_bytes(cards.elf(cards.ARM64, 1_234_567, b"1"))
    return file


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """A static program for this machine that answers as the hub does where the scripts ask it."""
    return hosts.compile_program(tmp_path_factory.mktemp("native") / "streamward")


@pytest.fixture
def builder(tmp_path):
    """`script(..., **builder(program))` has a cargo that leaves `program` and notes in `asked` what it was asked."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "cargo").write_text(CARGO)
    (fakes / "rustc").write_text("#!/bin/sh\necho /\n")
    for name in ("cargo", "rustc"):
        (fakes / name).chmod(0o755)
    settings = {"ASKED": str(tmp_path / "asked"), "CARGO_TARGET_DIR": str(tmp_path / "target dir"), "path": fakes}
    return lambda leaves: {**settings, "LEAVES": str(leaves)}


@pytest.fixture
def native_arch():
    return hosts.ARCH


@pytest.fixture
def other_arch():
    return hosts.OTHER_ARCH


@pytest.fixture
def native_triple():
    return f"{hosts.MACHINE}-unknown-linux-musl"


@pytest.fixture(scope="session")
def first_host(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root can give a host a root directory of its own")
    directory = tmp_path_factory.mktemp("host")
    hosts.make_root(directory)
    return directory


@pytest.fixture
def host(first_host, tmp_path):
    """A machine with systemd that is asked in its own root directory; see hosts.Host."""
    directory = tmp_path / "host"
    subprocess.run(["cp", "-a", first_host, directory], check=True)
    machine = hosts.Host(directory)
    yield machine
    machine.close()
    shutil.rmtree(directory)
