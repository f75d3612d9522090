"""Seeing who holds what, and ending any part of it: on the admin socket only."""

import os
import stat

import grpc
import pytest
from grpc import StatusCode

import hubkit
from hubkit import admin, admin_grpc, eventually, reason_name, refused


@pytest.mark.parametrize("rpc", ["GetStatus", "ListSessions", "ListStreams", "ListEnded", "Drain"])
def test_admin_is_not_served_on_tcp(hub, rpc):
    alice = hub.session("alice")
    call = getattr(admin_grpc.AdminServiceStub(alice.channel), rpc)
    request = getattr(admin, f"{rpc}Request")()
    refused(call, request, metadata=alice.metadata, timeout=5).expect(StatusCode.UNIMPLEMENTED)
    refused(call, request, timeout=5).expect(StatusCode.UNIMPLEMENTED)
    assert hub.status().phase == admin.RUNNING


def test_admin_socket_belongs_to_its_owner(hub):
    mode = os.stat(hub.socket)
    assert stat.S_ISSOCK(mode.st_mode)
    assert mode.st_uid == os.getuid()
    assert mode.st_mode & stat.S_IWOTH == 0


def test_admin_socket_is_removed_at_the_end(hub):
    hub.terminate()
    assert hub.exit_code() == 0
    assert not os.path.exists(hub.socket)


@pytest.mark.parametrize("rpc", ["CancelStream", "CancelSession"])
def test_dry_run_counts_and_cancels_nothing(hub, rpc):
    alice, bob = hub.session("alice"), hub.session("bob")
    streams = [alice.live("room/a"), alice.live("room/a"), bob.live("room/a")]
    target = hub.streams(alice.id)[0].id if rpc == "CancelStream" else alice.id
    answer = getattr(hub.admin, rpc)(admin.CancelRequest(id=target, note="n", dry_run=True), timeout=5)
    expected = (1, 0) if rpc == "CancelStream" else (2, 1)
    assert (answer.streams_ended, answer.sessions_ended) == expected
    bob.publish("room/a", b"x")
    for stream in streams:
        stream.until_events(1)
        assert stream.ending is None
    assert hub.ended() == []
    assert len(hub.sessions()) == 2
    alice.heartbeat()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["stream", "session"])
def test_cancel_of_what_is_not_there_is_not_found(hub, kind, dry_run):
    alice = hub.session("alice")
    stream = alice.live("room/a")
    call = hub.admin.CancelStream if kind == "stream" else hub.admin.CancelSession
    unknown = "stream/999999" if kind == "stream" else "session/0.999999"
    request = admin.CancelRequest(id=unknown, note="n", dry_run=dry_run)
    refused(call, request, timeout=5).expect(StatusCode.NOT_FOUND)
    assert stream.ending is None


@pytest.mark.parametrize(
    "bad", ["", "stream", "stream/", "stream/x", "session/0", "session/0.1.2", "connection/1", "7"]
)
def test_malformed_id_is_an_invalid_argument(hub, bad):
    for call in (hub.admin.CancelStream, hub.admin.CancelSession):
        refused(call, admin.CancelRequest(id=bad), timeout=5).expect(StatusCode.INVALID_ARGUMENT)


def test_stale_session_id_does_nothing_to_its_successor(hub):
    first = hub.session("alice", "laptop")
    first.logout()
    second = hub.session("alice", "laptop")
    stream = second.live("room/a")
    refused(hub.admin.CancelSession, admin.CancelRequest(id=first.id), timeout=5).expect(StatusCode.NOT_FOUND)
    second.publish("room/a", b"x")
    stream.until_events(1)


def test_overlong_note_is_refused(hub):
    alice = hub.session("alice")
    stream = alice.live("room/a")
    request = admin.CancelRequest(id=alice.id, note="x" * 513)
    refused(hub.admin.CancelSession, request, timeout=5).expect(StatusCode.INVALID_ARGUMENT)
    assert stream.ending is None
    request.note = "x" * 512
    assert hub.admin.CancelSession(request, timeout=5).streams_ended == 1
    assert stream.until_ended().text == "x" * 512


