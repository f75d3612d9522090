"""The fan-out server that grpcio's asyncio guides lead to: a queue per open call, and the queues of each topic."""

import asyncio
import collections
import itertools
import sys

import grpc
from streamward.v1 import message_pb2 as message
from streamward.v1 import message_pb2_grpc as message_grpc
from streamward.v1 import session_pb2 as session
from streamward.v1 import session_pb2_grpc as session_grpc

EPOCH = "plain"


async def sender(context):
    """The token is the user's name."""
    header = dict(context.invocation_metadata()).get("authorization", "")
    if not header.startswith("Bearer "):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "log in first")
    return header.removeprefix("Bearer ")


class Hub:
    def __init__(self):
        self.sequences = itertools.count(1)
        self.queues = collections.defaultdict(set)  # of each topic

    def publish(self, publish, user):
        event = message.Event(
            topic=publish.topic,
            sequence=next(self.sequences),
            sender=user,
            payload=publish.payload,
            message_id=publish.message_id,
            content_type=publish.content_type,
        )
        event.published_at.GetCurrentTime()
        frame = message.ServerFrame(events=[event])
        for queue in self.queues[event.topic]:
            queue.put_nowait(frame)
        return event.sequence

    def follow(self, topic, queue):
        self.queues[topic].add(queue)
        subscribed = message.Subscribed(topic=topic, recovered=True)
        queue.put_nowait(message.ServerFrame(notices=[message.Notice(subscribed=subscribed)]))

    def leave(self, queue):
        for queues in self.queues.values():
            queues.discard(queue)


class Sessions(session_grpc.SessionServiceServicer):
    async def Login(self, request, context):
        return session.LoginResponse(session_id=request.user, token=request.user)

    async def Heartbeat(self, request, context):
        return session.HeartbeatResponse()

    async def Logout(self, request, context):
        return session.LogoutResponse()


class Messages(message_grpc.MessageServiceServicer):
    def __init__(self, hub):
        self.hub = hub

    async def Publish(self, request, context):
        user = await sender(context)
        return message.PublishResponse(sequence=self.hub.publish(request, user), epoch=EPOCH)

    async def Subscribe(self, request, context):
        await sender(context)
        queue = asyncio.Queue()
        try:
            for subscription in request.subscriptions:
                self.hub.follow(subscription.topic, queue)
            while True:
                yield await queue.get()
        finally:
            self.hub.leave(queue)

    async def Connect(self, request_iterator, context):
        user = await sender(context)
        queue = asyncio.Queue()
        reader = asyncio.create_task(self.read(request_iterator, user, queue))
        try:
            while (frame := await queue.get()) is not None:
                yield frame
        finally:
            reader.cancel()
            self.hub.leave(queue)

    async def read(self, frames, user, queue):
        async for frame in frames:
            kind = frame.WhichOneof("kind")
            if kind == "publish":
                position = message.Position(epoch=EPOCH, sequence=self.hub.publish(frame.publish, user))
                receipt = message.Receipt(message_id=frame.publish.message_id, position=position)
                queue.put_nowait(message.ServerFrame(receipts=[receipt]))
            elif kind == "subscribe":
                self.hub.follow(frame.subscribe.topic, queue)
            elif kind == "logout":
                break
        queue.put_nowait(None)  # the last


async def main(address):
    hub = Hub()
    server = grpc.aio.server()
    session_grpc.add_SessionServiceServicer_to_server(Sessions(), server)
    message_grpc.add_MessageServiceServicer_to_server(Messages(hub), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
