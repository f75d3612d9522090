"""The metrics page, read with Prometheus' own parsers, tells what the status tells."""

import re
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from hubkit import eventually, reason, reason_name

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus 3 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def hub(start):
    hub = start(server_metrics_listen="127.0.0.1:0")
    hub.metrics = re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", hub.log())[1]
    return hub


def scrape(hub, accept):
    """The families and the samples by name and labels; the parser has checked the format."""
    request = urllib.request.Request(hub.metrics, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        kind, text = answer.headers["Content-Type"], answer.read().decode()
    parse = openmetrics.text_string_to_metric_families if kind == OPENMETRICS else text_string_to_metric_families
    families = {family.name: family for family in parse(text)}
    samples = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    return kind, families, samples


@pytest.mark.parametrize("accept, kind", [(PROMETHEUS, OPENMETRICS), ("", TEXT), ("text/plain", TEXT)])
def test_page_parses_and_agrees_with_the_status(hub, accept, kind):
    alice = hub.session("alice")
    stream = alice.live("room/a", "room/b")
    for _ in range(10):
        alice.publish("room/a", bytes(100))
    stream.until_events(10)
    gone = hub.session("bob")
    gone.live("room/a")
    gone.logout()
    status = eventually("all deliveries", lambda: (s := hub.status()).events_delivered >= 10 and s)
    found, families, samples = scrape(hub, accept)
    assert found == kind
    for name in ("connections", "sessions", "streams", "subscriptions", "topics", "last_sequence", "tails_bytes"):
        assert samples[f"streamward_{name}",] == getattr(status, name), name
    assert samples["streamward_tails_max_bytes",] == status.tails_bytes_max
    assert samples["streamward_delivered_events_total",] == status.events_delivered
    assert samples["streamward_delivered_bytes_total",] == status.bytes_delivered
    assert samples["streamward_logins_total",] == status.logins == 2
    assert samples["streamward_build_info", ("epoch", status.epoch), ("version", status.version)] == 1
    assert abs(samples["streamward_start_time_seconds",] - status.started_at.ToNanoseconds() / 1e9) < 1
    assert samples["streamward_phase", ("streamward_phase", "running")] == 1
    assert samples["streamward_phase", ("streamward_phase", "draining")] == 0
    assert samples["streamward_resident_memory_bytes",] > 1_000_000
    assert families["streamward_tails_bytes"].type == "gauge"
    ends = {(c.reason, kind): getattr(c, f"{kind}s") for c in status.ended for kind in ("stream", "session")}
    for number in reason.EndReason.values():
        if number == 0:
            continue
        for kind in ("stream", "session"):
            key = ("streamward_ended_total", ("kind", kind), ("reason", reason_name(number)))
            assert samples[key] == ends.get((number, kind), 0), key


def test_units_and_types_are_told(hub):
    _, families, _ = scrape(hub, OPENMETRICS)
    expected = {
        "streamward_delivered_bytes": ("counter", "bytes"),
        "streamward_loop_lag_seconds": ("gauge", "seconds"),
        "streamward_pressure": ("stateset", ""),
        "streamward_build": ("info", ""),
        "streamward_ended": ("counter", ""),
    }
    assert {name: (families[name].type, families[name].unit) for name in expected} == expected
    assert all(family.documentation for family in families.values())


def test_only_get_of_the_page(hub):
    for method, path, code in (("POST", "", 405), ("GET", "/x", 404)):
        request = urllib.request.Request(hub.metrics + path, method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        assert error.value.code == code