def test_lists_say_who_holds_what(hub):
    alice, bob = hub.session("alice", "laptop"), hub.session("bob")
    alice.live("room/a", "user/alice")
    connect = bob.connect()
    connect.subscribe("room/a")
    alice.publish("room/a", b"12345")
    connect.until_events(1)
    sessions = {s.id: s for s in hub.sessions()}
    assert {(s.user, s.client_name, s.streams) for s in sessions.values()} == {("alice", "laptop", 1), ("bob", "", 1)}
    for one in sessions.values():
        assert len(one.connection_ids) == 1 and one.connection_ids[0].startswith("connection/")
        assert 80 < one.lease_left.ToSeconds() <= 90
        assert one.ending == 0
    mine, theirs = hub.streams(alice.id)[0], hub.streams(bob.id)[0]
    assert (mine.rpc, theirs.rpc) == ("Subscribe", "Connect")
    assert {s.topic for s in mine.subscriptions} == {"room/a", "user/alice"}
    assert mine.connection_id == sessions[alice.id].connection_ids[0]
    assert mine.peer.startswith("127.0.0.1:")
    eventually("the delivery", lambda: hub.streams(alice.id)[0].last_sequence == 1)
    assert (theirs.last_sequence, theirs.events_delivered, theirs.lag_bytes) == (1, 1, 0)
    assert theirs.bytes_delivered > 5
    assert len(hub.streams()) == 2


def test_lists_are_paged(hub):
    channel = hub.channel()
    owners = [hub.session(f"user{n}", channel=channel) for n in range(7)]
    for owner in owners:
        owner.live("room/a")
    for call, request, field in (
        (hub.admin.ListSessions, admin.ListSessionsRequest(page_size=3), "sessions"),
        (hub.admin.ListStreams, admin.ListStreamsRequest(page_size=3), "streams"),
    ):
        sizes, ids = [], []
        while True:
            page = call(request, timeout=5)
            sizes.append(len(getattr(page, field)))
            ids += [item.id for item in getattr(page, field)]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert sizes == [3, 3, 1]
        assert len(set(ids)) == 7
    for owner in owners:
        owner.logout()
    request, ended = admin.ListEndedRequest(page_size=4), []
    while True:
        page = hub.admin.ListEnded(request, timeout=5)
        assert len(page.ended) <= 4
        ended += page.ended
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len({e.id for e in ended}) == len(ended) == 14
    times = [e.ended_at.ToNanoseconds() for e in ended]
    assert times == sorted(times, reverse=True)
    request = admin.ListSessionsRequest(page_token="nonsense")
    refused(hub.admin.ListSessions, request, timeout=5).expect(StatusCode.INVALID_ARGUMENT)


def test_status_counts_what_there_is(hub):
    empty = hub.status()
    assert (empty.phase, empty.sessions, empty.streams, empty.last_sequence) == (admin.RUNNING, 0, 0, 0)
    assert empty.epoch and empty.version
    alice = hub.session("alice")
    stream = alice.live("room/a", "room/b")
    for _ in range(10):
        alice.publish("room/a", bytes(100))
    stream.until_events(10)
    status = hub.status()
    assert (status.sessions, status.streams, status.subscriptions, status.logins) == (1, 1, 2, 1)
    assert (status.last_sequence, status.events_delivered) == (10, 10)
    assert status.bytes_delivered > 1000 and status.tails_bytes > 1000
    assert status.connections == empty.connections + 1
    eventually("the next look at the descriptors", lambda: hub.status().descriptors == hub.descriptors())
    assert status.threads <= 2
    assert status.rss_bytes > 0
    alice.logout()
    counts = {reason_name(c.reason): (c.streams, c.sessions) for c in hub.status().ended if c.streams or c.sessions}
    assert counts == {"SESSION_LOGGED_OUT": (1, 1)}


def test_watch_status_tells_now_and_then_again(hub):
    request = admin.WatchStatusRequest()
    request.interval.FromMilliseconds(200)
    watch = hub.admin.WatchStatus(request, timeout=10)
    first = next(watch).status
    hub.session("alice")
    for answer in watch:
        if answer.status.sessions == 1:
            break
    assert first.sessions == 0
    watch.cancel()
    short = admin.WatchStatusRequest()
    short.interval.FromMilliseconds(1)
    with pytest.raises(grpc.RpcError) as error:
        next(hub.admin.WatchStatus(short, timeout=5))
    assert error.value.code() == StatusCode.INVALID_ARGUMENT


def test_ended_ring_keeps_the_last_512(start):
    hub = start(limits_stream_opens_per_second_max=100000)
    alice = hub.session("alice")
    for _ in range(600):
        stream = alice.connect()
        stream.half_close()
        assert stream.until_ended().code == StatusCode.OK
    ended = [e for e in hub.ended() if e.kind == hubkit.reason.STREAM]
    assert len(ended) == 512
    assert {reason_name(e.reason) for e in ended} == {"COMPLETED"}
    numbers = [int(e.id.split("/")[1]) for e in ended]
    assert numbers == sorted(numbers, reverse=True)
    assert hub.streams() == []
