"""A host to install on: a root directory with a shell and the usual tools, reached through a real sshd on loopback.

What would act on a whole machine (systemctl, dpkg) is a stand-in there that records what it was asked.
"""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import time

# What scripts/install, and the commands scripts/deploy sends, call.
TOOLS = """bash sh cat chmod cmp cp date dirname env find grep head id install ln ls mkdir mktemp mv od readlink
realpath rm sed sleep stat tail tar timeout touch tr true sync""".split()

RECORD = 'echo "${0##*/} $*" >>/fake/asked\n'

FAKES = {
    "uname": "cat /fake/machine\n",
    # The package's own scripts restart the service: so does this one.
    "dpkg": """
        if [ "$1" = --print-architecture ]; then cat /fake/architecture; exit; fi
        for package in "$@"; do :; done
        [ -s "$package" ] || { echo "no such package"; exit 2; }
        echo "Unpacking $package"
        if [ -e /fake/hold ]; then touch /fake/held; while [ -e /fake/hold ]; do sleep 0.02; done; fi
        [ ! -e /fake/dpkg-fails ] || { echo "dpkg: error: it did not work"; exit 1; }
        cp /fake/streamward /usr/bin/streamward
        systemctl restart streamward.service
        """,
    "systemctl": """
        case $1 in
          start | restart)
            [ ! -e /fake/broken ] || { echo "Job for streamward.service failed"; exit 1; }
            touch /fake/active ;;
          show) cat /fake/pid ;;
          is-active)
            [ -e /fake/active ] || exit 3
            [ "$2" = --quiet ] || echo active ;;
          status) echo "streamward.service - Streamward: gRPC session and message hub"; [ -e /fake/active ] ;;
          disable) rm -f /fake/active ;;
        esac
        """,
    "systemd-sysusers": "",
}

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
  char line[256] = "";
  if (count > 1 && !strcmp(words[1], "status")) {
    if (access("/fake/mute", F_OK) == 0) { fputs("no admin socket found\n", stderr); return 69; }
    puts("phase     serving");
    return 0;
  }
  for (int i = 1; i < count - 1; i++) {
    if (strcmp(words[i], "--config")) continue;
    FILE *config = fopen(words[i + 1], "r");
    while (config && fgets(line, sizeof line, config))
      if (strstr(line, "nonsense")) { puts("unknown key `nonsense`"); return 78; }
    return 0;
  }
  puts("streamward 0.1.0");
  return 0;
}
"""

CHROOT = shutil.which("chroot", path=os.environ["PATH"] + ":/usr/sbin")
MACHINE = platform.machine()
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[MACHINE]
OTHER_MACHINE = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
OTHER_ARCH = {"amd64": "arm64", "arm64": "amd64"}[ARCH]


def compile_program(file):
    source = file.with_suffix(".c")
    source.write_text(PROGRAM)
    subprocess.run(["cc", "-static", "-s", "-O1", "-o", file, source], check=True, capture_output=True)
    return file


def make_root(directory):
    for name in (
        "usr/bin",
        "usr/lib/systemd/system",
        "usr/local/bin",
        "etc",
        "tmp",
        "dev",
        "fake",
        "run/systemd/system",
        "var/lib/dpkg/info",
    ):
        (directory / name).mkdir(parents=True)
    (directory / "bin").symlink_to("usr/bin")
    os.chmod(directory, 0o755)
    os.chmod(directory / "tmp", 0o1777)
    libraries = set()
    for tool in TOOLS:
        program = os.path.realpath(shutil.which(tool))
        shutil.copy(program, directory / "usr/bin" / tool)
        told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", told))
    for library in libraries:
        (directory / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, directory / library[1:])
    try:
        os.mknod(directory / "dev/null", 0o20666, os.makedev(1, 3))
        os.chmod(directory / "dev/null", 0o666)
    except PermissionError:
        (directory / "dev/null").touch(0o666)
    for name, text in FAKES.items():
        fake = directory / "usr/local/bin" / name
        record = "" if name == "uname" else RECORD
        fake.write_text(f"#!/bin/sh\n{record}{text}")
        fake.chmod(0o755)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, seconds=20):
    """Waits for an event: `what()` true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


