"""A machine under test: started, spoken to over one line, ended. A script goes in, its output and code come back."""

import base64
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


LINE_BYTES_MAX = 3000


class Lost(AssertionError):
    """The machine did not answer in time, or is gone."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_the_test():
    """A test that is told to end takes its machines along: `finally` runs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def sparse_copy(source, target):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)


def inject(image, files, offset=0):
    """Writes {path in the machine: (local file, mode)} into an ext4 image, as root's, without mounting it."""
    commands = []
    for inside, (local, mode) in files.items():
        parents = [str(parent) for parent in reversed(Path(inside).parents)][1:]
        commands += [f"mkdir {parent}" for parent in parents]  # one that is there stays as it is
        commands += [f"cd {Path(inside).parent}", f"rm {Path(inside).name}", f"write {local} {Path(inside).name}"]
        commands += [f"sif {inside} mode 0100{mode}", f"sif {inside} uid 0", f"sif {inside} gid 0"]
    where = f"{image}?offset={offset}" if offset else str(image)
    script = "\n".join(commands) + "\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", where], input=script, capture_output=True, text=True, check=True
    )
    for inside, (local, _) in files.items():
        seen = subprocess.run(["debugfs", "-R", f"cat {inside}", where], capture_output=True, check=True).stdout
        if seen != Path(local).read_bytes():
            raise SystemExit(f"{inside} was not written into {image} as it should be")


class Machine:
    """What both kinds of machine have in common. `speed` is how many times slower than the host to be patient."""

    def __init__(self, directory, name, patience):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = self.directory / f"{name}.log"
        self.patience = patience
        self.process = None
        self._received = b""
        self._number = 0

    # Of the kind: _start(), _send(bytes), _receive(seconds) -> bytes

    def start(self):
        """Powers it on and returns the seconds until it answered."""
        began = time.monotonic()
        self._start()
        self.wait_until_up(began)
        return time.monotonic() - began

    def wait_until_up(self, began):
        end = began + self.patience
        while True:
            try:
                return self.run("true", 4)
            except Lost:
                pass
            if self.process.poll() is not None:
                raise Lost(f"{self.name} ended with code {self.process.returncode}; its console: {self.log}")
            if time.monotonic() > end:
                raise Lost(f"{self.name} did not come up in {self.patience} s; its console: {self.log}")

    def call(self, script, timeout=None):
        """Runs a bash script as root; returns (exit code, output)."""
        seconds = timeout or self.patience
        self._number += 1
        encoded = base64.b64encode(script.encode()).decode()
        line = f"\n{self._number} {seconds:.0f} {encoded}\n".encode()
        # A line that fills the terminal's 4 KiB is throttled, and User-Mode Linux never lets it go again.
        assert len(line) < LINE_BYTES_MAX, "put a longer script into a file of the image"
        self._send(line)
        answer = re.compile(rb"= %d (\d+) (\S*)\n" % self._number)
        end = time.monotonic() + seconds + 5
        while not (found := answer.search(self._received)):
            left = end - time.monotonic()
            if left <= 0:
                raise Lost(f"{self.name} gave no answer in {seconds} s to: {script}; its console: {self.log}")
            self._received = self._received[-(1 << 22) :] + self._receive(left)
        self._received = self._received[found.end() :]
        return int(found[1]), base64.b64decode(found[2]).decode(errors="replace").strip()

    def run(self, script, timeout=None):
        """The output of a script that must succeed."""
        code, output = self.call(script, timeout)
        if code != 0:
            raise AssertionError(f"`{script.strip()}` ended with {code}: {output}")
        return output

    def until(self, what, script, timeout=None):
        """Repeats a script until it succeeds; returns its output."""
        end = time.monotonic() + (timeout or self.patience)
        while True:
            code, output = self.call(script)
            if code == 0:
                return output
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout or self.patience} s: {what} (last: {output})")
            time.sleep(0.1)

    def reboot(self):
        """A restart asked for inside. The board ends with it and is powered on anew: same disk, same ports."""
        try:
            self.call("systemctl reboot --no-block", 20)
        except Lost:
            pass  # the shell goes before it can answer
        self.process.wait(self.patience)
        self._received = b""
        self.start()

    def power_off(self):
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.call("systemctl poweroff --no-block", 10)
            self.process.wait(30)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Qemu(Machine):
    """An arm64 board in system emulation. `port` on the host's loopback is the service's inside."""

    def __init__(self, directory, name, kernel, disk, board="virt", memory="512", append="", patience=240):
        super().__init__(directory, name, patience)
        self.kernel, self.disk, self.board, self.memory, self.append = Path(kernel), disk, board, memory, append
        self.port = free_port()
        self.link = None

    def _start(self):
        line = self.directory / f"{self.name}.line"
        line.unlink(missing_ok=True)
        forward = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:50051"
        command = [
            "qemu-system-aarch64",
            "-M",
            self.board,
            "-m",
            self.memory,
            "-accel",
            "tcg,thread=multi",
            "-kernel",
            self.kernel / "vmlinuz",
            "-initrd",
            self.kernel / "initrd.gz",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-serial",
            f"file:{self.log}",
            "-netdev",
            forward,
            "-chardev",
            f"socket,id=control,path={line},server=on,wait=off",
        ]
        if self.board == "virt":
            command += [
                "-cpu",
                "cortex-a53",
                "-smp",
                "2",
                "-drive",
                f"file={self.disk},if=none,id=disk,format=raw,cache=unsafe",
                "-device",
                "virtio-blk-device,drive=disk",
                "-device",
                "virtio-net-device,netdev=net",
                "-device",
                "virtio-serial-device",
                "-device",
                "virtserialport,chardev=control,name=control",
            ]
            system = "root=/dev/vda rw console=ttyAMA0 machine.control=/dev/vport0p1"
        else:
            command += [
                "-dtb",
                self.kernel / "bcm2837-rpi-3-b.dtb",
                "-drive",
                f"file={self.disk},if=sd,format=raw,cache=unsafe",
                "-device",
                "usb-net,netdev=net",
                "-serial",
                "chardev:control",
            ]
            # The rest is on the card. Linux finds no other console on this board.
            system = "rw machine.control=/dev/ttyS1 earlycon=pl011,mmio32,0x3f201000 keep_bootcon"
        command += ["-append", f"{system} {self.append}"]
        errors = open(self.directory / f"{self.name}.qemu", "wb")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
        end = time.monotonic() + 20
        while True:
            try:
                self.link = socket.socket(socket.AF_UNIX)
                self.link.connect(str(line))
                return
            except OSError:
                self.link.close()
            if self.process.poll() is not None or time.monotonic() > end:
                raise Lost(f"the emulator did not start: {(self.directory / f'{self.name}.qemu').read_text()}")
            time.sleep(0.05)

    def _send(self, data):
        try:
            self.link.settimeout(5)
            self.link.sendall(data)
        except OSError:
            pass  # no answer will come either

    def _receive(self, seconds):
        self.link.settimeout(max(seconds, 0.01))
        try:
            data = self.link.recv(1 << 16)
        except OSError:
            return b""
        if not data:
            raise Lost(f"{self.name} was powered off; its console: {self.log}")
        return data


