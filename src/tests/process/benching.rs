//! `streamward bench` against a hub with its defaults: it measures, and leaves nothing behind.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Finished, Server};

/// Short, and kind to a machine with much else to do.
const OPEN: [&str; 7] = ["--rate", "200", "--sleep", "--duration", "3s", "--warmup", "100ms"];

/// Every session, stream and connection of the load is gone.
async fn assert_empty(server: &Server) {
    let left =
        server.until("nobody", |status| status.sessions + status.streams == 0 && status.connections <= 1);
    assert_eq!(left.await.subscriptions, 0);
}

/// One document, and whether its own word on being void is that of the exit code: a machine with much else to do may
/// keep the load from its rate.
#[track_caller]
fn measured(finished: Finished) -> Value {
    let void = finished.documents().remove(0)["void"].clone();
    let Some(why) = void.as_str() else { return finished.expect(0).document() };
    assert!(why.starts_with("the load itself could not keep up"), "{why}");
    finished.expect(65).document()
}

#[track_caller]
fn assert_keys(row: &Value, keys: &[&str]) {
    for key in keys {
        assert!(row[key].is_number(), "{key}: {row:#}");
    }
}

#[tokio::test]
async fn a_hub_with_its_defaults_is_measured_without_any_option() {
    let server = Server::start().await;
    let told = server.run(&["bench", "fanout"]).await.expect(0);
    let lines: Vec<&str> = told.out.lines().collect();
    assert!(lines[0].starts_with("1 publisher, 100-byte messages"), "{}", told.out);
    assert_eq!(lines.len(), 4, "a title, a header and a row each for 1 and 64 in flight: {}", told.out);
    assert!(!lines[2].contains(" - "), "nothing is unknown: {}", told.out);
    assert_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_fanout_as_json_has_a_row_for_each_combination_with_units_in_its_keys() {
    let server = Server::start().await;
    let args = [
        "bench",
        "fanout",
        "--json",
        "--subscribers",
        "3,40",
        "--in-flight",
        "1,8",
        "--messages",
        "200",
        "--warmup",
        "50ms",
        "--publishers",
        "2",
    ];
    let document = server.run(&args).await.expect(0).document();
    assert_eq!((&document["work"], &document["void"]), (&"fanout".into(), &Value::Null));
    assert_eq!((&document["publishers"], &document["size_bytes"]), (&2.into(), &100.into()));
    let rows = document["rows"].as_array().unwrap();
    let combinations: Vec<_> =
        rows.iter().map(|row| (row["subscribers"].as_u64(), row["in_flight"].as_u64())).collect();
    assert_eq!(
        combinations,
        [(Some(3), Some(1)), (Some(3), Some(8)), (Some(40), Some(1)), (Some(40), Some(8))]
    );
    for row in rows {
        assert_eq!(row["deliveries"].as_u64(), Some(2 * 200 * row["subscribers"].as_u64().unwrap()));
        assert_keys(
            row,
            &[
                "seconds",
                "deliveries_per_second",
                "megabytes_per_second",
                "server_cpu_us_per_delivery",
                "load_cpu_us_per_delivery",
                "server_rss_bytes",
                "connections",
            ],
        );
    }
    assert_empty(&server).await;
    // By process id instead.
    let pid = server.program.id().to_string();
    let mut command = crate::harness::Program::streamward([
        "bench",
        "fanout",
        "--json",
        "--in-flight",
        "1",
        "--messages",
        "50",
    ]);
    command.args(["--pid", &pid, "--server", &server.address.to_string()]);
    let document = crate::harness::Program::spawn(command).exited().await.expect(0).document();
    assert_keys(&document["rows"][0], &["server_cpu_us_per_delivery", "server_rss_bytes"]);
    assert_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn latencies_are_told_and_drawn() {
    let server = Server::start().await;
    let args = ["bench", "latency", "--json", "--subscribers", "5"];
    let document = measured(server.run(&[&args[..], &OPEN].concat()).await);
    assert_eq!((&document["work"], &document["rate"]), (&"latency".into(), &200.into()));
    let keys = [
        "latency_p50_us",
        "latency_p99_us",
        "latency_p999_us",
        "latency_max_us",
        "messages_per_second",
        "load_late_p99_us",
    ];
    assert_keys(&document["rows"][0], &keys);
    assert_empty(&server).await;
    let file = server.directory().join("plot.svg");
    let args = ["bench", "latency", "--plot", "--subscribers", "5", "--svg", file.to_str().unwrap()];
    let told = server.run(&[&args[..], &OPEN].concat()).await;
    assert!(
        told.out.contains("Latency by percentile") && told.out.contains("P99.9"),
        "{}\n{}",
        told.out,
        told.err
    );
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg"));
    assert_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn stalled_readers_are_told_of_and_logged_out() {
    let server = Server::start().await;
    let args = ["bench", "slow", "--json", "--subscribers", "6", "--stalled", "2", "--size", "1024"];
    let document = measured(server.run(&[&args[..], &OPEN].concat()).await);
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows[0]["stalled"], 0);
    if document["void"].is_null() {
        assert_eq!(rows[1]["stalled"], 2);
        assert_keys(&document, &["latency_p50_ratio", "latency_p99_ratio"]);
        // 600 KiB pass by the bound of 128 KiB and what the kernel holds.
        assert_eq!(document["stalled_ends"]["SLOW_CONSUMER"], 2, "{document:#}");
    }
    assert_empty(&server).await;
    server.run(&["bench", "slow", "--subscribers", "2", "--stalled", "2"]).await.expect(64);
    server.stop().await;
}

#[tokio::test]
async fn a_limit_that_is_reached_is_told_with_the_key_to_raise_and_everybody_is_logged_out() {
    for (variable, value, key) in [
        ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "5", "limits.connections_per_ip_max = 5"),
        ("STREAMWARD_LIMITS_SESSIONS_MAX", "10", "limits.sessions_max = 10"),
        ("STREAMWARD_LIMITS_STREAMS_PER_SESSION_MAX", "1", "limits.streams_per_session_max = 1"),
        ("STREAMWARD_LIMITS_STREAMS_PER_CONNECTION_MAX", "1", "limits.streams_per_connection_max = 1"),
    ] {
        let server = Server::with(&[(variable, value)]).await;
        let refused = server.run(&["bench", "fanout", "--messages", "10"]).await.expect(75);
        assert!(refused.err.contains(key) && refused.err.contains("Raise it"), "{}", refused.err);
        assert_empty(&server).await;
        // A connection turned away is a warning of the hub's.
        server.terminate().await.0.expect(0);
    }
    let server = Server::start().await;
    let large = server.run(&["bench", "fanout", "--size", "65537", "--messages", "10"]).await.expect(65);
    assert!(large.err.contains("Raise limits.message_bytes_max"), "{}", large.err);
    assert_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_is_stopped_tells_what_it_has_and_leaves_nothing() {
    let server = Server::start().await;
    for signal in [Signal::INT, Signal::TERM] {
        let bench = server.spawn(&["bench", "fanout", "--json", "--duration", "10m", "--warmup", "0ms"]);
        let before = server.status().await.events_delivered;
        server.until("deliveries", |status| status.events_delivered > before + 1000).await;
        bench.signal(signal);
        let stopped = bench.exited().await.expect(130);
        assert!(stopped.err.contains("stopped before the end"), "{}", stopped.err);
        let document = stopped.document();
        assert_eq!((&document["stopped_early"], &document["void"]), (&true.into(), &Value::Null));
        assert_eq!(document["rows"][0]["partial"], true);
        assert_empty(&server).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn somebody_else_on_the_topic_makes_the_run_void() {
    let server = Server::start().await;
    let bench = server.spawn(&["bench", "fanout", "--json", "--duration", "10m", "--warmup", "0ms"]);
    server.until("deliveries", |status| status.events_delivered > 1000).await;
    server.run(&["send", "room/bench", "hello"]).await.expect(0);
    let void = bench.exited().await.expect(65);
    let document = void.document();
    assert!(document["void"].as_str().unwrap().contains("5 bytes of other content"), "{document:#}");
    assert!(void.err.contains("the measurement is void"), "{}", void.err);
    assert_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_admin_socket_of_another_hub_is_not_believed() {
    let (server, other) = (Server::start().await, Server::start().await);
    let args = ["bench", "fanout", "--messages", "10", "--admin-socket"];
    let socket = other.socket();
    let refused = server.run(&[&args[..], &[socket.to_str().unwrap()]].concat()).await.expect(64);
    assert!(refused.err.contains("another hub"), "{}", refused.err);
    assert_empty(&server).await;
    server.stop().await;
    other.stop().await;
}
