"""What holds for every script, and for those that only look or build."""

import os
import pathlib
import re
import shutil
import struct
import subprocess

import cards
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
# The package's own, called by dpkg.
MAINTAINER = sorted(path for path in ROOT.glob("systemd/debian/*") if path.read_bytes().startswith(b"#!"))
SHELL = [
    path for path in [*SCRIPTS, ROOT / ".ci/run", *MAINTAINER] if b"python" not in path.read_bytes().splitlines()[0]
]
# What only others read is no command.
NAMES = [path.name for path in SCRIPTS if os.access(path, os.X_OK)]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path):
    done = subprocess.run(["shellcheck", "-x", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_help_is_there_and_changes_nothing(script, name):
    done = script(name, "--help")
    assert done.code == 0, done
    assert done.out.startswith(f"Usage: scripts/{name}")
    assert done.err == ""


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_the_way_to_the_help(script, name):
    done = script(name, "--no-such-option")
    assert done.code == 2, done
    assert done.err.startswith(f"scripts/{name}: ")
    assert "--help" in done.err


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_enough_to_be_read(name):
    assert len((ROOT / "scripts" / name).read_text().splitlines()) < 500


def test_temporary_files_are_removed(script, card, program, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert script("flash", card.path, "--binary", program).code == 0
    assert script("flash", card.path, "--binary", "/nothing").code == 2
    assert script("build-pi", "--arch", "z80").code == 2
    assert sorted(tmp_path.iterdir()) == before


# scripts/check-binary


def compiled(tmp_path, *flags):
    source = tmp_path / "program.c"
    source.write_text("int main(void) { return 0; }\n")
    out = tmp_path / "program"
    subprocess.run(["cc", *flags, "-o", out, source], check=True, capture_output=True)
    return out


STATIC = ("-static", "-s")
RULES = ("is for", "is static", "is stripped", "has no executable stack", "has no memory both writable", "is at most")


def failed(done):
    lines = done.out.splitlines()
    assert len(lines) == len(RULES), done
    assert all(line.split(": ", 1)[1].startswith(rule) for line, rule in zip(lines, RULES, strict=True)), done
    return [line.removeprefix("FAILED: ") for line in lines if line.startswith("FAILED: ")]


def test_a_static_stripped_program_passes(script, tmp_path, native_arch):
    done = script("check-binary", "--arch", native_arch, compiled(tmp_path, *STATIC))
    assert done.code == 0, done
    assert failed(done) == []


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (("-s",), "is static"),
        (("-static",), "is stripped"),
        ((*STATIC, "-z", "execstack"), "has no executable stack"),
    ],
    ids=["shared", "with-symbols", "executable-stack"],
)
def test_each_rule_is_noticed_alone(script, tmp_path, native_arch, flags, rule):
    done = script("check-binary", "--arch", native_arch, compiled(tmp_path, *flags))
    assert done.code == 1, done
    assert failed(done) == [rule]


def test_writable_code_is_noticed(script, tmp_path, native_arch):
    program = compiled(tmp_path, *STATIC)
    contents = bytearray(program.read_bytes())
    table, size, count = struct.unpack_from("<Q", contents, 32)[0], *struct.unpack_from("<HH", contents, 54)
    loaded, executable, writable = 1, 1, 2
    for at in range(table, table + size * count, size):
        kind, flags = struct.unpack_from("<II", contents, at)
        if kind == loaded and flags & executable:
            struct.pack_into("<I", contents, at + 4, flags | writable)
    program.write_bytes(contents)
    done = script("check-binary", "--arch", native_arch, program)
    assert done.code == 1
    assert failed(done) == ["has no memory both writable and executable"]


def test_another_architecture_is_noticed(script, tmp_path, native_arch, other_arch):
    done = script("check-binary", "--arch", other_arch, compiled(tmp_path, *STATIC))
    assert done.code == 1
    assert failed(done) == [f"is for {other_arch}"]


def test_a_program_that_grew_too_much_is_noticed(script, tmp_path, native_arch):
    program = compiled(tmp_path, *STATIC)
    with program.open("ab") as file:
        file.truncate(7 * cards.MIB)
    done = script("check-binary", "--arch", native_arch, program)
    assert done.code == 1
    ceiling = re.search(rf"^ *\[{native_arch}\]=(\d+)", (ROOT / "scripts/check-binary").read_text(), re.MULTILINE)[1]
    assert failed(done) == [f"is at most {ceiling} bytes long: {7 * cards.MIB}"]


def test_what_is_no_program_cannot_be_inspected(script, tmp_path, native_arch):
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    done = script("check-binary", "--arch", native_arch, text)
    assert done.code == 2
    assert "is not an ELF program" in done.err
    assert script("check-binary", text).code == 2
    assert script("check-binary", "--arch", native_arch, tmp_path / "nothing").code == 2


# scripts/build-pi, with a cargo that is told what to leave


@pytest.fixture
def build(script, builder, tmp_path, native_arch):
    """`build(program)` runs build-pi with a cargo that leaves `program`; the lines it was asked come back too."""

    def run(leaves, *options, **environment):
        settings = {**builder(leaves), **environment}
        done = script("build-pi", "--arch", native_arch, "--no-cross", *options, **settings)
        asked = tmp_path / "asked"
        return done, asked.read_text().splitlines() if asked.exists() else []

    return run


def test_a_build_does_not_depend_on_where_it_is_made(build, tmp_path, native_triple):
    program = compiled(tmp_path, *STATIC)
    done, asked = build(program, CARGO_HOME=str(tmp_path / "cargo's home"))
    assert done.code == 0, done
    linker = f"CARGO_TARGET_{native_triple.upper().replace('-', '_')}_LINKER=rust-lld"
    assert asked[0].startswith(f"cargo build --release --locked --target {native_triple} | ")
    assert linker in asked[0]
    builds = tmp_path / "target dir/build-pi/host"
    assert asked[2] == (
        f"rustc --crate-name x --remap-path-prefix={ROOT}=/project "
        f"--remap-path-prefix={tmp_path}/cargo's home=/cargo --remap-path-prefix={builds}=/target"
    )
    built = tmp_path / f"target dir/{native_triple}/release/streamward"
    assert built.read_bytes() == program.read_bytes()
    assert str(built) in done.out
    assert "sha256 " in done.out
    assert failed_in(done.out) == []


def failed_in(text):
    return [line for line in text.splitlines() if line.startswith("FAILED: ")]


def test_what_the_user_set_is_kept(build, tmp_path, native_triple):
    name = f"CARGO_TARGET_{native_triple.upper().replace('-', '_')}_LINKER"
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nshift\nexec echo wrapped "$@"\n')
    wrapper.chmod(0o755)
    done, asked = build(
        compiled(tmp_path, *STATIC), RUSTC_WRAPPER=str(wrapper), SOURCE_COMMIT="mine", **{name: "my-linker"}
    )
    assert done.code == 0, done
    assert f"{name}=my-linker" in asked[0]
    assert asked[1] == "commit mine"
    assert asked[2].startswith("wrapped rustc --crate-name x --remap-path-prefix=")


def test_a_binary_that_names_a_directory_of_this_machine_fails_the_build(build, tmp_path):
    program = compiled(tmp_path, *STATIC)
    with program.open("ab") as file:
        file.write(f"\0{tmp_path}/cargo's home/registry/src/x.rs\0".encode())
    done, _ = build(program, CARGO_HOME=str(tmp_path / "cargo's home"))
    assert done.code == 2
    assert "it would differ when built elsewhere" in done.err


def test_a_binary_that_breaks_a_rule_fails_the_build(build, tmp_path):
    done, _ = build(compiled(tmp_path, "-static"))
    assert done.code == 1
    assert failed_in(done.out) == ["FAILED: is stripped"]


CROSS = """#!/bin/bash
echo "cross $* | $CROSS_CONTAINER_ENGINE | $CROSS_CUSTOM_TOOLCHAIN | ${RUSTC_WRAPPER:-none}" >>"$ASKED"
rustup toolchain list >>"$ASKED"
rustup show active-toolchain >>"$ASKED"
triple=${!#}
mkdir -p "$CARGO_TARGET_DIR/$triple/release"
cp "$LEAVES" "$CARGO_TARGET_DIR/$triple/release/streamward"
"""


def test_cross_is_taken_where_an_engine_answers_and_leaves_the_toolchain_alone(build, tmp_path, native_triple):
    fakes = tmp_path / "fakes"
    (fakes / "cross").write_text(CROSS)
    (fakes / "rustup").write_text("#!/bin/sh\necho 'stable-x86_64-unknown-linux-gnu (active, default)'\n")
    (fakes / "podman").write_text("#!/bin/sh\n")
    (fakes / "docker").write_text("#!/bin/sh\nexit 1\n")
    for name in ("cross", "rustup", "podman", "docker"):
        (fakes / name).chmod(0o755)
    done, asked = build(compiled(tmp_path, *STATIC), "--cross")
    assert done.code == 0, done
    assert asked == [
        f"cross build --release --locked --target {native_triple} | podman | 1 | none",
        # cross would install a toolchain of the longer name.
        "stable-x86_64-unknown-linux-gnu",
        "stable-x86_64-unknown-linux-gnu (active, default)",
    ]


def test_cross_that_is_missing_is_told_only_to_who_asked_for_it(script, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for tool in ("bash", "dirname", "realpath", "mkdir", "mktemp", "rm", "cc", "cat"):
        (bare / tool).symlink_to(shutil.which(tool))
    for name in ("cargo", "rustc"):
        (bare / name).write_text("#!/bin/sh\necho /\n")
        (bare / name).chmod(0o755)
    done = script("build-pi", "--cross", PATH=str(bare), CARGO_TARGET_DIR=str(tmp_path / "target"))
    assert done.code == 2
    assert "there is no cross" in done.err
