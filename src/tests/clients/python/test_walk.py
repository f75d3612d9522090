"""The life of a client, from login to every way its calls can end."""

import os
import re
import signal
import subprocess
import sys
import time

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hubkit
from hubkit import SMALL_WINDOW, admin, eventually, message, reason, reason_name, refused

# (a) log in, exchange, log out


def test_logout_ends_every_stream_of_the_session_and_closes_its_channel(hub):
    before = hub.held()
    channel = hub.channel()
    states = []
    channel.subscribe(states.append)
    alice = hub.session("alice", "laptop", channel)
    streams = [alice.connect(), alice.live("room/a"), alice.live("room/a", "user/alice")]
    streams[0].subscribe("room/a")
    streams[0].publish("room/a", b"hello", message_id="m1")
    for stream in streams:
        assert [e.payload for e in stream.until_events(1)] == [b"hello"]
    assert len(hub.streams(alice.id)) == 3
    eventually("the watcher to see the channel", lambda: states[-1:] == [grpc.ChannelConnectivity.READY])

    assert alice.logout().streams_ended == 3

    for stream in streams:
        ending = stream.until_ended().expect(StatusCode.CANCELLED, "SESSION_LOGGED_OUT")
        assert ending.info.metadata["session"] == alice.id
        assert ending.info.metadata["last_sequence"] == "1"
        assert ending.retry is None
    ids = {stream.ending.info.metadata["stream"] for stream in streams}
    assert len(ids) == 3 and all(i.startswith("stream/") for i in ids)
    eventually("the connection to be gone", lambda: hub.sockets() == before["sockets"])
    eventually("the client to see its channel closed", lambda: states[-1:] == [grpc.ChannelConnectivity.IDLE])
    eventually("everything to be given back", lambda: hub.held() == before)

    ended = [e for e in hub.ended_streams(alice.id)]
    assert {e.id for e in ended} == ids
    for end in ended:
        assert (reason_name(end.reason), end.asked_by, end.last_sequence) == ("SESSION_LOGGED_OUT", "client", 1)
        assert (end.user, end.client_name, end.events_delivered) == ("alice", "laptop", 1)
    assert reason_name(hub.ended_session(alice.id).reason) == "SESSION_LOGGED_OUT"


