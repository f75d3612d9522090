"""Short of memory the server refuses before it sheds, says so, and takes everyone again when there is room."""

import time

import grpc
import pytest
from grpc import StatusCode

from hubkit import PATIENCE, SMALL_WINDOW, Ending, admin, eventually, session

MIB = 1024 * 1024


@pytest.mark.native
def test_login_is_refused_while_memory_is_short_and_taken_when_it_is_back(start):
    # ELEVATED from 10 MiB on; an empty server holds five to eight, each client some thirty KiB.
    hub = start(
        memory_budget_bytes="20MiB",
        memory_elevated_percent=50,
        memory_tick="100ms",
        limits_connections_max=260,
        limits_connections_per_ip_max=260,
        limits_half_open_max=16,
        limits_tails_bytes_max="512KiB",
        limits_topics_max=64,
    )
    publisher = hub.session("publisher", "desk")
    listens = publisher.live("room/a")
    crowd, calls, sent = [], [], []

    def one_more():
        try:
            crowd.append(hub.session(f"user{len(crowd)}"))
        except grpc.RpcError as error:
            return Ending(error)
        calls.append(crowd[-1].subscribe_call("room/a"))
        sent.append(publisher.publish("room/a", b"x").sequence)
        return None

    ending = None
    while ending is None and len(crowd) < 255:
        ending = one_more()
    assert ending is not None, hub.status()
    ending.expect(StatusCode.UNAVAILABLE, "MEMORY_PRESSURE")
    delay = ending.retry.retry_delay.ToMilliseconds()
    assert 5000 <= delay < 10000
    assert abs(int(ending.trailers["grpc-retry-pushback-ms"]) - delay) <= 1
    assert publisher.heartbeat().pressure >= session.ELEVATED
    status = hub.status()
    assert status.pressure >= session.ELEVATED and status.logins_refused >= 1
    assert status.memory.used_bytes > 9 * MIB

    # Those inside notice nothing: they publish, open streams, and may take over what is theirs.
    sent.append(publisher.publish("room/a", b"inside").sequence)
    listens.until_events(len(sent))
    assert listens.sequences() == sent and listens.ending is None
    publisher.live("room/b")
    assert hub.ended() == [] and not any(call.done() for call in calls)
    assert hub.session("publisher", "desk", channel=publisher.channel).login.previous_end.id == publisher.id

    for one in crowd:
        one.channel.close()
    # The last of the crowd may still be closing when the level has fallen.
    back = lambda: (s := hub.status()).pressure == session.NORMAL and s.connections < 10
    eventually("memory to be back", back)
    hub.session("latecomer").live("room/a")


def test_status_adds_up(hub):
    for n in range(3):
        hub.session(f"user{n}").live("room/a")
    status = eventually("a look at the memory", lambda: (s := hub.status()).memory.used_bytes and s)
    memory = status.memory
    assert status.pressure == session.NORMAL
    assert memory.budget_bytes >= memory.ceiling_bytes > memory.used_bytes > MIB
    assert (memory.elevated_percent, memory.high_percent, memory.critical_percent) == (70, 85, 95)
    assert (memory.idle_scale_permille, memory.tails_scale_permille) == (1000, 1000)
    assert sum(account.bytes for account in status.accounts) == memory.accounts_bytes > 0
    accounts = {account.holder: account.count for account in status.accounts}
    assert len(accounts) == len(status.accounts)
    assert accounts["sessions"] == status.sessions == 3
    assert (status.threads_max, status.accept_errors) == (2, 0)
    assert status.descriptors_max >= 512 + 16
    assert status.loop_lag.ToMilliseconds() <= status.loop_lag_max.ToMilliseconds() < 1000 * PATIENCE
    assert (status.logins_refused, status.streams_refused, status.connections_refused) == (0, 0, 0)


def test_plan_tells_who_would_end_in_order_and_ends_nobody(start):
    hub = start(limits_heartbeat_interval="500ms", limits_lease="60s")
    slow = hub.session("slow", channel=hub.channel(SMALL_WINDOW))
    fast, silent = hub.session("fast"), hub.session("silent")
    lagging = slow.subscribe_call("room/a")  # nobody reads it
    reads, quiet = fast.live("room/a"), silent.live("room/b")

    def plan():
        slow.heartbeat()
        return hub.admin.PlanShed(admin.PlanShedRequest(), timeout=PATIENCE)

    count = 0

    def lags():
        nonlocal count
        fast.publish("room/a", bytes(8000))
        count += 1
        return any(s.user == "slow" and s.lag_bytes > 20_000 for s in hub.streams())

    eventually("the slow reader to lag", lags)
    answer = eventually("a stale session", lambda: (p := plan()).steps[0].rung == admin.STALE_SESSION and p)
    first, second = answer.steps[:2]
    assert (first.id, first.user, first.streams) == (silent.id, "silent", 1)
    assert first.silent_for.ToMilliseconds() >= 750
    assert (second.rung, second.user) == (admin.LAGGING_STREAM, "slow")
    assert second.lag_bytes > 20_000
    rungs = [step.rung for step in answer.steps]
    assert rungs == sorted(rungs)
    assert all(step.bytes > 0 for step in answer.steps)
    assert {step.id for step in answer.steps} >= {silent.id, second.id}
    assert (answer.pressure, answer.needed_bytes, answer.ends_next_tick) == (session.NORMAL, 0, 0)
    assert answer.ends_per_tick_max == 16
    assert answer.memory.budget_bytes == hub.status().memory.budget_bytes
    reads.until_events(count)
    time.sleep(1.2)  # a tick has passed
    assert hub.ended() == [] and len(hub.streams()) == 3
    assert quiet.ending is None and not lagging.done()