class Host:
    """`tell(machine=..., active="")` sets what the stand-ins answer, `asked()` is what they were asked."""

    def __init__(self, directory):
        self.directory = directory
        self.keys = directory.parent / "keys"
        self.sshd = None
        self.lost = []
        self.tell(machine=MACHINE, architecture=ARCH, pid="0")

    def tell(self, **facts):
        for name, text in facts.items():
            (self.directory / "fake" / name.replace("_", "-")).write_text(f"{text}\n")

    def forget(self, *facts):
        for name in facts:
            (self.directory / "fake" / name).unlink()

    def knows(self, fact):
        return (self.directory / "fake" / fact).exists()

    def stand_in(self, tool, body):
        program = self.directory / "usr/local/bin" / tool
        program.write_text(f"#!/bin/sh\n{body}")
        program.chmod(0o755)

    def without(self, tool):
        (self.directory / "usr/local/bin" / tool).unlink()

    def asked(self, *tools):
        log = self.directory / "fake/asked"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if not tools or line.split()[0] in tools]

    def acted(self):
        """Only what changes something: no questions."""
        questions = ("show", "is-active", "status", "--print-architecture")
        return [line for line in self.asked() if line.split()[1:2] not in [[word] for word in questions]]

    def left_in_tmp(self):
        return sorted(path.name for path in (self.directory / "tmp").iterdir())

    def run(self, *command, user="0"):
        """On the host itself, without ssh."""
        return subprocess.run(
            [CHROOT, f"--userspec={user}:{user}", self.directory, *command],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    # The way in

    def listen(self):
        """Starts its sshd, with keys of its own; returns what `scripts/deploy` needs to get in."""
        self.keys.mkdir()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.keys / key], check=True)
        port = free_port()
        entry = self.keys / "entry"
        entry.write_text(
            "#!/bin/bash\n"
            f'printf "%s\\n" "$SSH_ORIGINAL_COMMAND" >>{self.keys}/commands\n'
            "cd /\n"
            "exec env -i PATH=/usr/local/bin:/usr/bin:/bin LC_ALL=C "
            f'{CHROOT} {self.directory} /bin/bash -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        entry.chmod(0o755)
        (self.keys / "known").write_text(f"[127.0.0.1]:{port} {(self.keys / 'host.pub').read_text()}")
        (self.keys / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.keys}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.keys}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nForceCommand {entry}\n"
        )
        pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.keys / "log").open("w") as log:
            self.sshd = subprocess.Popen(
                [
                    shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin"),
                    "-D",
                    "-e",
                    "-f",
                    self.keys / "sshd_config",
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until(lambda: "Server listening" in self.log() or self.sshd.poll() is not None)
        assert self.sshd.poll() is None, self.log()
        options = {
            "Port": port,
            "IdentityFile": self.keys / "user",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "UserKnownHostsFile": self.keys / "known",
            "StrictHostKeyChecking": "yes",
        }
        words = ["root@127.0.0.1"]
        for name, value in options.items():
            words += ["--ssh-option", f"{name}={value}"]
        return words

    def log(self):
        return (self.keys / "log").read_text()

    def commands(self):
        """What came over ssh, one entry for each command."""
        file = self.keys / "commands"
        return file.read_text() if file.exists() else ""

    def connections(self):
        return self.log().count("Accepted publickey")

    def _sessions(self):
        """The processes of sshd that serve a connection, the innermost first."""
        told = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
        table = [line.split(None, 2) for line in told.splitlines()]
        found, parents = [], {str(self.sshd.pid)}
        while parents:
            new = [pid for pid, parent, name in table if parent in parents and name.startswith("sshd")]
            found += new
            parents = set(new)
        return [int(pid) for pid in reversed(found)]

    def processes(self, words):
        """Those on the host with these words in their command."""
        told = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        found = [int(line.split()[0]) for line in told.splitlines() if words in line]
        return [pid for pid in found if os.path.realpath(f"/proc/{pid}/root") == str(self.directory)]

    def lose(self, number):
        """The host goes away: no new connections, and the one there is gets SIGKILL (cut off) or SIGSTOP (silence)."""
        sessions = self._sessions()
        assert sessions, "no connection to lose"
        self.sshd.kill()
        self.sshd.wait()
        for pid in sessions:
            os.kill(pid, number)
        self.lost = sessions

    def close(self):
        if self.sshd and self.sshd.poll() is None:
            self.lost = self._sessions()
            self.sshd.kill()
            self.sshd.wait()
        for pid in self.lost:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