def test_logout_delivers_what_was_accepted_before_it(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    stream = bob.live("room/a")
    sent = [alice.publish("room/a", b"%d" % n).sequence for n in range(50)]
    bob.logout()
    stream.until_ended().expect(StatusCode.CANCELLED, "SESSION_LOGGED_OUT")
    assert stream.sequences() == sent


def test_logout_over_one_connection_ends_streams_on_the_others(hub):
    first, second = hub.channel(), hub.channel()
    alice = hub.session("alice", channel=first)
    here = alice.live("room/a")
    there = hubkit.message_grpc.MessageServiceStub(second).Subscribe(
        message.SubscribeRequest(subscriptions=[message.Subscription(topic="room/a")]), metadata=alice.metadata
    )
    there = hubkit.Stream(there)
    there.until_subscribed("room/a")
    assert len(hub.sessions()[0].connection_ids) == 2
    assert alice.logout().streams_ended == 2
    for stream in (here, there):
        stream.until_ended().expect(StatusCode.CANCELLED, "SESSION_LOGGED_OUT")
    eventually("both connections to be gone", lambda: hub.sockets() == 0)


def test_logout_keeps_a_channel_that_carries_another_session(hub):
    shared = hub.channel()
    states = []
    shared.subscribe(states.append)
    alice, bob = hub.session("alice", channel=shared), hub.session("bob", channel=shared)
    leaves, stays = alice.live("room/a"), bob.live("room/a")
    eventually("the watcher to see the channel", lambda: states[-1:] == [grpc.ChannelConnectivity.READY])
    assert alice.logout().streams_ended == 1
    leaves.until_ended().expect(StatusCode.CANCELLED, "SESSION_LOGGED_OUT")
    sent = [bob.publish("room/a", b"x").sequence for _ in range(20)]
    stays.until_events(20)
    assert stays.sequences() == sent
    time.sleep(1)  # a GOAWAY on its way would have come
    assert stays.ending is None
    assert hub.sockets() == 1
    assert states[-1] == grpc.ChannelConnectivity.READY
    assert bob.logout().streams_ended == 1
    eventually("the last one to close the door", lambda: hub.sockets() == 0)


def test_token_is_worthless_after_logout(hub):
    alice = hub.session("alice")
    alice.logout()
    for ending in (
        refused(alice.heartbeat),
        refused(alice.logout),
        refused(alice.publish, "room/a"),
        alice.subscribe("room/a").until_ended(),
        alice.connect().until_ended(),
    ):
        ending.expect(StatusCode.UNAUTHENTICATED, "SESSION_LOGGED_OUT")
        assert ending.info.metadata["session"] == alice.id
        assert ending.text.endswith("do not log in again")


def test_in_band_logout_ends_its_own_stream_with_ok_and_the_others_with_the_reason(hub):
    alice = hub.session("alice")
    asks, other = alice.connect(), alice.live("room/a")
    asks.subscribe("room/a")
    asks.publish("room/a", b"last words", message_id="m")
    asks.send(logout=message.Logout())
    assert asks.until_ended().code == StatusCode.OK
    assert [r.message_id for r in asks.receipts()] == ["m"]
    assert [e.payload for e in asks.events()] == [b"last words"]
    other.until_ended().expect(StatusCode.CANCELLED, "SESSION_LOGGED_OUT")
    reasons = eventually("both ends on record", lambda: (e := hub.ended_streams(alice.id)) and len(e) == 2 and e)
    assert {reason_name(e.reason) for e in reasons} == {"COMPLETED", "SESSION_LOGGED_OUT"}
    assert reason_name(hub.ended_session(alice.id).reason) == "SESSION_LOGGED_OUT"
    eventually("the connection to be closed", lambda: hub.sockets() == 0)


# (b) the client cancels


@pytest.mark.parametrize("rpc", ["Subscribe", "Connect"])
def test_cancelled_call_is_recorded_as_cancelled_by_the_client(hub, rpc):
    alice = hub.session("alice")
    if rpc == "Subscribe":
        stream = alice.live("room/a")
    else:
        stream = alice.connect()
        stream.subscribe("room/a")
    alice.publish("room/a", b"seen")
    stream.until_events(1)
    time.sleep(0.5)
    stream.cancel()
    assert stream.until_ended().code == StatusCode.CANCELLED
    end = hub.ended_stream(alice.id)
    assert reason_name(end.reason) == "CLIENT_CANCELLED"
    assert (end.asked_by, end.rpc, end.events_delivered, end.last_sequence) == ("client", rpc, 1, 1)
    assert end.started_at.ToNanoseconds() < end.ended_at.ToNanoseconds()
    assert hub.streams() == []
    alice.heartbeat()  # the session itself goes on
    assert alice.live("room/a").ending is None


def test_half_close_ends_with_ok_after_everything_is_delivered(hub):
    alice = hub.session("alice")
    stream = alice.connect()
    stream.subscribe("room/a")
    for n in range(100):
        stream.publish("room/a", b"%d" % n, message_id=str(n))
    stream.half_close()
    assert stream.until_ended().code == StatusCode.OK
    assert [r.message_id for r in stream.receipts()] == [str(n) for n in range(100)]
    assert [e.payload for e in stream.events()] == [b"%d" % n for n in range(100)]
    assert reason_name(hub.ended_stream(alice.id).reason) == "COMPLETED"


def test_closed_channel_is_recorded_and_the_session_lives_on(hub):
    gone, other = hub.channel(), hub.channel()
    alice = hub.session("alice", channel=gone)
    stream = alice.live("room/a")
    gone.close()
    assert stream.until_ended().code == StatusCode.CANCELLED
    end = hub.ended_stream(alice.id)
    assert reason_name(end.reason) in ("CLIENT_CANCELLED", "CONNECTION_LOST")
    assert [s.id for s in hub.sessions()] == [alice.id]
    calls = hubkit.session_grpc.SessionServiceStub(other)
    calls.Heartbeat(hubkit.session.HeartbeatRequest(), metadata=alice.metadata, timeout=5)


FOLLOWER = """
import sys, grpc
target, token = sys.argv[1:]
from streamward.v1 import message_pb2, message_pb2_grpc
stub = message_pb2_grpc.MessageServiceStub(grpc.insecure_channel(target))
request = message_pb2.SubscribeRequest(subscriptions=[message_pb2.Subscription(topic="room/a")])
for frame in stub.Subscribe(request, metadata=[("authorization", "Bearer " + token)]):
    print(len(frame.events), flush=True)
"""


def test_killed_client_is_a_lost_connection_and_its_session_can_be_resumed(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    command = [sys.executable, "-c", FOLLOWER, hub.target, alice.login.token]
    environment = {**os.environ, "PYTHONPATH": hubkit.STUBS.name}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as follower:
        try:
            assert follower.stdout.readline() == b"0\n"  # Subscribed
            bob.publish("room/a", b"seen")
            assert follower.stdout.readline() == b"1\n"
        finally:
            follower.kill()
    end = hub.ended_stream(alice.id)
    assert (reason_name(end.reason), end.last_sequence) == ("CONNECTION_LOST", 1)
    missed = [bob.publish("room/a", b"missed").sequence for _ in range(3)]
    position = message.Position(epoch=hub.status().epoch, sequence=end.last_sequence)
    stream = alice.live(message.Subscription(topic="room/a", after=position))
    stream.until_events(3)
    assert stream.sequences() == missed


# (c) deadlines


def test_tiny_deadline_of_a_unary_call_is_deadline_exceeded(hub):
    alice = hub.session("alice")
    ending = refused(alice.publish, "room/a", b"late", timeout=-1)
    assert ending.code == StatusCode.DEADLINE_EXCEEDED
    alice.heartbeat()
    assert alice.publish("room/a", b"in time").sequence >= 1


@pytest.mark.parametrize("rpc", ["Subscribe", "Connect"])
def test_deadline_of_a_stream_is_announced_then_kept(hub, rpc):
    alice = hub.session("alice")
    began = time.monotonic()
    stream = alice.subscribe("room/a", timeout=3) if rpc == "Subscribe" else alice.connect(timeout=3)
    if rpc == "Connect":
        stream.subscribe("room/a")
    else:
        stream.until_subscribed("room/a")
    left = hub.streams(alice.id)[0].deadline_left.ToMilliseconds()
    assert 0 < left <= 3100  # C-core rounds a timeout up by as much as a hundredth
    alice.publish("room/a", b"before the end")
    ending = stream.until_ended()
    assert ending.code == StatusCode.DEADLINE_EXCEEDED
    assert 2.9 <= ending.at - began <= 4.5
    assert len(stream.events()) == 1
    (near,) = stream.notices("deadline_near")
    assert 800 <= near.remaining.ToMilliseconds() <= 1000
    assert 1.8 <= stream.noticed_at("deadline_near") - began <= 2.8
    end = hub.ended_stream(alice.id)
    assert reason_name(end.reason) == "DEADLINE_EXCEEDED"
    assert end.rpc == rpc


def test_stream_without_a_deadline_has_none(hub):
    alice = hub.session("alice")
    alice.live("room/a")
    assert not hub.streams(alice.id)[0].HasField("deadline_left")


# (d) the server ends a call and says why; (e) and keeps a record of it


@pytest.mark.parametrize(
    "topic",
    ["", "/", "room", "room/", "/room/a", "room//a", "room/a b", "other/a", "room/ä", "room/" + "x" * 251, "room/\x00"],
)
def test_bad_topic_is_an_invalid_argument(hub, topic):
    alice = hub.session("alice")
    ending = refused(alice.publish, topic, b"x").expect(StatusCode.INVALID_ARGUMENT)
    assert ending.info.domain == "streamward" and ending.text
    ending = alice.subscribe(topic).until_ended().expect(StatusCode.INVALID_ARGUMENT)
    assert ending.info.domain == "streamward" and ending.text

    stream = alice.connect()
    stream.publish(topic, b"x", message_id="bad")
    (receipt,) = stream.until("a receipt", lambda s: s.receipts())
    assert (receipt.message_id, receipt.error.code, receipt.HasField("position")) == ("bad", 3, False)
    stream.send(subscribe=message.Subscription(topic=topic))
    (notice,) = stream.until("a refusal", lambda s: s.notices("refused"))
    assert notice.error.code == 3
    assert notice.topic == topic[:255]  # as much of it as a topic can have
    stream.publish("room/a", b"x", message_id="good")  # and the stream goes on
    stream.until("the second receipt", lambda s: len(s.receipts()) == 2)
    assert stream.receipts()[1].position.sequence == 1
    assert hub.status().last_sequence == 1


def test_longest_topic_is_accepted(hub):
    alice = hub.session("alice")
    topic = "room/" + "x" * 250
    stream = alice.live(topic)
    alice.publish(topic, b"x")
    assert stream.until_events(1)[0].topic == topic


def test_what_is_not_a_frame_ends_the_stream_as_invalid(hub):
    alice = hub.session("alice")
    connect = hub.session("bob", channel=alice.channel)  # a bystander on the same connection
    bystander = connect.live("room/a")
    raw = alice.channel.stream_stream(
        "/streamward.v1.MessageService/Connect",
        request_serializer=lambda b: b,
        response_deserializer=message.ServerFrame.FromString,
    )
    stream = hubkit.Stream(raw(iter([b"\xff\xff\xff\xff"]), metadata=alice.metadata))
    stream.until_ended().expect(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert reason_name(hub.ended_stream(alice.id).reason) == "INVALID_REQUEST"
    connect.publish("room/a", b"x")
    bystander.until_events(1)


def test_cancelled_stream_carries_the_administrators_note(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    victim, sibling, other = alice.live("room/a"), alice.live("room/a"), bob.live("room/a")
    alice.publish("room/a", b"x")
    for stream in (victim, sibling, other):
        stream.until_events(1)
    ids = {s.id for s in hub.streams(alice.id)}
    first = min(ids, key=lambda i: int(i.split("/")[1]))  # opened first: the victim

    answer = hub.admin.CancelStream(admin.CancelRequest(id=first, note="go home – now"), timeout=5)

    assert (answer.streams_ended, answer.sessions_ended, answer.others_untouched) == (1, 0, 2)
    ending = victim.until_ended().expect(StatusCode.CANCELLED, "ADMIN_CANCELLED")
    assert ending.text == "go home – now"
    assert dict(ending.info.metadata).items() >= {"session": alice.id, "stream": first, "last_sequence": "1"}.items()
    end = hub.ended_stream(alice.id)
    assert (end.id, reason_name(end.reason), end.note) == (first, "ADMIN_CANCELLED", "go home – now")
    assert end.asked_by.startswith("admin uid=")
    assert end.last_sequence == 1
    sent = alice.publish("room/a", b"y").sequence
    for stream in (sibling, other):
        assert stream.until_events(2)[1].sequence == sent


def test_cancelled_session_ends_all_its_streams_and_no_others(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    mine = [alice.live("room/a") for _ in range(3)]
    theirs = [bob.live("room/a") for _ in range(2)]
    answer = hub.admin.CancelSession(admin.CancelRequest(id=alice.id, note="maintenance"), timeout=5)
    assert (answer.streams_ended, answer.sessions_ended, answer.others_untouched) == (3, 1, 2)
    for stream in mine:
        ending = stream.until_ended().expect(StatusCode.CANCELLED, "ADMIN_CANCELLED")
        assert ending.text == "maintenance"
    after = refused(alice.heartbeat).expect(StatusCode.UNAUTHENTICATED, "ADMIN_CANCELLED")
    assert "maintenance" in after.text
    end = hub.ended_session(alice.id)
    assert (reason_name(end.reason), end.note, end.session_id) == ("ADMIN_CANCELLED", "maintenance", alice.id)
    bob.publish("room/a", b"x")
    for stream in theirs:
        stream.until_events(1)


def test_session_quota_refuses_the_next_login_and_names_the_limit(start):
    hub = start(limits_sessions_per_user_max=2)
    channel = hub.channel()
    first, _ = hub.session("alice", channel=channel), hub.session("alice", channel=channel)
    ending = refused(hub.session, "alice", channel=channel).expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    (violation,) = ending.quota.violations
    assert "sessions_per_user_max" in violation.subject + violation.description
    hub.session("bob", channel=channel)
    hub.session("bob", "phone", channel=channel)
    hub.session("bob", "phone", channel=channel)  # a takeover makes its own room
    first.logout()
    hub.session("alice")


def test_stream_quota_ends_only_the_stream_too_many(start):
    hub = start(limits_streams_per_session_max=2)
    alice = hub.session("alice")
    kept = [alice.live("room/a"), alice.live("room/a")]
    ending = alice.subscribe("room/a").until_ended().expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert "streams_per_session_max" in str(ending.quota)
    alice.publish("room/a", b"x")
    for stream in kept:
        stream.until_events(1)
    kept[0].cancel()
    eventually("the stream to be gone", lambda: len(hub.streams()) == 1)
    alice.live("room/a")


def test_lease_that_runs_out_ends_the_session_and_says_so(start):
    hub = start(limits_lease="2s", limits_heartbeat_interval="500ms")
    alice, bob = hub.session("alice"), hub.session("bob")
    silent, kept = alice.live("room/a"), bob.live("room/a")
    end = time.monotonic() + 4
    while time.monotonic() < end:
        bob.heartbeat()
        time.sleep(0.3)
    ending = silent.until_ended().expect(StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED")
    assert ending.info.metadata["session"] == alice.id
    assert kept.ending is None
    refused(alice.heartbeat).expect(StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED")
    assert reason_name(hub.ended_session(alice.id).reason) == "SESSION_EXPIRED"
    assert [s.id for s in hub.sessions()] == [bob.id]


def test_in_band_heartbeat_is_answered_and_renews_the_lease(start):
    hub = start(limits_lease="2s", limits_heartbeat_interval="500ms")
    alice = hub.session("alice")
    stream = alice.connect()
    for n in range(10):
        stream.send(heartbeat=message.Heartbeat())
        stream.until("an answer", lambda s, n=n: len(s.notices("heartbeat_ack")) == n + 1)
        time.sleep(0.3)
    assert stream.ending is None
    assert abs(stream.notices("heartbeat_ack")[-1].server_time.ToSeconds() - time.time()) < 10


# Takeover


def test_same_client_name_takes_the_session_over(hub):
    first = hub.session("alice", "laptop")
    assert not first.login.HasField("previous_end")
    other = hub.session("alice", "phone")
    old, kept = [first.live("room/a"), first.connect()], other.live("room/a")

    second = hub.session("alice", "laptop")

    for stream in old:
        ending = stream.until_ended().expect(StatusCode.ABORTED, "SESSION_TAKEN_OVER")
        assert ending.info.metadata["session"] == first.id
        assert ending.retry is None
    previous = second.login.previous_end
    assert (previous.id, previous.kind, reason_name(previous.reason)) == (
        first.id,
        reason.SESSION,
        "SESSION_TAKEN_OVER",
    )
    assert second.id != first.id
    # A call of its own tells a client that had no stream: logging in again would only take the session back.
    after = refused(first.heartbeat).expect(StatusCode.UNAUTHENTICATED, "SESSION_TAKEN_OVER")
    assert after.info.metadata["session"] == first.id
    assert after.text.endswith("do not log in again")
    second.publish("room/a", b"x")
    kept.until_events(1)
    assert {s.id for s in hub.sessions()} == {second.id, other.id}


def test_previous_end_tells_of_a_proper_logout_too(hub):
    first = hub.session("alice", "laptop")
    first.logout()
    previous = hub.session("alice", "laptop").login.previous_end
    assert (previous.id, reason_name(previous.reason)) == (first.id, "SESSION_LOGGED_OUT")
    assert not hub.session("alice").login.HasField("previous_end")
    assert not hub.session("bob", "laptop").login.HasField("previous_end")


# (f) SIGTERM


def test_sigterm_tells_every_client_ends_every_stream_with_its_slot_and_exits_clean(hub):
    sender = hub.session("sender")
    sessions = [hub.session(f"user{n}") for n in range(20)]
    streams = []
    for n, owner in enumerate(sessions):
        if n % 2:
            streams.append(owner.live("room/a"))
        else:
            streams.append(owner.connect())
            streams[-1].subscribe("room/a")
    watch = health_pb2_grpc.HealthStub(hub.channel()).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    sent = [sender.publish("room/a", b"%d" % n).sequence for n in range(100)]

    hub.terminate()

    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as error:
        next(watch)
    assert error.value.code() == StatusCode.UNAVAILABLE
    delays = set()
    for stream in streams:
        ending = stream.until_ended(timeout=30).expect(StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        (notice,) = stream.notices("draining")
        assert stream.noticed_at("draining") <= ending.at
        assert notice.retry_after.ToMilliseconds() > 0
        assert ending.retry.retry_delay.ToMilliseconds() > 0
        assert int(ending.trailers["grpc-retry-pushback-ms"]) > 0
        delays.add(ending.retry.retry_delay.ToMilliseconds())
        assert stream.sequences() == sent  # what was accepted is delivered first
        assert ending.info.metadata["last_sequence"] == str(sent[-1])
    assert len(delays) > 10, f"reconnects would stampede: {sorted(delays)}"
    assert hub.exit_code() == 0


def drains_until_read(hub):
    """A drain that has to wait: for a subscriber with a small window that nobody reads. Returns its call and what it is owed."""
    alice, bob = hub.session("alice"), hub.session("bob", channel=hub.channel(SMALL_WINDOW))
    call = bob.subscribe_call("room/a")
    eventually("the subscription", lambda: hub.streams(bob.id))
    sent = [alice.publish("room/a", bytes(8000)).sequence for _ in range(20)]
    hub.terminate()
    eventually("the drain", lambda: hub.status().phase == admin.DRAINING)
    return call, sent


def test_drain_waits_for_what_was_accepted_to_be_delivered(hub):
    call, sent = drains_until_read(hub)
    time.sleep(2)
    assert hub.process.poll() is None
    stream = hubkit.Stream(call)
    stream.until_ended(timeout=30).expect(StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert stream.sequences() == sent
    assert stream.notices("draining")
    assert hub.exit_code() == 0


def test_drain_takes_nothing_new_and_says_when_to_come_back(hub):
    carol = hub.session("carol")
    watch = carol.live("room/b")
    call, _ = drains_until_read(hub)
    health = health_pb2_grpc.HealthStub(carol.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.until_ended().expect(StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    for ending in (
        refused(carol.publish, "room/a", b"late"),
        refused(hub.session, "dave", channel=carol.channel),
        carol.subscribe("room/a").until_ended(),
    ):
        ending.expect(StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert ending.retry.retry_delay.ToMilliseconds() > 0
    refused(hub.session, "eve").expect(StatusCode.UNAVAILABLE)  # on a connection of its own
    call.cancel()
    assert hub.exit_code() == 0


def test_drain_by_the_administrator_is_the_same_stop(hub):
    alice = hub.session("alice")
    stream = alice.live("room/a")
    answer = hub.admin.Drain(admin.DrainRequest(note="new version"), timeout=5)
    assert (answer.streams, answer.sessions) == (1, 1)
    assert answer.drain_timeout.ToSeconds() == 20
    stream.until_ended(timeout=30).expect(StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert stream.notices("draining")
    assert hub.exit_code() == 0


def test_idle_server_stops_at_once(hub):
    hub.session("alice")
    began = time.monotonic()
    hub.terminate()
    assert hub.exit_code() == 0
    assert time.monotonic() - began < 5


CUT = r"cut before it had everything: stream/\d+"  # an ERROR: for a human to look at


def test_second_signal_cuts_what_is_left(hub):
    call, _ = drains_until_read(hub)
    time.sleep(1)
    assert hub.process.poll() is None, "the drain was over before the second signal"
    hub.expected = CUT
    hub.process.send_signal(signal.SIGINT)
    assert hub.exit_code(10) != 0
    assert re.search(CUT, hub.log())
    stream = hubkit.Stream(call)
    assert stream.until_ended().code == StatusCode.UNAVAILABLE


def test_drain_that_takes_too_long_is_cut_and_told_by_the_exit_code(start):
    hub = start(shutdown_drain_timeout="2s")
    call, _ = drains_until_read(hub)
    hub.expected = CUT
    assert hub.exit_code(15) != 0
    assert re.search(CUT, hub.log())
    assert hubkit.Stream(call).until_ended().code == StatusCode.UNAVAILABLE


# (g) SIGKILL


def test_sigkill_is_unavailable_for_every_client_at_once(hub):
    streams = [hub.session(f"user{n}").live("room/a") for n in range(20)]
    hub.process.kill()
    began = time.monotonic()
    for stream in streams:
        ending = stream.until_ended(timeout=5)
        assert ending.code == StatusCode.UNAVAILABLE
        assert ending.info is None  # nobody was left to say why
    assert time.monotonic() - began < 2
