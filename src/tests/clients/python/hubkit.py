"""What the tests stand on: a server process of their own, sessions, and streams that remember everything they were told."""

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[4]
PROTO = ROOT / "proto"
PATIENCE = 15.0  # seconds anything may take on a busy machine before a test calls it missing


def _generate():
    """Generates the client code from the contract into a directory that leaves with the process."""
    out = tempfile.TemporaryDirectory(prefix="hub-stubs-")
    files = sorted(str(p.relative_to(PROTO)) for p in (PROTO / "streamward").rglob("*.proto"))
    import grpc_tools

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    args = ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={out.name}", f"--grpc_python_out={out.name}"]
    if protoc.main(args + files) != 0:
        raise RuntimeError("the protos do not compile")
    sys.path.insert(0, out.name)
    return out


STUBS = _generate()

from streamward.v1 import admin_pb2 as admin
from streamward.v1 import admin_pb2_grpc as admin_grpc
from streamward.v1 import message_pb2 as message
from streamward.v1 import message_pb2_grpc as message_grpc
from streamward.v1 import reason_pb2 as reason
from streamward.v1 import session_pb2 as session
from streamward.v1 import session_pb2_grpc as session_grpc

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
# 64 KiB per stream in place of C-core's 4 MiB: who stops reading is noticed soon.
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 65535), ("grpc.http2.bdp_probe", 0)]


