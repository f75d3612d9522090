"""Publishing, following and resuming; who may do what."""

import time

import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import hubkit
from hubkit import PATIENCE, SMALL_WINDOW, eventually, message, refused, session

# Who one is


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer " + "A" * 2000)],
        [("authorization", "Basic YWxpY2U6eA==")],
        [("token", "whatever")],
    ],
)
def test_call_without_a_good_token_is_unauthenticated(hub, metadata):
    alice = hub.session("alice")
    alice.metadata = metadata
    refused(alice.heartbeat).expect(StatusCode.UNAUTHENTICATED)
    refused(alice.logout).expect(StatusCode.UNAUTHENTICATED)
    refused(alice.publish, "room/a", b"x").expect(StatusCode.UNAUTHENTICATED)
    alice.subscribe("room/a").until_ended().expect(StatusCode.UNAUTHENTICATED)
    alice.connect().until_ended().expect(StatusCode.UNAUTHENTICATED)
    assert len(hub.sessions()) == 1


@pytest.mark.parametrize("user", ["", "a b", "a/b", "ä", "x" * 65, "a\n"])
def test_bad_user_name_is_an_invalid_argument(hub, user):
    refused(hub.session, user).expect(StatusCode.INVALID_ARGUMENT)
    assert hub.sessions() == []


def test_login_tells_the_policy(hub):
    policy = hub.session("alice").login.policy
    assert policy.lease.ToSeconds() == 90
    assert policy.heartbeat_interval.ToSeconds() == 30
    assert policy.stream_idle_timeout.ToSeconds() == 0
    assert (policy.max_streams, policy.max_message_bytes, policy.max_lag_bytes) == (16, 65536, 131072)


