//! Stopping: what has a receipt is delivered, what is stuck is cut at the deadline, and both are told.

use rustix::process::Signal;
use streamward::base::reason::EndReason;
use streamward::client::ClientError;
use streamward::wire::v1::Phase;
use tonic::Code;

use crate::harness::{Deaf, Load, Server, follow, within};

/// Events in the hub before a test goes on: the load is really on.
const UNDER_LOAD: u64 = 2_000;

#[tokio::test]
async fn sigterm_under_load_delivers_every_receipt_to_every_follower() {
    let server = Server::with(&Load::ENVIRONMENT).await;
    let load = Load::start(&server, 20, 10).await;
    server.until("load", |status| status.last_sequence >= UNDER_LOAD).await;
    server.program.signal(Signal::TERM);
    let told = load.ended().await;
    let (finished, log) = server.exited().await;
    told.expect_no_loss(EndReason::ServerDraining);
    for end in &told.ends {
        let retry_after = end.details.as_ref().and_then(|details| details.retry_after);
        assert!(retry_after.is_some(), "nobody is left without a time to come back: {end:?}");
    }
    assert_eq!(log.count("drained: everything accepted was delivered"), 1);
    log.expect_complaints(&[]);
    finished.expect(0);
}

#[tokio::test]
async fn a_follower_that_never_reads_ends_the_drain_at_its_deadline_and_costs_nobody_else_anything() {
    let mut environment = Load::ENVIRONMENT.to_vec();
    environment.push(("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "2s"));
    let server = Server::with(&environment).await;
    let session = server.login("deaf").await;
    let deaf = Deaf::follow(server.address, &session, "room/load").await;
    let load = Load::start(&server, 20, 10).await;
    server.until("load", |status| status.last_sequence >= UNDER_LOAD).await;
    server.program.signal(Signal::TERM);
    let told = load.ended().await;
    let end = deaf.ended().await;
    let (finished, log) = server.exited().await;
    told.expect_no_loss(EndReason::ServerDraining);
    // Headers need no window: even this peer is told.
    assert_eq!(end.and_then(|end| end.reason), Some(EndReason::ServerDraining));
    let stuck = log.0.iter().filter(|line| line.contains("cut before it had everything: "));
    let stuck: Vec<_> = stuck.filter(|line| line.contains("(deaf ")).collect();
    assert_eq!(stuck.len(), 1, "the one that was stuck is named: {:?}", log.0);
    log.expect_complaints(&["cut before it had everything: "]);
    assert_eq!(log.count("cut before it had everything: "), 1, "and nobody else");
    finished.expect(75);
}

#[tokio::test]
async fn a_peer_that_takes_no_byte_off_its_socket_is_cut_after_the_flush_timeout() {
    let server = Server::with(&[
        ("STREAMWARD_LIMITS_LAG_BYTES_MAX", "16MiB"),
        ("STREAMWARD_LIMITS_TAIL_BYTES_MAX", "16MiB"),
        ("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "500ms"),
        ("STREAMWARD_SHUTDOWN_FLUSH_TIMEOUT", "300ms"),
    ])
    .await;
    let session = server.login("stuck").await;
    let stuck = Deaf::follow_wide(server.address, &session, "room/a").await;
    stuck.stop_reading();
    // More than the kernel holds for it.
    for _ in 0..100 {
        within("a receipt", session.publish("room/a", vec![b'x'; 64 * 1024], "", "")).await.unwrap();
    }
    let (finished, log) = server.terminate().await;
    finished.expect(75);
    log.expect_complaints(&["cut before it had everything: "]);
    assert_eq!(log.count("(stuck "), 1, "it is named: {:?}", log.0);
    drop(stuck);
}

#[tokio::test]
async fn during_a_drain_nobody_comes_in_and_the_administrator_sees_what_is_stuck() {
    let server = Server::with(&[("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m")]).await;
    let (session, bystander) = (server.login("deaf").await, server.login("anna").await);
    let deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    server.program.signal(Signal::TERM);
    server.until("the drain", |status| status.phase() == Phase::Draining && status.sessions == 1).await;

    let late = server.run(&["send", "room/a", "x"]).await.expect(69);
    assert!(late.err.contains("connection refused"), "{}", late.err);
    let refused = within("an answer", bystander.publish("room/a", "late", "", "")).await.unwrap_err();
    assert!(
        matches!(refused.reason(), Some(EndReason::ServerDraining))
            || matches!(refused, ClientError::Transport { .. }),
        "{refused:?}"
    );

    let status = server.run(&["status", "--json"]).await.expect(0).document();
    assert_eq!((&status["phase"], &status["streams"]), (&"DRAINING".into(), &1.into()));
    let listed = server.run(&["streams", "--json"]).await.expect(0).document();
    let stream = &listed["streams"][0];
    assert_eq!((&stream["user"], &stream["ending"]), (&"deaf".into(), &"SERVER_DRAINING".into()), "{listed}");
    server.program.signal(Signal::TERM);
    deaf.ended().await;
    server.exited().await.0.expect(75);
}

#[tokio::test]
async fn a_second_sigterm_cuts_a_long_drain_at_once() {
    // Longer than any test waits: that it ends at all is the second signal's doing.
    let server = Server::with(&[("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m")]).await;
    let session = server.login("deaf").await;
    let deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    let mut log = server.program.err.clone();
    server.program.signal(Signal::TERM);
    server.until("the drain", |status| status.phase() == Phase::Draining).await;
    server.program.signal(Signal::TERM);
    let end = deaf.ended().await;
    log.with("SIGTERM again: cutting what is left").await;
    let (finished, _) = server.exited().await;
    assert_eq!(end.and_then(|end| end.reason), Some(EndReason::ServerDraining));
    finished.expect(75);
}

#[tokio::test]
async fn an_idle_server_stops_with_sigint_and_leaves_no_socket_behind() {
    let server = Server::start().await;
    let socket = server.socket();
    assert!(socket.exists());
    let directory = server.directory().to_owned();
    server.program.signal(Signal::INT);
    // The directory is removed with the server: look before that.
    let mut log = server.program.err.clone();
    log.with("drained: everything accepted was delivered").await;
    let kept = std::fs::File::open(&directory).unwrap();
    let (finished, log) = server.exited().await;
    drop(kept);
    log.expect_complaints(&[]);
    finished.expect(0);
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_drain_asked_for_by_the_administrator_is_the_same_stop() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let mut stream = follow(&session, "room/a").await;
    server.run(&["drain", "--note", "moving house"]).await.expect(0);
    let end = within("the stream's end", async {
        loop {
            if let Err(end) = stream.next().await {
                return end;
            }
        }
    })
    .await;
    assert_eq!(end.reason, Some(EndReason::ServerDraining));
    let (finished, log) = server.exited().await;
    log.expect_complaints(&[]);
    finished.expect(0);
}

#[tokio::test]
async fn sigkill_is_seen_by_every_client_as_a_lost_connection() {
    let server = Server::start().await;
    let client = server.connect().await;
    let session = client.login("anna", "", "").await.unwrap();
    let mut subscribed = follow(&session, "room/a").await;
    let (_sender, mut connected) = session.open().await.unwrap();
    server.program.signal(Signal::KILL);
    for stream in [&mut subscribed, &mut connected] {
        let end = within("the stream's end", stream.next()).await.unwrap_err();
        assert_eq!(end.reason, Some(EndReason::ConnectionLost), "{end:?}");
    }
    let error = within("a refusal", client.login("anna", "", "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport { .. }), "{error:?}");
    let (finished, _) = server.exited().await;
    assert_eq!(finished.signal, Some(9));
}

#[tokio::test]
async fn what_a_second_sigterm_cuts_is_named_in_the_log() {
    let server = Server::with(&[("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m")]).await;
    let session = server.login("deaf").await;
    let _deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    server.program.signal(Signal::TERM);
    server.until("the drain", |status| status.phase() == Phase::Draining).await;
    server.program.signal(Signal::TERM);
    let (finished, log) = server.exited().await;
    finished.expect(75);
    log.expect_complaints(&["SIGTERM again: cutting what is left", "(deaf "]);
}

#[tokio::test]
async fn a_lost_connection_has_the_code_unavailable() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let mut stream = follow(&session, "room/a").await;
    server.program.signal(Signal::KILL);
    let end = within("the stream's end", stream.next()).await.unwrap_err();
    assert_eq!(
        (end.reason, end.status.code()),
        (Some(EndReason::ConnectionLost), Code::Unavailable),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_cancel_during_the_drain_ends_what_is_stuck_at_once() {
    let server = Server::with(&[("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m")]).await;
    let session = server.login("deaf").await;
    let deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    server.program.signal(Signal::TERM);
    server.until("the drain", |status| status.phase() == Phase::Draining).await;
    let listed = server.run(&["streams", "--json"]).await.expect(0).document();
    let id = listed["streams"][0]["id"].as_str().unwrap();
    let done = server.run(&["cancel", id]).await.expect(0);
    assert!(done.out.contains("1 stream;"), "{}", done.out);
    // The first cause stays, whoever lost patience later.
    assert_eq!(deaf.ended().await.and_then(|end| end.reason), Some(EndReason::ServerDraining));
    server.exited().await;
}
