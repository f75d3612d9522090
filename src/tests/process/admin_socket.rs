//! The admin socket: for its owner and root alone, and for one server at a time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, geteuid};
use streamward::wire::v1;
use streamward::wire::v1::admin_service_client::AdminServiceClient;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::harness::{Program, STREAMWARD, Server, within};

/// Somebody else: `nobody`.
const OTHER_UID: u32 = 65534;

#[tokio::test]
async fn the_admin_socket_is_for_its_owner_alone() {
    let server = Server::start().await;
    let mode = fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let server = Server::start().await;
    let second = Program::spawn(Server::command(server.directory())).exited().await.expect(69);
    assert!(second.err.contains("admin.sock: another server answers there"), "{}", second.err);
    assert!(second.err.contains("--admin-socket"), "{}", second.err);
    server.run(&["status"]).await.expect(0);
    server.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_port_is_refused_and_the_first_goes_on() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Program::streamward(["serve", "--listen", &server.address.to_string()]);
    command.arg("--admin-socket").arg(directory.path().join("other.sock"));
    let second = Program::spawn(command).exited().await.expect(69);
    assert!(second.err.contains(&format!("cannot listen on {}", server.address)), "{}", second.err);
    assert!(second.err.contains("--listen"), "{}", second.err);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    server.login("anna").await.logout().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_socket_left_by_a_killed_server_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mut killed = Program::spawn(Server::command(directory.path()));
    killed.err.with("listening on ").await;
    killed.signal(Signal::KILL);
    killed.exited().await;
    assert!(directory.path().join("admin.sock").exists(), "nobody cleaned up");
    let server = Server::launch(Server::command(directory.path()), directory).await;
    server.program.err.clone().with("left behind by a server that died").await;
    server.run(&["status"]).await.expect(0);
    server.stop().await;
}

#[tokio::test]
async fn a_socket_that_cannot_be_made_is_told_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    // Below a file there is no directory, not even for root.
    let server = Program::spawn(Server::command(&file)).exited().await.expect(73);
    let socket = file.join("admin.sock");
    assert!(
        server.err.contains(&format!("cannot make the admin socket {}", socket.display())),
        "{}",
        server.err
    );
    assert!(server.err.contains("--admin-socket"), "{}", server.err);
}

#[tokio::test]
async fn administration_is_not_served_over_tcp() {
    let server = Server::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = within("a connection", endpoint.connect()).await.unwrap();
    let mut admin = AdminServiceClient::new(channel);
    let status = within("an answer", admin.get_status(v1::GetStatusRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("admin socket"), "{status:?}");
    let drain = v1::DrainRequest::default();
    let status = within("an answer", admin.drain(drain)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(server.status().await.phase(), v1::Phase::Running);
    server.stop().await;
}

#[tokio::test]
async fn another_user_is_refused_by_the_file_and_then_by_the_server() {
    if !geteuid().is_root() {
        println!("skipped: only root can act as another user");
        return;
    }
    let server = Server::start().await;
    // Where everyone may go and run it.
    fs::set_permissions(server.directory(), Permissions::from_mode(0o755)).unwrap();
    let program = server.directory().join("streamward");
    fs::copy(STREAMWARD, &program).unwrap();
    let as_other = || {
        let mut command = Command::new(&program);
        command.env_clear().uid(OTHER_UID).gid(OTHER_UID).args(["status", "--admin-socket"]);
        command.arg(server.socket());
        Program::spawn(command)
    };
    let refused = as_other().exited().await.expect(77);
    assert!(refused.err.contains("permission denied"), "{}", refused.err);
    assert!(refused.err.contains("sudo"), "{}", refused.err);

    // Even a socket that was opened to all serves nobody else.
    fs::set_permissions(server.socket(), Permissions::from_mode(0o666)).unwrap();
    let refused = as_other().exited().await;
    assert_ne!(refused.code, Some(0), "{}", refused.out);
    assert_eq!(refused.out, "");
    let warning = format!("refused uid {OTHER_UID} on the admin socket");
    server.program.err.clone().with(&warning).await;
    server.run(&["status"]).await.expect(0);
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&[&warning]);
    finished.expect(0);
}
