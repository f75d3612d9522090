"""Whatever ends one client, its neighbours notice nothing: not one event later lost, doubled, reordered or changed.

Fifty clients with connections of their own and ten that share one follow a room while a publisher goes on publishing.
One client of each kind is ended in every way there is; all others must hold every event, byte for byte.
"""

import asyncio
import random

import grpc
import pytest
from grpc import StatusCode

import hubkit
from hubkit import (
    OWN_CONNECTION,
    PATIENCE,
    SMALL_WINDOW,
    admin,
    message,
    message_grpc,
    reason_name,
    session,
    session_grpc,
)

OWN, SHARED = 50, 10
ROOM = "room/a"
AHEAD = 8  # events the publisher may be ahead of the slowest neighbour: the room's bounds are not what is tested

# way -> how the client sees it: code and reason; what the server has on record
WAYS = {
    "logout": (StatusCode.CANCELLED, "SESSION_LOGGED_OUT", {"SESSION_LOGGED_OUT"}),
    "in_band_logout": (StatusCode.OK, None, {"COMPLETED"}),
    "half_close": (StatusCode.OK, None, {"COMPLETED"}),
    "cancel": (StatusCode.CANCELLED, None, {"CLIENT_CANCELLED"}),
    "channel_close": (StatusCode.CANCELLED, None, {"CLIENT_CANCELLED", "CONNECTION_LOST"}),
    "admin_cancels_stream": (StatusCode.CANCELLED, "ADMIN_CANCELLED", {"ADMIN_CANCELLED"}),
    "admin_cancels_session": (StatusCode.CANCELLED, "ADMIN_CANCELLED", {"ADMIN_CANCELLED"}),
    "deadline": (StatusCode.DEADLINE_EXCEEDED, None, {"DEADLINE_EXCEEDED"}),
    "takeover": (StatusCode.ABORTED, "SESSION_TAKEN_OVER", {"SESSION_TAKEN_OVER"}),
    "lease": (StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED", {"SESSION_EXPIRED"}),
    "slow_consumer": (StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", {"SLOW_CONSUMER"}),
    "garbage": (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"INVALID_REQUEST"}),
}


class Client:
    """One login that follows the room and keeps what it gets."""

    def __init__(self, channel, user):
        self.channel = channel
        self.user = user
        self.got = []  # (sequence, payload)
        self.subscribed = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.sessions = session_grpc.SessionServiceStub(channel)
        self.call = self.task = self.ending = None

    async def login(self):
        request = session.LoginRequest(user=self.user, client_name="crowd")
        self.policy = await self.sessions.Login(request, timeout=PATIENCE)
        self.metadata = [("authorization", f"Bearer {self.policy.token}")]
        self.id = self.policy.session_id

    async def heartbeat(self):
        await self.sessions.Heartbeat(session.HeartbeatRequest(), metadata=self.metadata, timeout=PATIENCE)

    async def follow(self, rpc, timeout=None):
        if rpc == "Subscribe":
            request = message.SubscribeRequest(subscriptions=[message.Subscription(topic=ROOM)])
            self.call = message_grpc.MessageServiceStub(self.channel).Subscribe(request, metadata=self.metadata)
        else:
            connect = self.channel.stream_stream(
                "/streamward.v1.MessageService/Connect", response_deserializer=message.ServerFrame.FromString
            )
            self.call = connect(metadata=self.metadata, timeout=timeout)
            frame = message.ClientFrame(subscribe=message.Subscription(topic=ROOM))
            await self.call.write(frame.SerializeToString())
        self.task = asyncio.create_task(self._read())
        await asyncio.wait_for(self.subscribed.wait(), PATIENCE)

    async def _read(self):
        try:
            while True:
                await self.reads.wait()
                frame = await self.call.read()
                if frame is grpc.aio.EOF:
                    break
                assert not frame.gaps, frame.gaps
                self.got += [(e.sequence, e.payload) for e in frame.events]
                if any(n.WhichOneof("kind") == "subscribed" for n in frame.notices):
                    self.subscribed.set()
        except (grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            pass  # the status says how
        code, text = await self.call.code(), await self.call.details()
        trailers = await self.call.trailing_metadata()
        self.ending = hubkit.Ending(_Ended(code, text, trailers))


class _Ended:
    """The awaited status of an asyncio call in the shape of a plain one."""

    def __init__(self, code, text, trailers):
        self.code, self.details = lambda: code, lambda: text
        self.trailing_metadata = lambda: tuple(trailers or ())


async def crowd(hub, way):
    options = OWN_CONNECTION + (SMALL_WINDOW if way == "slow_consumer" else [])
    channels = [grpc.aio.insecure_channel(hub.target, options=options) for _ in range(OWN + 2)]
    owners = [Client(channel, f"own{n}") for n, channel in enumerate(channels[:OWN])]
    sharers = [Client(channels[OWN], f"shared{n}") for n in range(SHARED)]
    publisher = Client(channels[OWN + 1], "publisher")
    victims = owners[:1] if way == "channel_close" else [owners[0], sharers[0]]
    neighbours = [c for c in owners + sharers if c not in victims]
    await asyncio.gather(*(c.login() for c in [publisher, *neighbours, *victims]))
    heart = asyncio.create_task(beat([publisher, *neighbours])) if way == "lease" else None
    await asyncio.gather(*(c.follow("Subscribe") for c in neighbours))
    await asyncio.gather(*(v.follow("Connect", timeout=3 if way == "deadline" else None) for v in victims))

    sent = {}
    stub = message_grpc.MessageServiceStub(publisher.channel)
    size = 2000

    async def publish(payload):
        request = message.PublishRequest(topic=ROOM, payload=payload)
        answer = await stub.Publish(request, metadata=publisher.metadata, timeout=PATIENCE)
        sent[answer.sequence] = payload
        waited = 0
        while any(len(c.got) + AHEAD < len(sent) for c in neighbours):
            await asyncio.sleep(0.005)
            waited += 1
            lost = [(c.user, len(c.got), c.ending) for c in neighbours if len(c.got) + AHEAD < len(sent)]
            assert waited < 200 * PATIENCE and not any(c.ending for c in neighbours), lost

    dice = random.Random(7)
    for _ in range(50):
        await publish(dice.randbytes(dice.randrange(size)))
    ending = asyncio.gather(*(end(hub, way, v) for v in victims))
    if way == "slow_consumer":
        size = 8000
    for _ in range(20000):  # a bound only: the victims end long before
        await publish(dice.randbytes(dice.randrange(size)))
        if ending.done() and all(v.ending for v in victims):
            break
        if way == "slow_consumer" and await asyncio.to_thread(recorded, hub, victims):
            for victim in victims:
                victim.reads.set()
        await asyncio.sleep(0.005)
    await asyncio.wait_for(ending, PATIENCE)
    for _ in range(100):
        await publish(dice.randbytes(dice.randrange(2000)))
    for _ in range(int(PATIENCE / 0.02)):
        if all(len(c.got) >= len(sent) for c in neighbours):
            break
        await asyncio.sleep(0.02)

    for c in neighbours:
        assert c.ending is None, (c.user, c.ending)
        assert [s for s, _ in c.got] == list(sent), c.user
        assert all(payload == sent[s] for s, payload in c.got), c.user
    everything = list(sent.items())
    code, why, on_record = WAYS[way]
    for v in victims:
        v.ending.expect(code, why)
        assert v.got == everything[: len(v.got)], "even what the victim got has no hole"
        assert 0 < len(v.got) < len(sent)
        (record,) = await asyncio.to_thread(hub.ended_streams, v.id)
        assert reason_name(record.reason) in on_record
    status = await asyncio.to_thread(hub.status)
    assert status.streams == len(neighbours)
    if heart:
        heart.cancel()
    for c in neighbours:
        c.call.cancel()
    await asyncio.gather(*(c.task for c in neighbours))
    await asyncio.gather(*(channel.close() for channel in channels))


def recorded(hub, victims):
    return all(hub.ended_streams(v.id) for v in victims)


async def beat(clients):
    while True:
        await asyncio.gather(*(c.heartbeat() for c in clients))
        await asyncio.sleep(1)


async def end(hub, way, victim):
    """Ends the victim; returns when the server was asked, not when it did."""
    rpc = hub.admin
    if way == "logout":
        request = session.LogoutRequest()
        answer = await victim.sessions.Logout(request, metadata=victim.metadata, timeout=PATIENCE)
        assert answer.streams_ended == 1
    elif way == "in_band_logout":
        await victim.call.write(message.ClientFrame(logout=message.Logout()).SerializeToString())
    elif way == "half_close":
        await victim.call.done_writing()
    elif way == "cancel":
        victim.call.cancel()
    elif way == "channel_close":
        await victim.channel.close()
    elif way == "admin_cancels_stream":
        (stream,) = await asyncio.to_thread(hub.streams, victim.id)
        request = admin.CancelRequest(id=stream.id, note="out")
        answer = await asyncio.to_thread(rpc.CancelStream, request, timeout=PATIENCE)
        assert (answer.streams_ended, answer.sessions_ended) == (1, 0)
        assert answer.others_untouched in (OWN + SHARED - 1, OWN + SHARED - 2)
    elif way == "admin_cancels_session":
        request = admin.CancelRequest(id=victim.id, note="out")
        answer = await asyncio.to_thread(rpc.CancelSession, request, timeout=PATIENCE)
        assert (answer.streams_ended, answer.sessions_ended) == (1, 1)
        assert answer.others_untouched in (OWN + SHARED - 1, OWN + SHARED - 2)
    elif way == "takeover":
        async with grpc.aio.insecure_channel(hub.target, options=OWN_CONNECTION) as channel:
            successor = Client(channel, victim.user)
            await successor.login()
            assert successor.policy.previous_end.id == victim.id
    elif way == "slow_consumer":
        victim.reads.clear()
    elif way == "garbage":
        await victim.call.write(b"\xff\xff\xff\xff")
    else:
        assert way in ("deadline", "lease")  # time does it


@pytest.mark.parametrize("way", WAYS)
def test_neighbours_miss_nothing_when_a_client_ends_by(start, way):
    # The whole crowd comes at once, from one address.
    settings = {"limits_connections_per_ip_max": 200, "limits_half_open_max": 200}
    if way == "lease":
        settings |= {"limits_lease": "4s", "limits_heartbeat_interval": "1s"}
    hub = start(**settings)
    asyncio.run(asyncio.wait_for(crowd(hub, way), 90))
    assert hub.status().phase == admin.RUNNING
