"""Every limit refuses or ends no more than it says, names itself, and tells when to come back where that helps."""

import threading
import time

import grpc
import pytest
from grpc import StatusCode

import hubkit
from hubkit import Ending, eventually, message, reason, reason_name, refused


def names(ending, key, value):
    """Asserts that a refusal names that limit and its value."""
    (violation,) = ending.quota.violations
    assert key in violation.subject + violation.description
    assert str(value) in violation.description


def wait_of(ending):
    """Seconds until the client may come back, told twice and alike."""
    delay = ending.retry.retry_delay.ToMilliseconds()
    assert delay > 0
    assert abs(int(ending.trailers["grpc-retry-pushback-ms"]) - delay) <= 1
    return delay / 1000


class Heart:
    """Calls something over and over until it is stopped."""

    def __init__(self, beat, interval):
        self._stopped = threading.Event()
        self.beats, self.error = 0, None

        def run():
            try:
                while not self._stopped.wait(interval):
                    beat()
                    self.beats += 1
            except Exception as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()
        assert self.error is None, self.error


# Idle streams


@pytest.mark.parametrize("rpc", ["Subscribe", "Connect"])
def test_idle_stream_ends_and_its_neighbours_miss_nothing(start, rpc):
    hub = start(limits_stream_idle_timeout="2s", limits_heartbeat_interval="500ms")
    alice, bob, carol = hub.session("alice"), hub.session("bob"), hub.session("carol")
    if rpc == "Subscribe":
        silent = alice.live("room/a")
    else:
        silent = alice.connect()
        silent.subscribe("room/a")
    kept, talks = bob.live("room/a"), carol.connect()
    talks.subscribe("room/a")
    sent = []
    # What a stream is sent says nothing about who is there: only what comes from the client counts.
    with (
        Heart(lambda: sent.append(bob.publish("room/a", b"x").sequence), 0.05),
        Heart(lambda: talks.send(heartbeat=message.Heartbeat()), 0.3),
        Heart(bob.heartbeat, 0.3),
    ):
        ending = silent.until_ended().expect(StatusCode.ABORTED, "IDLE_TIMEOUT")
        after = len(sent)
        eventually("more events than the silent stream has seen", lambda: len(sent) >= after + 20)
        for stream in (kept, talks):
            stream.until_events(after + 20)
            got = stream.sequences()
            assert got == list(range(1, len(got) + 1))
            assert stream.ending is None
    assert ending.info.metadata["session"] == alice.id
    handled = silent.sequences()
    assert ending.info.metadata["last_sequence"] == str(handled[-1])
    end = hub.ended_stream(alice.id)
    assert (reason_name(end.reason), end.asked_by, end.rpc) == ("IDLE_TIMEOUT", "server", rpc)

    position = message.Position(epoch=hub.status().epoch, sequence=handled[-1])
    resumed = alice.live(message.Subscription(topic="room/a", after=position))  # the session itself goes on
    resumed.until_events(len(sent) - len(handled))
    assert handled + resumed.sequences() == sent


def test_quiet_subscriber_that_heartbeats_is_not_idle(start):
    hub = start(limits_stream_idle_timeout="1s", limits_heartbeat_interval="30s")
    alice, bob = hub.session("alice"), hub.session("bob")
    interval = alice.login.policy.heartbeat_interval.ToMilliseconds() / 1000
    assert interval <= 0.5, "the interval the client is told keeps its streams"
    assert alice.login.policy.stream_idle_timeout.ToMilliseconds() == 1000
    streams = [alice.live("room/a"), alice.live("user/alice"), alice.connect()]
    with Heart(alice.heartbeat, interval) as heart:
        eventually("as many heartbeats as five timeouts hold", lambda: heart.beats >= 10)
        assert [stream.ending for stream in streams] == [None] * 3
        bob.publish("room/a", b"still there?")
        streams[0].until_events(1)
    for stream in streams:
        stream.until_ended().expect(StatusCode.ABORTED, "IDLE_TIMEOUT")


# Rates


def test_publish_rate_is_refused_with_the_time_it_takes_to_be_accepted_again(start):
    hub = start(limits_publishes_per_second_max=5)
    alice, bob = hub.session("alice"), hub.session("bob")
    listens = bob.live("room/a")
    sent = []
    with pytest.raises(grpc.RpcError) as error:
        for _ in range(1000):
            sent.append(alice.publish("room/a", b"x").sequence)
    ending = Ending(error.value).expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    names(ending, "limits.publishes_per_second_max", 5)
    wait = wait_of(ending)
    assert wait <= 1
    sent.append(bob.publish("room/a", b"the rate is each session's own").sequence)
    alice.heartbeat()
    time.sleep(wait)
    sent.append(alice.publish("room/a", b"again").sequence)
    listens.until_events(len(sent))
    assert listens.sequences() == sent
    assert hub.status().publishes_refused >= 1


