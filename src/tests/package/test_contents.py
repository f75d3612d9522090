"""What is in the package."""

import gzip
import json
import re
import stat

import pytest

from conftest import CONFIG, run

FIXED = {
    "usr/bin/streamward": 0o755,
    "usr/lib/systemd/system/streamward.service": 0o644,
    "usr/lib/systemd/system/streamward.socket": 0o644,
    "usr/lib/sysusers.d/streamward.conf": 0o644,
    CONFIG: 0o644,
    "usr/share/man/man5/streamward.toml.5.gz": 0o644,
    "usr/share/bash-completion/completions/streamward": 0o644,
    "usr/share/zsh/vendor-completions/_streamward": 0o644,
    "usr/share/fish/vendor_completions.d/streamward.fish": 0o644,
    "usr/share/doc/streamward/changelog.gz": 0o644,
    "usr/share/doc/streamward/copyright": 0o644,
    "usr/share/doc/streamward/streamward.cdx.json": 0o644,
}


@pytest.fixture(scope="module")
def commands(unpacked):
    """The program's commands, from its own help."""
    return listed_commands(unpacked)


def listed_commands(unpacked, *words):
    help_text = run(unpacked / "usr/bin/streamward", *words, "--help")
    listed = help_text.split("Commands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines() if not line.startswith("   ")]


def paths(unpacked, below=""):
    found = (unpacked / below).rglob("*")
    return {str(path.relative_to(unpacked)): path for path in found if "DEBIAN" not in path.parts}


def test_every_file_has_its_place_mode_and_owner_and_there_is_no_other(package, unpacked, commands):
    pages = ["streamward"] + [f"streamward-{command}" for command in commands if command != "help"]
    assert len(pages) > 10
    pages += [f"streamward-bench-{work}" for work in listed_commands(unpacked, "bench") if work != "help"]
    wanted = FIXED | {f"usr/share/man/man1/{page}.1.gz": 0o644 for page in pages}
    found = paths(unpacked)
    assert sorted(name for name, path in found.items() if not path.is_dir()) == sorted(wanted)
    for name, path in found.items():
        assert stat.S_IMODE(path.stat().st_mode) == wanted.get(name, 0o755), name
    for line in run("dpkg-deb", "--contents", package).splitlines():
        assert line.split()[1] in ("0/0", "root/root"), line


def test_it_depends_on_nothing_and_says_what_it_is(package, unpacked):
    def field(name):
        return run("dpkg-deb", "--field", package, name).strip()

    version = re.search(r"^streamward (\S+)", run(unpacked / "usr/bin/streamward", "--version"))[1]
    assert field("Version") == version
    assert package.name == f"streamward_{version}_{field('Architecture')}.deb"
    assert (field("Section"), field("Priority")) == ("net", "optional")
    for relation in ("Depends", "Pre-Depends", "Recommends", "Suggests"):
        assert field(relation) == "", relation
    synopsis = field("Description").splitlines()[0]
    assert 20 < len(synopsis) < 80, synopsis


def test_the_configuration_and_nothing_else_is_the_administrators(unpacked):
    assert (unpacked / "DEBIAN/conffiles").read_text().split() == ["/" + CONFIG]


def test_manual_pages_have_no_mistake_that_groff_finds(unpacked, scratch):
    for name, path in paths(unpacked, "usr/share/man").items():
        if path.suffix != ".gz":
            continue
        page = scratch() / path.stem
        page.write_bytes(gzip.decompress(path.read_bytes()))
        assert run("groff", "-man", "-Tutf8", "-ww", "-z", page) == "", name


def test_compressed_files_carry_no_time(unpacked):
    compressed = [path for path in paths(unpacked).values() if path.suffix == ".gz"]
    assert compressed and all(path.read_bytes()[4:8] == bytes(4) for path in compressed)


def test_bash_completes_every_command(unpacked, commands):
    script = unpacked / "usr/share/bash-completion/completions/streamward"
    said = run(
        "bash", "-c",
        'source "$1"; complete -p streamward; COMP_WORDS=(streamward ""); COMP_CWORD=1; '
        '_streamward streamward "" streamward; echo "${COMPREPLY[*]}"',
        "bash", script,
    )  # fmt: skip
    assert set(commands) <= set(said.split()), said


def test_what_is_linked_in_is_listed_with_its_licence_and_no_tool_of_the_tests_is(unpacked):
    documents = unpacked / "usr/share/doc/streamward"
    bill = json.loads((documents / "streamward.cdx.json").read_text())
    text = (documents / "copyright").read_text()
    parts = bill["components"]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {"tokio", "h2", "prost", "musl", "rust-std"} <= {part["name"] for part in parts}
    for part in parts:
        licence = part["licenses"][0]["expression"]
        assert re.search(rf"^  {re.escape(part['name'])} {re.escape(part['version'])} +{re.escape(licence)}$", text, re.M)
        if "purl" in part:
            assert part["purl"] == f"pkg:cargo/{part['name']}@{part['version']}"
            assert re.fullmatch("[0-9a-f]{64}", part["hashes"][0]["content"]), part["name"]
    # Tests, build scripts and macros are run, not linked in.
    assert not {"tempfile", "clap_mangen", "protox", "syn", "tokio-macros"} & {part["name"] for part in parts}
    assert "Permission is hereby granted" in text and "Copyright" in text


def test_every_edge_of_the_bill_ends_at_a_part_of_it(unpacked):
    bill = json.loads((unpacked / "usr/share/doc/streamward/streamward.cdx.json").read_text())
    known = {part["bom-ref"] for part in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    edges = {(entry["ref"], to) for entry in bill["dependencies"] for to in entry["dependsOn"]}
    assert len(edges) > 100
    assert {end for edge in edges for end in edge} <= known
    # Everything from a registry is there because something else is.
    needed = {to for _, to in edges}
    assert {part["bom-ref"] for part in bill["components"] if "purl" in part} <= needed


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_plain_shell(unpacked, script):
    path = unpacked / "DEBIAN" / script
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert path.read_text().startswith("#!/bin/sh\n")
    run("dash", "-n", path)
