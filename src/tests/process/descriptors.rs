//! Connections: silent ones, and what becomes of a server that has no descriptor left for one.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use streamward::client::{Item, MessageStream, Session};
use streamward::wire::v1;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Server, follow, read_to_end, within};

/// Publishes and hears it.
pub(crate) async fn say(session: &Session, stream: &mut MessageStream, text: &'static str) {
    let position = within("a receipt", session.publish("room/a", text, "", "")).await.unwrap();
    match within("the event", stream.next()).await {
        Ok(Item::Event(event)) => {
            assert_eq!((event.sequence, &event.payload[..]), (position.sequence, text.as_bytes()))
        }
        other => panic!("{other:?}"),
    }
}

fn uptime_seconds(status: &v1::ServerStatus) -> f64 {
    let uptime = status.uptime.unwrap();
    uptime.seconds as f64 + f64::from(uptime.nanos) / 1e9
}

/// Lets the server have `more` descriptors than it has now.
pub(crate) fn bound_descriptors(server: &Server, more: usize) {
    let bound = Rlimit { current: Some((server.descriptors() + more) as u64), maximum: Some(1024) };
    prlimit(Pid::from_raw(server.program.id().cast_signed()), Resource::Nofile, bound).unwrap();
}

#[tokio::test]
async fn without_descriptors_the_server_idles_serves_whom_it_has_and_recovers() {
    let server = Server::with(&[
        ("STREAMWARD_LIMITS_HANDSHAKE_TIMEOUT", "10m"),
        ("STREAMWARD_LIMITS_HALF_OPEN_MAX", "200"),
        ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "200"),
    ])
    .await;
    let session = server.login("anna").await;
    let mut stream = follow(&session, "room/a").await;
    bound_descriptors(&server, 5);
    let mut crowd = Vec::new();
    for _ in 0..20 {
        // The kernel accepts for the server until its queue is full.
        crowd.push(within("a connection", TcpStream::connect(server.address)).await.unwrap());
    }
    let first = server.until("an accept error", |status| status.accept_errors > 0).await;
    let cpu_seconds = server.cpu_seconds();
    say(&session, &mut stream, "while exhausted").await;
    let later = server
        .until("a second without descriptors", |status| {
            uptime_seconds(status) >= uptime_seconds(&first) + 1.0
        })
        .await;
    let seconds = uptime_seconds(&later) - uptime_seconds(&first);
    let busy = (server.cpu_seconds() - cpu_seconds) / seconds;
    assert!(busy < 0.2, "a share of {busy} of the CPU while exhausted");
    let tries = (later.accept_errors - first.accept_errors) as f64 / seconds;
    assert!((1.0..50.0).contains(&tries), "{tries} tries per second");
    say(&session, &mut stream, "still").await;

    drop(crowd);
    let other = server.login("berta").await;
    let mut others = follow(&other, "room/a").await;
    say(&other, &mut others, "and everyone again").await;
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["cannot accept connections: "]);
    assert_eq!(log.count("cannot accept connections: "), 1, "once, not once per try");
    finished.expect(0);
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_handshake_timeout() {
    let server =
        Server::with(&[("STREAMWARD_LIMITS_HANDSHAKE_TIMEOUT", "300ms"), ("STREAMWARD_LOG_LEVEL", "debug")])
            .await;
    let session = server.login("anna").await;
    let mut stream = follow(&session, "room/a").await;
    let mut silent = within("a connection", TcpStream::connect(server.address)).await.unwrap();
    // Half a preface is silence, too.
    let mut half = within("a connection", TcpStream::connect(server.address)).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    // The server's own settings go out before anything is heard; then the end.
    read_to_end(&mut silent).await;
    read_to_end(&mut half).await;
    let (first, _) = server.program.err.clone().from(0, "within limits.handshake_timeout").await;
    server.program.err.clone().from(first + 1, "within limits.handshake_timeout").await;
    say(&session, &mut stream, "fine").await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_http2_is_closed_and_nobody_notices() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let mut stream = follow(&session, "room/a").await;
    let before = server.status().await;
    let garbage: Vec<u8> = (0..4096_u32).map(|number| (number * 31 % 251) as u8).collect();
    let requests: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: pi.local\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello begins like this",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then no settings frame at all, only words and more words",
        &garbage,
    ];
    for request in requests {
        let mut peer = within("a connection", TcpStream::connect(server.address)).await.unwrap();
        peer.write_all(request).await.unwrap();
        read_to_end(&mut peer).await;
    }
    let after = server.until("them to be gone", |status| status.connections == before.connections).await;
    assert_eq!((after.sessions, after.streams, after.last_sequence), (1, 1, 0));
    say(&session, &mut stream, "fine").await;
    server.stop().await;
}
