//! Socket activation: the service manager holds the listening socket, we serve on it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use streamward::client::Endpoint;

use crate::harness::{Finished, Program, Server, within};

/// `command`, handed this socket as systemd hands it: as descriptor 3 of the process named in `LISTEN_PID`.
fn handed(command: &Command, socket: OwnedFd) -> Program {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Program::spawn_reading(shell, Stdio::from(socket))
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn handle(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().unwrap().into()
}

async fn refused(command: &Command, socket: OwnedFd, needle: &str) -> Finished {
    let finished = handed(command, socket).exited().await.expect(78);
    let complaint = &finished.err;
    assert!(complaint.contains(needle) && complaint.contains("streamward.socket"), "{complaint}");
    finished
}

/// Connects, logs in and out.
async fn visit(address: SocketAddr) {
    let endpoint: Endpoint = address.to_string().parse().unwrap();
    let client = streamward::client::connect(&endpoint).await.expect("the socket is held");
    client.login("anna", "", "").await.unwrap().logout().await.unwrap();
}

#[tokio::test]
async fn a_client_that_connects_while_no_server_runs_waits_and_is_served_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, address) = listener();
    let command = Server::command(directory.path());
    for _ in 0..2 {
        // Its connection is in the queue before the server is there.
        let early = std::net::TcpStream::connect(address).expect("the socket is held");
        let serve = async {
            let mut program = handed(&command, handle(&listener));
            program.err.with(&format!("listening on {address}")).await;
            program
        };
        let (program, ()) = tokio::join!(serve, within("the early client", visit(address)));
        within("another client", visit(address)).await;
        drop(early);
        program.signal(Signal::TERM);
        program.exited().await.expect(0);
    }
}

#[tokio::test]
async fn the_handed_address_counts_and_a_configured_one_that_differs_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, address) = listener();
    let mut program = handed(&Server::command(directory.path()), handle(&listener));
    let line = program.err.with("is not used").await;
    assert!(line.contains("WARN") && line.contains("127.0.0.1:0") && line.contains(&address.to_string()));
    program.signal(Signal::TERM);
    program.exited().await.expect(0);
}

#[tokio::test]
async fn a_socket_that_lets_in_strangers_is_refused_unless_that_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut command = Server::command(directory.path());
    refused(&command, handle(&listener), "auth.allow_open").await;
    command.env("STREAMWARD_AUTH_ALLOW_OPEN", "true");
    let mut program = handed(&command, handle(&listener));
    program.err.with("listening on 0.0.0.0:").await;
    program.signal(Signal::TERM);
    program.exited().await.expect(0);
}

#[tokio::test]
async fn what_is_no_listening_tcp_socket_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let command = Server::command(directory.path());
    let unix = UnixListener::bind(directory.path().join("other.sock")).unwrap();
    refused(&command, unix.into(), "not a valid tcp socket").await;
    let (listener, address) = listener();
    let connected = std::net::TcpStream::connect(address).unwrap();
    drop(listener);
    refused(&command, connected.into(), "does not listen").await;
}

#[tokio::test]
async fn sockets_meant_for_another_process_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Server::command(directory.path());
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    Server::launch(command, directory).await.stop().await;
}
