"""The server written by hand with grpcio, which the benchmarks compare with: it starts, and one message goes round."""

import os
import socket
import subprocess
import sys

import grpc
import hubkit
import pytest
from hubkit import message, session

SERVER = hubkit.ROOT / "src/bench/peers/grpcio/server.py"


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    stubs = dict(os.environ, PYTHONPATH=hubkit.STUBS.name)
    with subprocess.Popen([sys.executable, SERVER, address], env=stubs) as server:
        yield address
        assert server.poll() is None, "the server has ended by itself"
        server.terminate()


@pytest.mark.native
def test_a_message_goes_round(address):
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(hubkit.PATIENCE)
        token = hubkit.session_grpc.SessionServiceStub(channel).Login(session.LoginRequest(user="ada")).token
        messages, metadata = hubkit.message_grpc.MessageServiceStub(channel), [("authorization", f"Bearer {token}")]
        wanted = message.SubscribeRequest(subscriptions=[message.Subscription(topic="room/a")])
        follower = messages.Subscribe(wanted, metadata=metadata, timeout=hubkit.PATIENCE)
        assert next(follower).notices[0].subscribed.topic == "room/a"

        frames = iter(
            [
                message.ClientFrame(subscribe=message.Subscription(topic="room/a")),
                message.ClientFrame(publish=message.Publish(topic="room/a", payload=b"streamed", message_id="1")),
            ]
        )
        heard = list(messages.Connect(frames, metadata=metadata, timeout=hubkit.PATIENCE))
        assert heard[0].notices[0].subscribed.topic == "room/a"
        assert [receipt.message_id for frame in heard for receipt in frame.receipts] == ["1"]
        assert [event.payload for frame in heard for event in frame.events] == [b"streamed"]

        published = message.PublishRequest(topic="room/a", payload=b"unary")
        assert messages.Publish(published, metadata=metadata).sequence == 2
        events = [next(follower).events[0] for _ in range(2)]
        assert [(event.sender, event.sequence, event.payload) for event in events] == [
            ("ada", 1, b"streamed"),
            ("ada", 2, b"unary"),
        ]
        with pytest.raises(grpc.RpcError) as refused:
            messages.Publish(published)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