def test_publish_rate_on_a_stream_refuses_the_publish_and_keeps_the_stream(start):
    hub = start(limits_publishes_per_second_max=5)
    stream = hub.session("alice").connect()
    stream.subscribe("room/a")
    for n in range(50):
        stream.publish("room/a", b"x", message_id=str(n))
    stream.until("all receipts", lambda s: len(s.receipts()) == 50)
    receipts = stream.receipts()
    assert [r.message_id for r in receipts] == [str(n) for n in range(50)]
    accepted = [r.position.sequence for r in receipts if not r.HasField("error")]
    assert 5 <= len(accepted) < 50
    codes = {r.error.code for r in receipts if r.HasField("error")}
    assert codes == {StatusCode.RESOURCE_EXHAUSTED.value[0]}
    stream.until_events(len(accepted))
    assert stream.sequences() == accepted
    assert stream.ending is None


def test_stream_open_rate_refuses_the_stream_and_keeps_the_connection(start):
    hub = start(limits_stream_opens_per_second_max=5)
    alice = hub.session("alice")
    kept = alice.live("room/a")
    for _ in range(100):
        stream = alice.connect()
        stream.half_close()
        ending = stream.until_ended()
        if ending.code != StatusCode.OK:
            break
    ending.expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    names(ending, "limits.stream_opens_per_second_max", 5)
    wait = wait_of(ending)
    alice.publish("room/a", b"x")
    kept.until_events(1)
    time.sleep(wait)
    assert alice.live("room/a").ending is None
    assert kept.ending is None


# Places


def test_stream_too_many_on_a_channel_is_refused_and_short_calls_still_pass(hub):
    channel = hub.channel()
    alice, bob = hub.session("alice", channel=channel), hub.session("bob", channel=channel)
    streams = [owner.live("room/a") for owner in (alice, bob) for _ in range(8)]
    ending = bob.subscribe("room/a").until_ended().expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    names(ending, "limits.streams_per_connection_max", 16)
    bob.heartbeat()
    alice.publish("room/a", b"x")
    for stream in streams:
        stream.until_events(1)
        assert stream.ending is None
    assert hub.status().streams_refused == 1
    streams[0].cancel()
    eventually("the stream to be gone", lambda: len(hub.streams()) == 15)
    bob.live("room/a")


def test_connection_too_many_of_an_address_is_told_which_limit_and_when_to_come_back(start):
    hub = start(limits_connections_per_ip_max=2)
    first, second = hub.session("alice"), hub.session("bob")
    stream = second.live("room/a")
    ending = refused(hub.session, "carol").expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    names(ending, "limits.connections_per_ip_max", 2)
    assert 5 <= wait_of(ending) < 10
    first.publish("room/a", b"x")
    stream.until_events(1)
    assert hub.status().connections_refused >= 1
    first.logout()  # closes its connection, too
    eventually("a free place", lambda: hub.sockets() == 1)
    hub.session("carol")


def test_login_above_the_sessions_of_the_server_is_told_when_to_come_back(start):
    hub = start(limits_sessions_max=2, limits_sessions_per_user_max=2)
    first, second = hub.session("alice"), hub.session("bob")
    stream = second.live("room/a")
    ending = refused(hub.session, "carol").expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    names(ending, "limits.sessions_max", 2)
    assert wait_of(ending) > 0
    status = hub.status()
    assert (status.sessions, status.logins, status.logins_refused) == (2, 2, 1)
    first.publish("room/a", b"x")
    stream.until_events(1)
    first.logout()
    hub.session("carol")
    assert reason.SESSION in {e.kind for e in hub.ended()}


def test_what_is_refused_leaves_nothing_behind(start):
    hub = start(limits_sessions_max=2, limits_sessions_per_user_max=2, limits_streams_per_session_max=1)
    channel = hub.channel()
    alice = hub.session("alice", channel=channel)
    hub.session("bob", channel=channel)
    alice.live("room/a")
    before = hub.held()
    for _ in range(20):
        refused(hub.session, "carol", channel=channel).expect(StatusCode.RESOURCE_EXHAUSTED)
        alice.subscribe("room/b").until_ended().expect(StatusCode.RESOURCE_EXHAUSTED)
        refused(alice.publish, "nowhere").expect(StatusCode.INVALID_ARGUMENT)
    assert hub.held() == before
    status = hub.status()
    assert (status.topics, status.logins_refused, status.streams_refused) == (1, 20, 20)
    assert [e for e in hub.ended() if e.kind == hubkit.reason.SESSION] == []
