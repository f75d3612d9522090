"""Every test has a server process of its own; one that complains in its log fails the test."""

import os
import shutil

import pytest

import hubkit


@pytest.fixture
def start(request):
    """Starts servers: `start(limits_sessions_max=2)` sets `[limits] sessions_max = 2`; `listen=` names the address."""
    binary = os.environ.get("HUB_BINARY", str(hubkit.ROOT / "target/release/streamward"))
    hubs = []

    def new(**settings):
        hubs.append(hubkit.Hub(binary, **settings))
        return hubs[-1]

    yield new
    for hub in hubs:
        hub.close()
    failed = getattr(request.node, "failed", False)
    complaints = [line for hub in hubs for line in hub.complaints()]
    for hub in hubs:
        if failed or complaints:
            print(f"--- log of the server on port {hub.port} ---\n{hub.log()}")
        shutil.rmtree(hub.directory, ignore_errors=True)
    assert not complaints, complaints


@pytest.fixture
def hub(start):
    """A server with default settings."""
    return start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.failed = True