def eventually(what, check, timeout=PATIENCE):
    """Polls `check` until it is truthy and returns that value."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what} (last: {value!r})")
        time.sleep(0.02)


def reason_name(number):
    return reason.EndReason.Name(number)


class Ending:
    """How a call ended, with the typed details of its status."""

    def __init__(self, call):
        self.code = call.code()
        self.text = call.details()
        self.trailers = dict(call.trailing_metadata() or ())
        self.at = time.monotonic()
        self.info = self.retry = self.quota = None
        try:
            status = rpc_status.from_call(call)  # also checks that code and text agree with the details
        except ValueError:
            # When C-core's own deadline fires while the trailers come in, it hands out their text still escaped.
            status = status_pb2.Status.FromString(self.trailers["grpc-status-details-bin"])
            assert (status.code, status.message) == (self.code.value[0], unquote(self.text))
            assert self.code == grpc.StatusCode.DEADLINE_EXCEEDED
        for detail in status.details if status else ():
            for kind, field in (
                (error_details_pb2.ErrorInfo, "info"),
                (error_details_pb2.RetryInfo, "retry"),
                (error_details_pb2.QuotaFailure, "quota"),
            ):
                if detail.Is(kind.DESCRIPTOR):
                    value = kind()
                    detail.Unpack(value)
                    setattr(self, field, value)

    @property
    def reason(self):
        return self.info.reason if self.info else None

    def expect(self, code, reason=None):
        """Asserts the code and, when given, the reason with our domain."""
        assert self.code == code, f"{self}, expected {code.name}"
        if reason is not None:
            assert self.reason == reason, f"{self}, expected reason {reason}"
            assert self.info.domain == "streamward"
        return self

    def __repr__(self):
        return f"<{self.code.name} {self.reason or 'without ErrorInfo'}: {self.text!r}>"


def refused(function, *args, **kwargs):
    """Calls a unary rpc that must fail and returns its ending."""
    try:
        answer = function(*args, **kwargs)
    except grpc.RpcError as error:
        return Ending(error)
    raise AssertionError(f"should have failed, but answered {answer!r}")


class Stream:
    """A message stream read by a thread of its own, so that nothing it is told goes unnoticed."""

    def __init__(self, call, outgoing=None):
        self.call = call
        self.frames = []  # (monotonic time, ServerFrame)
        self.ending = None
        self._outgoing = outgoing
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for frame in self.call:
                with self._changed:
                    self.frames.append((time.monotonic(), frame))
                    self._changed.notify_all()
        except grpc.RpcError:
            pass  # the ending below says how
        with self._changed:
            self.ending = Ending(self.call)
            self._changed.notify_all()

    def _collect(self, field):
        with self._changed:
            return [item for _, frame in self.frames for item in getattr(frame, field)]

    def events(self, topic=None):
        return [e for e in self._collect("events") if topic in (None, e.topic)]

    def sequences(self, topic=None):
        return [e.sequence for e in self.events(topic)]

    def receipts(self):
        return self._collect("receipts")

    def gaps(self):
        return self._collect("gaps")

    def notices(self, kind):
        return [getattr(n, kind) for n in self._collect("notices") if n.WhichOneof("kind") == kind]

    def noticed_at(self, kind):
        """When the first notice of that kind came."""
        with self._changed:
            for at, frame in self.frames:
                if any(n.WhichOneof("kind") == kind for n in frame.notices):
                    return at
        return None

    def until(self, what, check, timeout=PATIENCE):
        """Waits until `check(self)` is truthy; a stream that ended will not tell more."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                value = check(self)
                if value:
                    return value
                assert self.ending is None, f"the stream ended while waiting for {what}: {self.ending}"
                left = end - time.monotonic()
                assert left > 0, f"not within {timeout} s: {what} (last: {value!r}; frames: {self.frames!r})"
                self._changed.wait(left)

    def until_events(self, count, topic=None):
        self.until(f"{count} events", lambda s: len(s.events(topic)) >= count)
        return self.events(topic)

    def until_subscribed(self, topic):
        return self.until(f"Subscribed to {topic}", lambda s: [n for n in s.notices("subscribed") if n.topic == topic])[
            -1
        ]

    def until_ended(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        with self._changed:
            while self.ending is None:
                left = end - time.monotonic()
                assert left > 0, f"the stream did not end within {timeout} s; frames: {self.frames!r}"
                self._changed.wait(left)
        return self.ending

    # Connect only
    def send(self, **kind):
        self._outgoing.put(message.ClientFrame(**kind))

    def publish(self, topic, payload=b"", message_id="", content_type=""):
        self.send(
            publish=message.Publish(topic=topic, payload=payload, message_id=message_id, content_type=content_type)
        )

    def subscribe(self, topic, **start):
        self.send(subscribe=message.Subscription(topic=topic, **start))
        return self.until_subscribed(topic)

    def half_close(self):
        self._outgoing.put(None)

    def cancel(self):
        self.call.cancel()


class Session:
    """One login, with the calls of its token."""

    def __init__(self, channel, user, client_name=""):
        self.channel = channel
        self.user = user
        self.rpc = session_grpc.SessionServiceStub(channel)
        self.messages = message_grpc.MessageServiceStub(channel)
        self.login = self.rpc.Login(
            session.LoginRequest(user=user, password="secret", client_name=client_name), timeout=PATIENCE
        )
        self.id = self.login.session_id
        self.metadata = [("authorization", f"Bearer {self.login.token}")]

    def heartbeat(self):
        return self.rpc.Heartbeat(session.HeartbeatRequest(), metadata=self.metadata, timeout=PATIENCE)

    def logout(self):
        return self.rpc.Logout(session.LogoutRequest(), metadata=self.metadata, timeout=PATIENCE)

    def publish(self, topic, payload=b"", message_id="", content_type="", timeout=PATIENCE):
        request = message.PublishRequest(topic=topic, payload=payload, message_id=message_id, content_type=content_type)
        return self.messages.Publish(request, metadata=self.metadata, timeout=timeout)

    def subscribe_call(self, *subscriptions, timeout=None):
        """The bare call: nothing reads it."""
        subscriptions = [message.Subscription(topic=s) if isinstance(s, str) else s for s in subscriptions]
        request = message.SubscribeRequest(subscriptions=subscriptions)
        return self.messages.Subscribe(request, metadata=self.metadata, timeout=timeout)

    def subscribe(self, *subscriptions, timeout=None):
        return Stream(self.subscribe_call(*subscriptions, timeout=timeout))

    def live(self, *topics, timeout=None):
        """A Subscribe stream whose subscriptions are known to be live."""
        stream = self.subscribe(*topics, timeout=timeout)
        for topic in topics:
            stream.until_subscribed(topic if isinstance(topic, str) else topic.topic)
        return stream

    def connect(self, timeout=None):
        outgoing = queue.Queue()
        call = self.messages.Connect(iter(outgoing.get, None), metadata=self.metadata, timeout=timeout)
        return Stream(call, outgoing)


class Hub:
    """A server process of one test."""

    def __init__(self, binary, listen="127.0.0.1:0", **settings):
        self.binary = binary
        self.directory = tempfile.mkdtemp(prefix="hub-")
        self.socket = os.path.join(self.directory, "admin.sock")
        self.log_path = os.path.join(self.directory, "log")
        self._channels = contextlib.ExitStack()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAMWARD_")}
        environment.update({f"STREAMWARD_{k.upper()}": str(v) for k, v in settings.items()})
        environment["RUST_LOG"] = os.environ.get("HUB_LOG", "info")
        environment["RUST_BACKTRACE"] = "1"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [binary, "serve", "--listen", listen, "--admin-socket", self.socket],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        try:
            self.port = int(eventually("the server listens", self._listening)[1])
        except AssertionError:
            self.process.kill()
            self.process.wait()
            log = self.log()
            shutil.rmtree(self.directory)
            raise AssertionError(f"the server did not start:\n{log}") from None
        self.target = f"127.0.0.1:{self.port}"
        self.admin_target = f"unix:{self.socket}"
        self._admin = None
        self.expected = None  # a pattern of complaints that the test provokes

    def _listening(self):
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", self.log())
        if not found and self.process.poll() is not None:
            raise AssertionError(f"exit code {self.process.returncode}")
        return found

    def log(self):
        return Path(self.log_path).read_text(errors="replace")

    def complaints(self):
        """What a person would have to look at: a healthy server logs none of it."""
        lines = [line for line in self.log().splitlines() if re.search(r"\bERROR\b|panicked", line)]
        return [line for line in lines if not (self.expected and re.search(self.expected, line))]

    def close(self):
        self._channels.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    # Clients

    def channel(self, options=()):
        """A channel with a connection of its own."""
        return self._channels.enter_context(grpc.insecure_channel(self.target, [*OWN_CONNECTION, *options]))

    def session(self, user, client_name="", channel=None):
        return Session(channel or self.channel(), user, client_name)

    # What the server says of itself

    @property
    def admin_channel(self):
        if self._admin is None:
            # No option for the authority: C-core's own, the escaped path, must do.
            channel = grpc.insecure_channel(self.admin_target, OWN_CONNECTION)
            self._admin = self._channels.enter_context(channel)
        return self._admin

    @property
    def admin(self):
        return admin_grpc.AdminServiceStub(self.admin_channel)

    def status(self):
        return self.admin.GetStatus(admin.GetStatusRequest(), timeout=PATIENCE).status

    def sessions(self):
        return list(self.admin.ListSessions(admin.ListSessionsRequest(page_size=1000), timeout=PATIENCE).sessions)

    def streams(self, session_id=""):
        request = admin.ListStreamsRequest(page_size=1000, session_id=session_id)
        return list(self.admin.ListStreams(request, timeout=PATIENCE).streams)

    def ended(self):
        return list(self.admin.ListEnded(admin.ListEndedRequest(page_size=1000), timeout=PATIENCE).ended)

    def ended_streams(self, session_id):
        return [e for e in self.ended() if e.kind == reason.STREAM and e.session_id == session_id]

    def ended_stream(self, session_id):
        """The one ended stream of that session, once it is on record."""
        found = eventually(f"an ended stream of {session_id}", lambda: self.ended_streams(session_id))
        assert len(found) == 1, found
        return found[0]

    def ended_session(self, session_id):
        found = eventually(
            f"the end of {session_id}",
            lambda: [e for e in self.ended() if e.kind == reason.SESSION and e.id == session_id],
        )
        assert len(found) == 1, found
        return found[0]

    # What the operating system says of it

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def sockets(self):
        """The server's established TCP connections, as the kernel lists them."""
        local = f"0100007F:{self.port:04X}"
        with open("/proc/net/tcp") as table:
            rows = [line.split() for line in table][1:]
        return sum(1 for row in rows if row[1] == local and row[3] == "01")

    def held(self):
        """All that a client could leave behind."""
        status = self.status()
        return {
            "sessions": len(self.sessions()),
            "streams": len(self.streams()),
            "status": (status.connections, status.sessions, status.streams, status.subscriptions),
            "descriptors": self.descriptors(),
            "sockets": self.sockets(),
        }

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, timeout=40):
        return self.process.wait(timeout)
