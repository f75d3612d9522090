"""Clients on the host: followers that come back by themselves and remember all they were told, publishers that go on,
and a crowd that only listens."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients/python"))

import grpc
import hubkit
from hubkit import message

from rules import expect

# Under emulation a login takes a good part of a second, and a hundred of them wait for each other.
hubkit.PATIENCE = 60.0
RECONNECT = [
    *hubkit.OWN_CONNECTION,
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 500),
]


def wait_for(what, check, timeout):
    end = time.monotonic() + timeout
    while not (value := check()):
        expect(time.monotonic() < end, f"not within {timeout} s: {what}")
        time.sleep(0.05)
    return value


class Client(threading.Thread):
    """One that logs in again whenever it lost the hub, when the hub says so."""

    def __init__(self, target, user):
        super().__init__(daemon=True)
        self.target, self.user = target, user
        self.leaving = threading.Event()
        self.ends = []  # (code, reason) of what was lost
        self.start()

    def run(self):
        while not self.leaving.is_set():
            wait = 0.5
            with grpc.insecure_channel(self.target, RECONNECT) as channel:
                try:
                    self.serve(hubkit.Session(channel, self.user, "crowd"))
                except grpc.RpcError as error:
                    ending = hubkit.Ending(error)
                    self.ends.append((ending.code.name, ending.reason))
                    if ending.retry:
                        wait = ending.retry.retry_delay.ToTimedelta().total_seconds()
            self.leaving.wait(wait)


class Follower(Client):
    """Follows one topic and resumes after the last event it handled."""

    def __init__(self, target, user, topic):
        self.topic = topic
        self.after = None
        self.heard = []  # (epoch, sequence)
        self.gaps = []  # (epoch, from, to)
        self.starts = []  # Subscribed notices
        self.call = None
        super().__init__(target, user)

    def serve(self, session):
        start = {"after": self.after} if self.after else {}
        self.call = session.subscribe_call(message.Subscription(topic=self.topic, **start))
        for frame in self.call:
            for notice in frame.notices:
                if notice.HasField("subscribed"):
                    self.after = notice.subscribed.position
                    self.starts.append(notice.subscribed)
            for gap in frame.gaps:
                self.gaps.append((self.after.epoch, gap.from_sequence, gap.to_sequence))
            for event in frame.events:
                self.heard.append((self.after.epoch, event.sequence))
                self.after = message.Position(epoch=self.after.epoch, sequence=event.sequence)

    def leave(self):
        self.leaving.set()
        if self.call:
            self.call.cancel()

    def told(self, epoch, sequence):
        return any(e == epoch and first <= sequence <= last for e, first, last in self.gaps)


class Publisher(Client):
    """Publishes one event after the other, each until it has a receipt."""

    def __init__(self, target, user, topic):
        self.topic = topic
        self.acked = []  # (epoch, sequence)
        super().__init__(target, user)

    def serve(self, session):
        while not self.leaving.is_set():
            name = f"{self.user}-{len(self.acked)}"
            done = session.publish(self.topic, b"x" * 100, message_id=name)
            self.acked.append((done.epoch, done.sequence))

    def leave(self):
        self.leaving.set()


class Load:
    """Followers and publishers of one topic."""

    def __init__(self, target, followers, publishers):
        topic = "room/load"
        self.followers = [Follower(target, f"follower-{n}", topic) for n in range(followers)]
        wait_for("all followers are live", lambda: all(f.starts for f in self.followers), 120)
        self.publishers = [Publisher(target, f"publisher-{n}", topic) for n in range(publishers)]
        wait_for("all publish", lambda: all(len(p.acked) > 20 for p in self.publishers), 120)

    def until_back(self):
        """Until everybody follows and publishes in an epoch that is not the first."""
        first = self.followers[0].starts[0].position.epoch
        wait_for(
            "all followers are back", lambda: all(f.starts[-1].position.epoch != first for f in self.followers), 120
        )
        wait_for(
            "all publish again", lambda: all(sum(e != first for e, _ in p.acked) > 20 for p in self.publishers), 120
        )

    def close(self):
        """Ends the publishing, lets the followers hear the rest, and returns (first epoch, what was acknowledged)."""
        for publisher in self.publishers:
            publisher.leave()
        for publisher in self.publishers:
            publisher.join(60)
        acked = [one for publisher in self.publishers for one in publisher.acked]
        first = self.followers[0].starts[0].position.epoch
        want = max(sequence for epoch, sequence in acked if epoch != first)
        wait_for("the followers hear the rest", lambda: all(f.after.sequence >= want for f in self.followers), 60)
        for follower in self.followers:
            follower.leave()
        for follower in self.followers:
            follower.join(60)
        return first, acked

    def check(self, first, acked):
        """What was acknowledged by the old instance was delivered by its drain; of the new one it was, or is told."""
        acked = set(acked)
        for follower in self.followers:
            heard = set(follower.heard)
            expect(len(heard) == len(follower.heard), f"{follower.user} heard something twice")
            by_epoch = {}
            for epoch, sequence in follower.heard:
                expect(sequence > by_epoch.get(epoch, 0), f"{follower.user}: #{sequence} out of order")
                by_epoch[epoch] = sequence
            missing = acked - heard
            lost = [one for one in missing if one[0] == first]
            expect(
                not lost, f"{follower.user} did not get {len(lost)} acknowledged before the stop: {sorted(lost)[:5]}"
            )
            untold = [one for one in missing if not follower.told(*one)]
            expect(not untold, f"{follower.user} misses {len(untold)} without a word: {sorted(untold)[:5]}")
            expect(
                not follower.starts[-1].recovered, f"{follower.user} was told that nothing is missing over a new epoch"
            )
            expect(any(e != first for e, _, _ in follower.gaps), f"{follower.user} was told of no gap")


def crowd(target, count, events, event_bytes, sample):
    """`count` clients log in and follow one topic, all at once; each must get every event. `sample` is called on the
    way. Returns the seconds until all were in, and until all had everything."""
    began = time.monotonic()
    channels = []

    def enter(number):
        channel = grpc.insecure_channel(target, hubkit.OWN_CONNECTION)
        channels.append(channel)
        session = hubkit.Session(channel, f"listener-{number}")
        return session, session.live("room/crowd")

    try:
        with ThreadPoolExecutor(16) as pool:
            clients = list(pool.map(enter, range(count)))
        entered = time.monotonic() - began
        sample(f"{count} clients in")
        publisher = clients[0][0]
        for number in range(events):
            publisher.publish("room/crowd", number.to_bytes(4, "big") * (event_bytes // 4))
        for _, stream in clients:
            stream.until_events(events)
        had = time.monotonic() - began - entered
        sample("everything delivered")
        for _, stream in clients:
            had_of_it = [int.from_bytes(event.payload[:4], "big") for event in stream.events()]
            expect(had_of_it == list(range(events)), "not all, or not in order")
            expect(stream.ending is None, f"one ended: {stream.ending}")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda client: client[0].logout(), clients))
        return entered, had
    finally:
        for channel in channels:
            channel.close()