def test_sender_is_always_the_user_of_the_session(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    stream = bob.live("room/a")
    alice.publish("room/a", b"unary")
    connect = alice.connect()
    connect.publish("room/a", b"in band")
    stream.until_events(2)
    # A client that writes Event's own `sender` field (3) into its request: it is a message id there.
    forged = message.PublishRequest(topic="room/a", message_id="bob")
    bob.publish("room/a", b"mine")
    alice.messages.Publish(forged, metadata=alice.metadata, timeout=5)
    assert [e.sender for e in stream.until_events(4)] == ["alice", "alice", "bob", "alice"]


def test_inbox_takes_from_anyone_and_gives_only_to_its_owner(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    inbox = bob.live("user/bob")
    alice.publish("user/bob", b"psst")
    (event,) = inbox.until_events(1)
    assert (event.payload, event.sender) == (b"psst", "alice")
    ending = alice.subscribe("user/bob").until_ended().expect(StatusCode.PERMISSION_DENIED)
    assert ending.info.domain == "streamward"
    stream = alice.connect()
    stream.send(subscribe=message.Subscription(topic="user/bob"))
    (notice,) = stream.until("a refusal", lambda s: s.notices("refused"))
    assert (notice.topic, notice.error.code) == ("user/bob", StatusCode.PERMISSION_DENIED.value[0])
    stream.subscribe("user/alice")


# Round trips


def test_unary_publish_reaches_subscribe_and_connect_alike(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    follows, connects = bob.live("room/a"), bob.connect()
    connects.subscribe("room/a")
    payload = bytes(range(256))
    answer = alice.publish("room/a", payload, message_id="id-1", content_type="application/x-any")
    assert answer.sequence == 1
    assert answer.epoch == hub.status().epoch
    for stream in (follows, connects):
        (event,) = stream.until_events(1)
        assert (event.topic, event.sequence, event.sender) == ("room/a", 1, "alice")
        assert (event.payload, event.message_id, event.content_type) == (payload, "id-1", "application/x-any")
        assert abs(event.published_at.ToSeconds() - time.time()) < 10


def test_receipts_come_in_order_and_name_the_positions_of_the_events(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    follower, stream = bob.live("room/a"), alice.connect()
    for n in range(500):
        stream.publish("room/a", b"%d" % n, message_id=str(n))
    stream.until("every receipt", lambda s: len(s.receipts()) == 500)
    receipts = stream.receipts()
    assert [r.message_id for r in receipts] == [str(n) for n in range(500)]
    assert {r.position.epoch for r in receipts} == {hub.status().epoch}
    events = follower.until_events(500)
    assert [e.sequence for e in events] == [r.position.sequence for r in receipts] == list(range(1, 501))
    assert [e.payload for e in events] == [b"%d" % n for n in range(500)]


def test_a_message_id_sent_again_by_its_user_is_one_event_with_one_position(hub):
    alice, bob = hub.session("alice"), hub.session("bob")
    follower, stream = bob.live("room/a"), alice.connect()
    for n in range(20):
        stream.publish("room/a", b"%d" % n, message_id=f"m{n}")
    stream.until("every receipt", lambda s: len(s.receipts()) == 20)
    again = hub.session("alice")  # as after a lost connection: another session of the same user
    resent = again.connect()
    for n in range(20):
        resent.publish("room/a", b"%d" % n, message_id=f"m{n}")
    resent.until("every receipt", lambda s: len(s.receipts()) == 20)
    assert resent.receipts() == stream.receipts()
    assert again.publish("room/a", b"3", message_id="m3").sequence == 4
    assert bob.publish("room/a", b"another's", message_id="m3").sequence == 21
    assert [alice.publish("room/a", b"none").sequence for _ in range(2)] == [22, 23]
    follower.until_events(23)
    assert follower.sequences("room/a") == list(range(1, 24))
    assert hub.status().publishes_duplicate == 21


def test_one_order_over_all_topics(hub):
    alice = hub.session("alice")
    stream = alice.live("room/a", "room/b")
    sent = [(t, alice.publish(t, b"x").sequence) for t in ["room/a", "room/b", "room/b", "room/c", "room/a"]]
    assert [s for _, s in sent] == [1, 2, 3, 4, 5]
    stream.until_events(4)
    assert stream.sequences("room/a") == [1, 5]
    assert stream.sequences("room/b") == [2, 3]


def test_unsubscribe_stops_one_topic_and_leaves_the_others(hub):
    alice = hub.session("alice")
    stream = alice.connect()
    stream.subscribe("room/a")
    stream.subscribe("room/b")
    stream.send(unsubscribe=message.Unsubscribe(topic="room/a"))
    eventually("the unsubscribe", lambda: hub.status().subscriptions == 1)
    alice.publish("room/a", b"not for us")
    alice.publish("room/b", b"for us")
    assert [e.payload for e in stream.until_events(1)] == [b"for us"]
    stream.send(subscribe=message.Subscription(topic="room/a"))
    stream.until("the third Subscribed", lambda s: len(s.notices("subscribed")) == 3)
    alice.publish("room/a", b"again")
    stream.until_events(2)
    assert [e.payload for e in stream.events("room/a")] == [b"again"]


def test_topic_twice_in_one_request_is_an_invalid_argument(hub):
    alice = hub.session("alice")
    alice.subscribe("room/a", "room/a").until_ended().expect(StatusCode.INVALID_ARGUMENT)
    alice.subscribe().until_ended().expect(StatusCode.INVALID_ARGUMENT)


def test_empty_payload_is_a_payload(hub):
    alice = hub.session("alice")
    stream = alice.live("room/a")
    alice.publish("room/a")
    assert stream.until_events(1)[0].payload == b""


# Sizes


def test_largest_payload_passes_and_one_byte_more_is_refused(hub):
    alice = hub.session("alice")
    largest = alice.login.policy.max_message_bytes
    follower, stream = alice.live("room/a"), alice.connect()
    payload = bytes(i % 251 for i in range(largest))
    alice.publish("room/a", payload)
    stream.publish("room/a", payload[::-1], message_id="fits")
    assert [e.payload for e in follower.until_events(2)] == [payload, payload[::-1]]

    refused(alice.publish, "room/a", payload + b"x").expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    stream.publish("room/a", payload + b"x", message_id="too much")
    receipts = stream.until("both receipts", lambda s: len(s.receipts()) == 2 and s.receipts())
    assert (receipts[0].message_id, receipts[0].position.sequence) == ("fits", 2)
    assert (receipts[1].message_id, receipts[1].error.code) == ("too much", StatusCode.RESOURCE_EXHAUSTED.value[0])
    alice.publish("room/a", b"next")
    assert follower.until_events(3)[2].sequence == 3


@pytest.mark.parametrize("size", [1 << 20, 3 << 20])
def test_far_too_large_message_ends_only_its_own_call(hub, size):
    alice = hub.session("alice")
    follower, stream = alice.live("room/a"), alice.connect()
    refused(alice.publish, "room/a", bytes(size)).expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    stream.publish("room/a", bytes(size), message_id="m")
    stream.until_ended().expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert alice.publish("room/a", b"fits").sequence == 1
    follower.until_events(1)


@pytest.mark.parametrize("field", ["message_id", "content_type"])
def test_overlong_fields_are_refused(hub, field):
    alice = hub.session("alice")
    alice.publish("room/a", b"x", **{field: "x" * 128})
    refused(alice.publish, "room/a", b"x", **{field: "x" * 129}).expect(StatusCode.INVALID_ARGUMENT)


def test_subscription_quota_refuses_the_topic_too_many(start):
    hub = start(limits_subscriptions_per_stream_max=3)
    alice = hub.session("alice")
    stream = alice.connect()
    for n in range(3):
        stream.subscribe(f"room/{n}")
    stream.send(subscribe=message.Subscription(topic="room/3"))
    (notice,) = stream.until("a refusal", lambda s: s.notices("refused"))
    assert notice.error.code == StatusCode.RESOURCE_EXHAUSTED.value[0]
    topics = [f"room/{n}" for n in range(4)]
    alice.subscribe(*topics).until_ended().expect(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")


# Resuming


def after(topic, epoch, sequence, **more):
    return message.Subscription(topic=topic, after=message.Position(epoch=epoch, sequence=sequence), **more)


@pytest.mark.parametrize("handled", [0, 1, 10, 20])
def test_resume_by_position_is_complete(hub, handled):
    alice, bob = hub.session("alice"), hub.session("bob")
    stream = bob.live("room/a")
    sent = []
    for n in range(20):
        sent.append(alice.publish("room/a", b"%d" % n).sequence)
        alice.publish("room/noise", b"between")
    epoch = hub.status().epoch
    stream.until_events(20)
    stream.cancel()
    stream.until_ended()
    sent += [alice.publish("room/a", b"%d" % n).sequence for n in range(20, 30)]
    position = sent[handled - 1] if handled else 0

    resumed = bob.subscribe(after("room/a", epoch, position))
    notice = resumed.until_subscribed("room/a")
    assert notice.recovered
    assert notice.position.epoch == epoch
    assert notice.position.sequence == position
    sent += [alice.publish("room/a", b"%d" % n).sequence for n in range(30, 35)]
    events = resumed.until_events(35 - handled)
    assert [e.sequence for e in events] == sent[handled:]
    assert [e.payload for e in events] == [b"%d" % n for n in range(handled, 35)]
    assert resumed.gaps() == []


def test_resume_on_a_connect_stream_is_complete(hub):
    alice = hub.session("alice")
    sent = [alice.publish("room/a", b"%d" % n).sequence for n in range(10)]
    stream = alice.connect()
    notice = stream.subscribe("room/a", after=message.Position(epoch=hub.status().epoch, sequence=sent[3]))
    assert notice.recovered
    stream.until_events(6)
    assert stream.sequences() == sent[4:]


def test_resume_from_the_newest_position_waits_for_the_next_event(hub):
    alice = hub.session("alice")
    last = [alice.publish("room/a", b"old") for _ in range(5)][-1]
    stream = alice.live(after("room/a", last.epoch, last.sequence))
    assert stream.notices("subscribed")[0].recovered
    sent = alice.publish("room/a", b"new").sequence
    assert [e.sequence for e in stream.until_events(1)] == [sent]


def test_all_retained_gives_the_tail_then_what_follows(hub):
    alice = hub.session("alice")
    sent = [alice.publish("room/a", b"%d" % n).sequence for n in range(10)]
    stream = alice.live(message.Subscription(topic="room/a", all_retained=True))
    assert stream.notices("subscribed")[0].recovered
    sent += [alice.publish("room/a", b"%d" % n).sequence for n in range(10, 15)]
    assert [e.payload for e in stream.until_events(15)] == [b"%d" % n for n in range(15)]
    assert stream.sequences() == sent


@pytest.mark.parametrize("where", [{}, {"from_now": True}, {"from_now": False}, {"all_retained": False}])
def test_plain_subscription_starts_now(hub, where):
    alice = hub.session("alice")
    alice.publish("room/a", b"old")
    stream = alice.live(message.Subscription(topic="room/a", **where))
    assert stream.notices("subscribed")[0].recovered
    alice.publish("room/a", b"new")
    assert [e.payload for e in stream.until_events(1)] == [b"new"]


@pytest.mark.parametrize("epoch", ["another", "", "00000000-0000-0000-0000-000000000000"])
def test_unknown_epoch_is_told_with_a_gap(hub, epoch):
    alice = hub.session("alice")
    for n in range(5):
        alice.publish("room/a", b"%d" % n)
    stream = alice.subscribe(after("room/a", epoch, 3))
    notice = stream.until_subscribed("room/a")
    assert not notice.recovered
    assert notice.position.epoch == hub.status().epoch
    (gap,) = stream.until("a gap", lambda s: s.gaps())
    assert (gap.topic, message.GapReason.Name(gap.reason)) == ("room/a", "EPOCH_CHANGED")
    sent = alice.publish("room/a", b"new").sequence
    stream.until("the new event", lambda s: sent in s.sequences())
    assert covered(stream, "room/a", 1, sent)


def test_epoch_of_a_former_process_is_unknown_to_the_next(start):
    first = start()
    epoch = first.status().epoch
    second = start()
    assert second.status().epoch != epoch
    alice = second.session("alice")
    stream = alice.live(after("room/a", epoch, 10))
    assert not stream.notices("subscribed")[0].recovered
    (gap,) = stream.until("a gap", lambda s: s.gaps())
    assert gap.reason == message.EPOCH_CHANGED


def covered(stream, topic, first, last):
    """Every sequence of the range was either delivered or told missing, each once and in order."""
    told = set(stream.sequences(topic))
    assert stream.sequences(topic) == sorted(told)
    for gap in stream.gaps():
        lost = set(range(gap.from_sequence, gap.to_sequence + 1))
        assert not lost & told, "a delivered event was told missing"
        told |= lost
    return told >= set(range(first, last + 1))


def test_position_the_tail_no_longer_holds_is_told_with_a_gap(hub):
    alice = hub.session("alice")
    first = alice.publish("room/a", b"first")
    sent = [alice.publish("room/a", bytes(16000)).sequence for _ in range(40)]  # 640 KB into a tail of 256 KiB
    stream = alice.subscribe(after("room/a", first.epoch, first.sequence))
    notice = stream.until_subscribed("room/a")
    assert not notice.recovered
    stream.until("the newest event", lambda s: sent[-1] in s.sequences())
    (gap,) = stream.gaps()
    assert (gap.topic, message.GapReason.Name(gap.reason)) == ("room/a", "TAIL_GONE")
    assert gap.from_sequence == sent[0]
    assert len(stream.sequences()) >= 8  # 128 KiB at least
    assert gap.to_sequence + 1 == stream.sequences()[0]
    assert covered(stream, "room/a", sent[0], sent[-1])


# Slow consumers


def test_slow_consumer_ends_resumable_and_resumes_without_loss(hub):
    alice, bob = hub.session("alice"), hub.session("bob", channel=hub.channel(SMALL_WINDOW))
    stalled = bob.subscribe_call("room/a")  # nobody reads it
    healthy = bob.live("room/a")
    assert hub.status().subscriptions == 2
    sent = []
    while not hub.ended_streams(bob.id):
        sent.append(alice.publish("room/a", b"%06d" % len(sent) + bytes(4000)).sequence)
        healthy.until_events(len(sent))
        assert len(sent) < 100, "64 KiB of window and 128 KiB of lag are long used up"
    stream = hubkit.Stream(stalled)
    ending = stream.until_ended().expect(StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
    received = stream.sequences()
    assert received, "nothing arrived before the end"
    assert received == sent[: len(received)]
    assert ending.info.metadata["last_sequence"] == str(received[-1])
    assert ending.retry is not None
    (end,) = hub.ended_streams(bob.id)
    assert hubkit.reason_name(end.reason) == "SLOW_CONSUMER"
    assert end.last_sequence == received[-1]
    assert end.lag_bytes_left > bob.login.policy.max_lag_bytes
    resumed = bob.subscribe(after("room/a", hub.status().epoch, received[-1]))
    assert resumed.until_subscribed("room/a").recovered
    resumed.until_events(len(sent) - len(received))
    assert resumed.sequences() == sent[len(received) :]
    assert healthy.sequences() == sent


@pytest.mark.parametrize("stalled", [0, 2.5])
@pytest.mark.parametrize("way", ["lag", "admin", "logout", "takeover"])
def test_client_that_stopped_reading_still_gets_its_status(hub, way, stalled):
    alice, bob = hub.session("alice"), hub.session("bob", "x", channel=hub.channel(SMALL_WINDOW))
    call = bob.subscribe_call("room/a")  # nobody reads it
    eventually("the subscription", lambda: hub.status().subscriptions == 1)
    sent = [
        alice.publish("room/a", bytes(5000)).sequence for _ in range(20)
    ]  # 100 KB: past the window, not past the lag
    time.sleep(stalled)
    code, reason = {
        "lag": (StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER"),
        "admin": (StatusCode.CANCELLED, "ADMIN_CANCELLED"),
        "logout": (StatusCode.CANCELLED, "SESSION_LOGGED_OUT"),
        "takeover": (StatusCode.ABORTED, "SESSION_TAKEN_OVER"),
    }[way]
    began = time.monotonic()
    if way == "lag":
        sent += [alice.publish("room/a", bytes(5000)).sequence for _ in range(30)]
    elif way == "admin":
        hub.admin.CancelSession(hubkit.admin.CancelRequest(id=bob.id), timeout=PATIENCE)
    elif way == "logout":
        bob.logout()  # delivers what is owed as long as the flush timeout allows, then gives up
    else:
        hub.session("bob", "x", channel=bob.channel)
    (end,) = eventually("the end", lambda: hub.ended_streams(bob.id))
    assert time.monotonic() - began < (5 if way == "logout" else 0.9)
    assert hubkit.reason_name(end.reason) == reason
    stream = hubkit.Stream(call)
    ending = stream.until_ended().expect(code, reason)
    received = stream.sequences()
    assert 0 < len(received) < len(sent)
    assert received == sent[: len(received)]
    assert ending.info.metadata["last_sequence"] == str(received[-1])


def test_slow_consumer_that_skips_is_told_what_it_missed(hub):
    alice, bob = hub.session("alice"), hub.session("bob", channel=hub.channel(SMALL_WINDOW))
    call = bob.subscribe_call(message.Subscription(topic="room/a", overflow=message.SKIP))
    eventually("the subscription", lambda: hub.status().subscriptions == 1)
    sent = [alice.publish("room/a", b"%06d" % n + bytes(4000)).sequence for n in range(400)]
    stream = hubkit.Stream(call)
    last = alice.publish("room/a", b"last").sequence
    stream.until("the newest event", lambda s: last in s.sequences())
    assert stream.ending is None
    gaps = stream.gaps()
    assert gaps and {message.GapReason.Name(g.reason) for g in gaps} == {"LAG_SKIPPED"}
    assert covered(stream, "room/a", sent[0], last)


# The contract beside ours


def test_unknown_fields_are_ignored(hub):
    unknown = b"\xfa\xff\x7f\x05extra" + b"\xc8\x3e\x2a"  # field 262143, bytes; field 1001, varint
    channel = hub.channel()

    def call(path, request, answer, metadata=()):
        raw = channel.unary_unary(path, request_serializer=lambda b: b, response_deserializer=answer.FromString)
        return raw(request.SerializeToString() + unknown, metadata=metadata, timeout=5)

    login = call("/streamward.v1.SessionService/Login", session.LoginRequest(user="alice"), session.LoginResponse)
    metadata = [("authorization", f"Bearer {login.token}")]
    published = call(
        "/streamward.v1.MessageService/Publish",
        message.PublishRequest(topic="room/a", payload=b"x"),
        message.PublishResponse,
        metadata,
    )
    assert published.sequence == 1
    raw = channel.stream_stream(
        "/streamward.v1.MessageService/Connect",
        request_serializer=lambda b: b,
        response_deserializer=message.ServerFrame.FromString,
    )
    subscribe = message.Subscription(topic="room/a", all_retained=True).SerializeToString() + unknown
    frame = b"\x12" + bytes([len(subscribe)]) + subscribe + unknown
    stream = hubkit.Stream(raw(iter([frame]), metadata=metadata))
    stream.until_ended()  # half-closed: delivers what there is, then ends
    assert stream.ending.code == StatusCode.OK
    assert stream.sequences() == [1]


def test_health_check_knows_the_server_and_its_services(hub):
    health = health_pb2_grpc.HealthStub(hub.channel())
    for service in ("", "streamward.v1.SessionService", "streamward.v1.MessageService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    refused(health.Check, health_pb2.HealthCheckRequest(service="nobody"), timeout=5).expect(StatusCode.NOT_FOUND)


def test_health_watch_of_an_unknown_service_says_so_and_stays_open(hub):
    health = health_pb2_grpc.HealthStub(hub.channel())
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    time.sleep(1)
    assert watch.is_active()
    watch.cancel()


def reflection(channel):
    # The messages of v1 are those of v1alpha; only the service's name differs.
    return channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )


@pytest.mark.parametrize("where", ["tcp", "socket"])
def test_reflection_lists_the_services_and_their_methods(hub, where):
    channel = hub.channel() if where == "tcp" else hub.admin_channel
    ask = reflection(channel)
    wanted = "streamward.v1.MessageService" if where == "tcp" else "streamward.v1.AdminService"
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=wanted),
    ]
    listed, file = list(ask(iter(requests), timeout=10))
    names = {s.name for s in listed.list_services_response.service}
    assert {wanted, "grpc.health.v1.Health"} <= names
    if where == "tcp":
        assert "streamward.v1.SessionService" in names
    methods = set()
    for encoded in file.file_descriptor_response.file_descriptor_proto:
        described = descriptor_pb2.FileDescriptorProto.FromString(encoded)
        methods |= {m.name for s in described.service for m in s.method if f"{described.package}.{s.name}" == wanted}
    assert methods >= ({"Publish", "Subscribe", "Connect"} if where == "tcp" else {"GetStatus", "Drain"})


def test_unknown_method_is_unimplemented(hub):
    call = hub.channel().unary_unary("/streamward.v1.SessionService/Nothing")
    refused(call, b"", timeout=5).expect(StatusCode.UNIMPLEMENTED)
    call = hub.channel().unary_unary("/other.Service/Nothing")
    refused(call, b"", timeout=5).expect(StatusCode.UNIMPLEMENTED)
