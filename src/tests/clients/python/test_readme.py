"""The README's Python program, taken out of the README, does what the README says."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading

import grpc
import pytest

from hubkit import PATIENCE, ROOT, SMALL_WINDOW, STUBS, admin, eventually, message, reason


def program():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "the README holds one Python program"
    return blocks[0]


@pytest.fixture
def client_file(tmp_path):
    file = tmp_path / "client.py"
    file.write_text(program())
    return file


@pytest.fixture
def client(client_file):
    """The program as a module: its patterns can be called."""
    spec = importlib.util.spec_from_file_location("readme_client", client_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Program:
    """The program as its user runs it."""

    def __init__(self, file, target):
        self.output = ""
        environment = {**os.environ, "PYTHONPATH": STUBS.name, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(file), target],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            # A shell's background job ignores Ctrl-C, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    def until(self, pattern, timeout=PATIENCE):
        try:
            return eventually(pattern, lambda: re.search(pattern, self.output, re.MULTILINE), timeout)
        except AssertionError:
            raise AssertionError(f"not printed: {pattern}\n{self.output}") from None

    def left(self):
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def cancel(hub, session, note=""):
    hub.admin.CancelSession(admin.CancelRequest(id=session.id, note=note), timeout=PATIENCE)


def following(hub):
    """The one session called resume, once its stream is live."""
    live = [s for s in hub.sessions() if s.client_name == "resume" and hub.streams(s.id)]
    return live[0] if len(live) == 1 else None


class Resuming:
    """`resume` of the program in a thread."""

    def __init__(self, client, hub, topic="room/kitchen", outbox=(), handle=None):
        self.events, self.why = [], None

        def handled(event):
            self.events.append((event.sequence, event.payload.decode()))
            if handle:
                handle(event)

        def run():
            with grpc.insecure_channel(hub.target, client.OPTIONS) as channel:
                self.why = client.resume(channel, topic, handled, list(outbox))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def ended(self, timeout=PATIENCE):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"still following; had {self.events}"
        return self.why


def test_every_pattern_prints_what_it_shows_and_leaves_nothing_behind(hub, client_file):
    with Program(client_file, hub.target) as shown:
        shown.until(r"^  #\d+ hello again$")
        session = eventually("it follows", lambda: following(hub))
        cancel(hub, session, "please stop")
        assert shown.left() == 0
    for pattern in (
        r"^  room/kitchen #1 alice: hello\nbasic: had what it wanted$",
        r"^deadline: DEADLINE_EXCEEDED \(",
        r"^own timer: CANCELLED \(not by the hub\)",
        r"^session lives: 2$",
        r"^one: CANCELLED \(not by the hub\).*\n  room/attic #3 alice: the others go on\nall:(\n  CANCELLED .*){3}$",
        r"^  room/door #4 alice: open\n  room/door #5 alice: closed\nmatched: had what it wanted$",
        r"^  room/alarm #7 alice: fire$",
        r"^alarmed: CANCELLED \(not by the hub\)",
        r"^  #1 hello\n  #2 still here\n  #8 hello again$",
        r"^resume: ADMIN_CANCELLED: please stop$",
    ):
        assert re.search(pattern, shown.output, re.MULTILINE), f"{pattern}\n{shown.output}"
    assert "open again" not in shown.output
    assert hub.sessions() == [] and hub.streams() == []
    # Logging out after a cancelled session finds nothing to end; the others left by themselves.
    ended = {e.client_name: e.reason for e in hub.ended() if e.id.startswith("session/")}
    assert set(ended) == {"basic", "timeout", "many", "conditional", "resume"}


SOON = {"shutdown_retry_after": "1s"}


def test_the_client_survives_a_killed_hub_and_a_drained_one(start, client_file):
    first = start()
    with Program(client_file, first.target) as shown:
        shown.until(r"^  #\d+ hello again$")
        first.process.kill()
        first.process.wait()
        second = start(listen=first.target, **SOON)
        shown.until(r"^  EPOCH_CHANGED #1 to #0$")
        second.session("bob").publish("room/kitchen", b"after the kill")
        shown.until(r"^  #1 after the kill$")
        second.terminate()
        shown.until(r"^  SERVER_DRAINING; back in [12]\.\d s$")
        assert second.exit_code() == 0
        third = start(listen=first.target)
        eventually("it follows once more", lambda: following(third))
        third.session("bob").publish("room/kitchen", b"after the drain")
        shown.until(r"^  #1 after the drain$")


def test_what_got_no_receipt_is_sent_when_the_hub_is_there(start, client):
    gone = start()
    gone.process.kill()
    gone.process.wait()
    resuming = Resuming(client, gone, outbox=[("room/kitchen", text, text) for text in ("one", "two")])
    hub = start(listen=gone.target)
    eventually("both events", lambda: len(resuming.events) == 2)
    assert resuming.events == [(1, "one"), (2, "two")]
    tail = hub.session("bob").subscribe(message.Subscription(topic="room/kitchen", all_retained=True))
    assert [event.message_id for event in tail.until_events(2)] == ["one", "two"]
    cancel(hub, eventually("it follows", lambda: following(hub)))
    assert resuming.ended().startswith("ADMIN_CANCELLED")


def test_a_slow_client_resumes_until_it_has_every_event_once(start, client):
    hub = start(limits_tail_bytes_max="4MiB", limits_stream_window_bytes="16KiB")
    client.OPTIONS = [*client.OPTIONS, *SMALL_WINDOW]
    caught_up = threading.Event()
    resuming = Resuming(client, hub, handle=lambda _: caught_up.wait(PATIENCE))
    session = eventually("it follows", lambda: following(hub))
    bob = hub.session("bob")
    sent = [bob.publish("room/kitchen", b"%d " % n + b"x" * 8000).sequence for n in range(100)]
    eventually("it is too slow", lambda: hub.ended_streams(session.id))
    caught_up.set()
    eventually("every event", lambda: len(resuming.events) >= len(sent))
    assert [sequence for sequence, _ in resuming.events] == sent
    ends = [ended.reason for ended in hub.ended_streams(session.id)]
    assert reason.SLOW_CONSUMER in ends
    cancel(hub, eventually("it follows", lambda: following(hub)))
    assert resuming.ended().startswith("ADMIN_CANCELLED")


def test_who_was_taken_over_stays_away(hub, client):
    resuming = Resuming(client, hub)
    eventually("it follows", lambda: following(hub))
    other = hub.session("alice", "resume")
    assert resuming.ended().startswith("SESSION_TAKEN_OVER")
    assert [session.id for session in hub.sessions()] == [other.id]


def test_the_heartbeats_keep_a_quiet_session(start, client):
    hub = start(limits_lease="2s", limits_heartbeat_interval="500ms")
    resuming = Resuming(client, hub)
    first = eventually("it follows", lambda: following(hub))
    neighbour = hub.session("bob")  # sends no heartbeat
    hub.ended_session(neighbour.id)
    assert following(hub).id == first.id
    cancel(hub, first)
    assert resuming.ended().startswith("ADMIN_CANCELLED")


def test_a_handler_that_fails_leaves_nothing_behind(hub, client):
    with grpc.insecure_channel(hub.target, client.OPTIONS) as channel:
        with pytest.raises(ZeroDivisionError):
            client.resume(channel, "room/kitchen", lambda _: 1 / 0, [("room/kitchen", "x", "x")])
    assert hub.sessions() == [] and hub.streams() == []


def test_control_c_leads_to_the_logout(hub, client_file):
    with Program(client_file, hub.target) as shown:
        shown.until(r"^  #\d+ hello again$")
        shown.process.send_signal(signal.SIGINT)
        assert shown.left() != 0
    assert hub.sessions() == [] and hub.streams() == []
