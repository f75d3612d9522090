//! More connections than there may be: who is told, who is let in, and that nobody inside notices.

use std::net::SocketAddr;
use streamward::wire::v1::ServerStatus;

use streamward::base::reason::EndReason;
use streamward::client::{ClientError, StreamEnd, connect_io};
use tokio::net::{TcpSocket, TcpStream};

use crate::descriptors::say;
use crate::harness::{Server, follow, within};

/// Another address of this machine.
const ELSEWHERE: &str = "127.0.0.2:0";

async fn dial_from_elsewhere(to: SocketAddr) -> TcpStream {
    dial_from(ELSEWHERE.parse().unwrap(), to).await
}

async fn dial_from(source: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source).unwrap();
    within("a connection", socket.connect(to)).await.unwrap()
}

/// The next client is told this limit, and when to come back.
async fn expect_turned_away(server: &Server, key: &str) {
    let client = server.connect().await;
    let error = within("an answer", client.login("late", "", "")).await.unwrap_err();
    let ClientError::Refused { status, .. } = error else { panic!("{error:?}") };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    let refusal = StreamEnd::from_status(*status);
    assert_eq!(refusal.reason, Some(EndReason::QuotaExceeded));
    let details = refusal.details.unwrap();
    assert_eq!(details.quota.unwrap().subject, key);
    assert!(details.retry_after.unwrap() >= std::time::Duration::from_secs(5));
}

#[tokio::test]
async fn connections_per_ip_max_is_told_to_the_next_and_the_others_go_on() {
    let server = Server::with(&[("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "2")]).await;
    let (anna, berta) = (server.login("anna").await, server.login("berta").await);
    let (mut annas, mut bertas) = (follow(&anna, "room/a").await, follow(&berta, "room/b").await);
    let connections = server.status().await.connections;
    expect_turned_away(&server, "limits.connections_per_ip_max").await;
    say(&anna, &mut annas, "still here").await;
    let status = server.status().await;
    assert_eq!((status.connections, status.connections_refused), (connections, 1));

    // Room again once one of them has left.
    berta.logout().await.unwrap();
    within("the stream's end", bertas.next()).await.unwrap_err();
    server.until("a connection to close", |status| status.connections < connections).await;
    let carla = server.login("carla").await;
    let mut carlas = follow(&carla, "room/a").await;
    say(&carla, &mut carlas, "here too").await;
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["limits.connections_per_ip_max = 2"]);
    finished.expect(0);
}

#[tokio::test]
async fn connections_max_is_told_to_the_next_and_the_others_go_on() {
    let server = Server::with(&[
        ("STREAMWARD_LIMITS_CONNECTIONS_MAX", "2"),
        ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "2"),
        ("STREAMWARD_LIMITS_HALF_OPEN_MAX", "2"),
    ])
    .await;
    let (anna, berta) = (server.login("anna").await, server.login("berta").await);
    let mut annas = follow(&anna, "room/a").await;
    for _ in 0..20 {
        expect_turned_away(&server, "limits.connections_max").await;
    }
    say(&anna, &mut annas, "still here").await;
    assert_eq!(server.status().await.connections_refused, 20);
    berta.logout().await.unwrap();
    server.until("room", |status| status.connections == 2).await;
    let carla = server.login("carla").await;
    let mut carlas = follow(&carla, "room/a").await;
    say(&carla, &mut carlas, "here too").await;
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["limits.connections_max = 2"]);
    finished.expect(0);
}

#[tokio::test]
async fn thousands_of_connections_from_one_address_leave_room_for_the_others() {
    let server = Server::start().await;
    let (anna, berta, carla) =
        (server.login("anna").await, server.login("berta").await, server.login("carla").await);
    let mut annas = follow(&anna, "room/a").await;
    let mut bertas = follow(&berta, "room/a").await;
    let mut carlas = follow(&carla, "room/a").await;
    let before = server.status().await;
    for _ in 0..15 {
        let mut crowd = Vec::new();
        for _ in 0..200 {
            crowd.push(dial_from_elsewhere(server.address).await);
        }
        say(&anna, &mut annas, "during").await;
        for stream in [&mut bertas, &mut carlas] {
            within("the event", stream.next()).await.unwrap();
        }
        let status = server.status().await;
        assert!(status.connections <= before.connections + 32, "{status:?}");
        // A new client from another address gets in.
        let dora = server.login("dora").await;
        dora.logout().await.unwrap();
    }
    let is_over = |status: &ServerStatus| {
        status.connections == before.connections && status.descriptors <= before.descriptors + 2 * 8
    };
    let after = server.until("them to be gone", is_over).await;
    assert!(after.connections_refused >= 1000, "{}", after.connections_refused);
    let (finished, log) = server.terminate().await;
    // Its silent ones also made room for the newcomers.
    log.expect_complaints(&["limits.connections_per_ip_max = 32", "limits.half_open_max"]);
    finished.expect(0);
}

#[tokio::test]
async fn silent_connections_do_not_keep_new_clients_out() {
    let server = Server::with(&[
        // Nobody waits for this.
        ("STREAMWARD_LIMITS_HANDSHAKE_TIMEOUT", "10m"),
        ("STREAMWARD_LIMITS_HALF_OPEN_MAX", "8"),
        ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "200"),
    ])
    .await;
    let anna = server.login("anna").await;
    let mut annas = follow(&anna, "room/a").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(dial_from_elsewhere(server.address).await);
    }
    for user in ["berta", "carla", "dora"] {
        let session = server.login(user).await;
        let mut stream = follow(&session, "room/a").await;
        say(&session, &mut stream, "in").await;
        within("the event", annas.next()).await.unwrap();
    }
    let status = server.until("the oldest to go", |status| status.connections_abusive >= 92).await;
    assert_eq!(status.connections_refused, 0);
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["limits.half_open_max"]);
    finished.expect(0);
}

#[tokio::test]
async fn clients_that_come_all_at_once_are_all_let_in_though_none_is_as_fast_as_the_acceptor() {
    // A slow machine may take long to say all the first words.
    let server = Server::with(&[("STREAMWARD_LIMITS_HANDSHAKE_TIMEOUT", "10m")]).await;
    let before = server.status().await;
    // Three times as many as there may be for long; none has said a word when the last one is there.
    let mut silent = Vec::new();
    for number in 0..96 {
        let source = SocketAddr::from(([127, 0, 0, 2 + number / 16], 0));
        silent.push(dial_from(source, server.address).await);
    }
    let is_there = |status: &ServerStatus| status.descriptors >= before.descriptors + 96;
    server.until("all to be there", is_there).await;
    for (number, stream) in silent.into_iter().enumerate() {
        let client = within("a handshake", connect_io(stream)).await.unwrap();
        let session = within("a session", client.login(&format!("user{number}"), "", "")).await.unwrap();
        session.logout().await.unwrap();
    }
    let status = server.status().await;
    assert_eq!((status.connections_abusive, status.connections_refused), (0, 0));
    let (finished, _) = server.terminate().await;
    finished.expect(0);
}