class Uml(Machine):
    """User-Mode Linux: the x86-64 machine is a process, without a network."""

    def __init__(self, directory, name, disk, memory="512M", append="", patience=60):
        super().__init__(directory, name, patience)
        self.disk, self.memory, self.append = disk, memory, append

    def _start(self):
        to_read, to_write = os.pipe(), os.pipe()  # the machine reads one and writes the other
        kernel = shutil.which("linux.uml") or shutil.which("linux")
        command = [
            kernel,
            f"mem={self.memory}",
            f"ubd0={self.disk}",
            "root=/dev/ubda",
            "rw",
            "con=null",
            "con0=null,fd:1",
            f"ssl0=fd:{to_read[0]},fd:{to_write[1]}",
            "machine.control=/dev/ttyS0",
            "machine.network=none",
            f"umid={self.name}-{os.getpid()}",
            f"uml_dir={self.directory}/",
            *self.append.split(),
        ]
        console = open(self.log, "wb")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(to_read[0], to_write[1]),
            start_new_session=True,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        self.output, self.input = to_read[1], to_write[0]

    def _send(self, data):
        try:
            os.write(self.output, data)
        except OSError:
            pass  # no answer will come either

    def _receive(self, seconds):
        if not select.select([self.input], [], [], max(seconds, 0.01))[0]:
            return b""
        data = os.read(self.input, 1 << 16)
        if not data:
            raise Lost(f"{self.name} was powered off; its console: {self.log}")
        return data
