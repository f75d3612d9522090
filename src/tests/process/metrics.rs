//! The metrics page of the process: off unless asked for, on this machine only, and never in anyone's way.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use streamward::wire::v1::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Deaf, Program, Server, read_to_end, within};

/// As the server's own bound says.
const CONNECTIONS_MAX: usize = 4;

async fn server() -> (Server, SocketAddr) {
    let mut server = Server::with(&[
        ("STREAMWARD_SERVER_METRICS_LISTEN", "127.0.0.1:0"),
        // For the one test that stops by hand.
        ("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m"),
    ])
    .await;
    let line = server.program.err.with("metrics at http://").await;
    let (_, rest) = line.split_once("http://").unwrap();
    (server, rest.strip_suffix("/metrics").unwrap().parse().unwrap())
}

async fn get(address: SocketAddr, accept: &str) -> String {
    let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the page", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn value(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn the_page_tells_what_the_status_tells() {
    let (server, address) = server().await;
    let session = server.login("anna").await;
    session.publish("room/a", "x", "", "").await.unwrap();
    let page = get(address, "application/openmetrics-text").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("# EOF\n"), "{page}");
    let status = server.status().await;
    for (name, expected) in [
        ("streamward_connections", u64::from(status.connections)),
        ("streamward_sessions", u64::from(status.sessions)),
        ("streamward_last_sequence", status.last_sequence),
        ("streamward_tails_bytes", status.tails_bytes),
        ("streamward_logins_total", status.logins),
    ] {
        assert_eq!(value(&page, name), expected, "{name}");
    }
    assert_eq!((status.sessions, status.last_sequence), (1, 1));
    let shown = page.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")).unwrap();
    let told = Duration::try_from(status.cpu_time.unwrap()).unwrap().as_secs_f64();
    assert!((0.000_001..=told).contains(&shown.parse().unwrap()), "{shown} s before {told} s");
    server.stop().await;
}

#[tokio::test]
async fn nothing_listens_unless_asked_to() {
    let server = Server::start().await;
    let inodes = |name: &str| {
        let table = server.proc(name);
        table
            .lines()
            .skip(1)
            .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
            .map(|line| format!("socket:[{}]", line.split_whitespace().nth(9).unwrap()))
            .collect::<Vec<_>>()
    };
    let listening: Vec<String> = [inodes("net/tcp"), inodes("net/tcp6")].concat();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.program.id())).unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let own = targets.filter(|target| listening.iter().any(|socket| target.as_os_str() == socket.as_str()));
    assert_eq!(own.count(), 1, "the clients' listener and no other");
    assert!(!server.program.err.now().iter().any(|line| line.contains("metrics")));
    server.stop().await;
}

#[tokio::test]
async fn an_address_of_the_network_and_one_in_use_are_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Server::command(directory.path());
    command.env("STREAMWARD_SERVER_METRICS_LISTEN", "0.0.0.0:0");
    let finished = Program::spawn(command).exited().await;
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.err.contains("STREAMWARD_SERVER_METRICS_LISTEN: server.metrics_listen = 0.0.0.0:0"));
    assert!(finished.err.contains("through an SSH tunnel or a reverse proxy"), "{}", finished.err);

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Server::command(directory.path());
    command.env("STREAMWARD_SERVER_METRICS_LISTEN", &address);
    let finished = Program::spawn(command).exited().await;
    assert_eq!(finished.code, Some(69), "{finished:?}");
    let wanted = format!(
        "cannot listen on {address} for the metrics: another program listens there; choose another \
         server.metrics_listen"
    );
    assert!(finished.err.contains(&wanted), "{}", finished.err);
    assert!(!directory.path().join("admin.sock").exists(), "nothing is left behind");
}

#[tokio::test]
async fn clients_that_say_nothing_hold_four_places_at_most_and_are_cut() {
    let (server, address) = server().await;
    let status = server.status().await;
    assert_eq!(status.connections, 1, "the administrator's");
    let before = server.descriptors();
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(within("a connection", TcpStream::connect(address)).await.unwrap());
    }
    within("some of them", async {
        while server.descriptors() == before {
            server.status().await;
        }
    })
    .await;
    let mut seen = server.descriptors();
    for _ in 0..10 {
        server.status().await;
        seen = seen.max(server.descriptors());
    }
    assert!(seen <= before + CONNECTIONS_MAX, "{before} descriptors became {seen}");
    let session = server.login("anna").await;
    session.publish("room/a", "others go on", "", "").await.unwrap();
    assert_eq!(read_to_end(&mut silent[0]).await, b"", "its time for a request is over");
    drop(silent);
    assert_eq!(value(&get(address, "*/*").await, "streamward_sessions"), 1);
    server.stop().await;
}

#[tokio::test]
async fn the_page_is_there_through_the_drain() {
    let (server, address) = server().await;
    let session = server.login("deaf").await;
    let deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    server.program.signal(Signal::TERM);
    server.until("the drain", |status| status.phase() == Phase::Draining).await;
    let page = get(address, "*/*").await;
    assert_eq!(value(&page, "streamward_phase{streamward_phase=\"draining\"}"), 1);
    assert_eq!(value(&page, "streamward_streams"), 1);
    server.program.signal(Signal::TERM);
    deaf.ended().await;
    let (finished, _) = server.exited().await;
    finished.expect(75);
}

#[tokio::test]
async fn a_silent_client_of_the_page_holds_up_no_stop() {
    let (server, address) = server().await;
    let _silent = within("a connection", TcpStream::connect(address)).await.unwrap();
    server.stop().await;
    let gone = TcpStream::connect(address).await;
    assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
