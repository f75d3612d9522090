//! `bench sessions`, `idle` and `resume` against the real server: what they tell, and that they leave nothing behind.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Program, Server};

/// Nothing of a bench is left.
async fn assert_left(server: &Server) {
    server
        .until("nothing left", |status| (status.sessions, status.streams, status.connections) == (0, 0, 1))
        .await;
}

fn number(document: &Value, key: &str) -> f64 {
    document[key].as_f64().unwrap_or_else(|| panic!("no {key} in {document}"))
}

#[tokio::test]
async fn a_default_hub_takes_each_work_and_is_as_before() {
    let server = Server::start().await;
    for line in [
        "sessions --json --duration 200ms --warmup 50ms",
        "idle --json --connections 40 --hold 100ms",
        "resume --json --clients 40 --before 100ms",
        "resume --json --clients 20 --before 100ms --log-in",
    ] {
        let words: Vec<&str> = ["bench"].into_iter().chain(line.split(' ')).collect();
        let document = server.run(&words).await.expect(0).document();
        assert_eq!(document["work"], words[1], "{document}");
        assert_eq!(document["stopped_early"], false, "{document}");
        for holder in ["connections", "sessions", "streams"] {
            assert_eq!(document["left"][holder], 0, "{document}");
        }
        match words[1] {
            "sessions" => {
                assert!(number(&document, "visits") > 0.0);
                assert!(number(&document, "server_cpu_us_per_visit") > 0.0);
                assert!(number(&document["login"], "p99_us") > 0.0);
            }
            "idle" => assert!(number(&document, "bytes_per_connection") > 1024.0, "{document}"),
            _ => {
                assert_eq!(document["caught_up"], document["clients"], "{document}");
                assert_eq!(document["events_lost"], 0, "{document}");
                assert!(number(&document, "rss_peak_bytes") <= number(&document, "budget_bytes"));
            }
        }
        assert_left(&server).await;
    }
    server.terminate().await.0.expect(0);
}

#[tokio::test]
async fn a_limit_is_told_with_its_key_and_nobody_stays() {
    let server = Server::with(&[
        ("STREAMWARD_LIMITS_SESSIONS_MAX", "10"),
        ("STREAMWARD_LIMITS_SESSIONS_PER_USER_MAX", "10"),
        ("STREAMWARD_LIMITS_STREAM_OPENS_PER_SECOND_MAX", "2"),
    ])
    .await;
    for work in ["idle", "resume"] {
        let refused = server.run(&["bench", work]).await.expect(75);
        assert!(refused.err.contains("limits.sessions_max = 10"), "{refused:?}");
        assert_left(&server).await;
    }
    let refused =
        server.run(&["bench", "sessions", "--keep-connection", "--duration", "5s"]).await.expect(75);
    assert!(refused.err.contains("limits.stream_opens_per_second_max"), "{refused:?}");
    assert_left(&server).await;
    server.terminate().await.0.expect(0);
}

#[tokio::test]
async fn stopped_in_the_middle_it_leaves_nothing() {
    let server = Server::start().await;
    for work in ["idle --hold 10m", "resume --before 10m", "sessions --duration 10m"] {
        let words: Vec<&str> = ["bench"].into_iter().chain(work.split(' ')).collect();
        let logins = server.status().await.logins;
        let bench = server.spawn(&words);
        server.until("its clients", |status| status.logins > logins + 20).await;
        bench.signal(Signal::INT);
        bench.exited().await.expect(130);
        assert_left(&server).await;
    }
    server.terminate().await.0.expect(0);
}

#[tokio::test]
async fn the_configuration_it_prints_is_one_that_a_server_takes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bench.toml");
    let printed = Program::run(&["bench", "limits", "--clients", "300"]).await.expect(0);
    std::fs::write(&path, printed.out).unwrap();
    Program::run(&["serve", "--check-config", "--config", path.to_str().unwrap()]).await.expect(0);
}
