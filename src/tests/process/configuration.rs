//! The configuration: every mistake at once with its place, the bill, and what SIGHUP changes.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Program, Server};

/// The file's text as an argument, in a directory of its own.
fn file(directory: &Path, text: &str) -> String {
    let path = directory.join("streamward.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const FIVE_MISTAKES: &str = "\
[server]
listen = \"nowhere\"
[limits]
lease = \"60s\"
leese = \"90s\"
sessions_max = -1
message_bytes_max = \"64 parsecs\"
[limmits]
topics_max = 1
";

#[tokio::test]
async fn five_mistakes_are_told_at_once_each_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), FIVE_MISTAKES);
    for command in
        [&["serve", "--config"][..], &["check-config", "--config"], &["serve", "--check-config", "--config"]]
    {
        let args: Vec<&str> = command.iter().copied().chain([path.as_str()]).collect();
        let refused = Program::run(&args).await.expect(78);
        assert_eq!(refused.out, "");
        for (line, words) in [
            (2, "server.listen cannot be"),
            (5, "did you mean limits.lease?"),
            (6, "limits.sessions_max cannot be"),
            (7, "limits.message_bytes_max cannot be"),
            (8, "did you mean [limits]?"),
        ] {
            let place = format!("{path}:{line}:");
            let told = refused.err.lines().find(|told| told.starts_with(&place));
            assert!(told.is_some_and(|told| told.contains(words)), "{place} {words}\n{}", refused.err);
        }
        // One sentence before them.
        assert_eq!(refused.err.lines().count(), 6, "{}", refused.err);
    }
}

#[tokio::test]
async fn an_unknown_variable_is_refused_with_the_one_that_was_meant() {
    let mut command = Program::streamward(["serve"]);
    command.env("STREAMWARD_LIMITS_LEESE", "5m");
    let refused = Program::spawn(command).exited().await.expect(78);
    assert!(refused.err.contains("STREAMWARD_LIMITS_LEESE"), "{}", refused.err);
    assert!(refused.err.contains("did you mean STREAMWARD_LIMITS_LEASE?"), "{}", refused.err);
}

#[tokio::test]
async fn a_missing_file_is_told_with_its_path() {
    let refused = Program::run(&["serve", "--config", "/nonexistent/streamward.toml"]).await.expect(78);
    assert!(refused.err.contains("/nonexistent/streamward.toml: cannot be read"), "{}", refused.err);
}

#[tokio::test]
async fn checking_prints_the_bill_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let reference = Program::run(&["check-config", "--reference"]).await.expect(0);
    let path = file(directory.path(), &reference.out);
    for args in [&["check-config", "--config", &path][..], &["serve", "--check-config", "--config", &path]] {
        let checked = Program::run(args).await.expect(0);
        for words in ["connections: h2 buffers", "total", "memory budget", "the configuration is good"] {
            assert!(checked.out.contains(words), "{words}: {}", checked.out);
        }
        assert_eq!(checked.err, "");
    }
}

/// A server that reads everything from a file, flags and variables aside.
async fn server_with_file(text: &str) -> (Server, String) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let head = format!("[server]\nadmin_socket = {:?}\nlisten = \"127.0.0.1:0\"\n", socket.to_str().unwrap());
    let path = file(directory.path(), &format!("{head}{text}"));
    let server = Server::launch(Program::streamward(["serve", "--config", &path]), directory).await;
    (server, head)
}

async fn lease_seconds(server: &Server) -> i64 {
    let session = server.login("anna").await;
    let lease = session.policy().lease.unwrap().seconds;
    session.logout().await.unwrap();
    lease
}

#[tokio::test]
async fn flags_win_over_variables_and_these_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "[server]\nlisten = \"127.0.0.1:9\"\n[limits]\nlease = \"70s\"\nheartbeat_interval = \"7s\"\n",
    );
    let mut command = Server::command(directory.path());
    command.args(["--config", &path]).env("STREAMWARD_LIMITS_LEASE", "80s");
    let server = Server::launch(command, directory).await;
    let session = server.login("anna").await;
    let policy = session.policy();
    assert_eq!(policy.lease.unwrap().seconds, 80, "the variable");
    assert_eq!(policy.heartbeat_interval.unwrap().seconds, 7, "the file");
    assert_ne!(server.address.port(), 9, "the flag");
    server.stop().await;
}

#[tokio::test]
async fn sighup_changes_what_can_change_and_says_what_needs_a_restart() {
    let (server, head) = server_with_file("[limits]\nlease = \"90s\"\n").await;
    let mut log = server.program.err.clone();
    assert_eq!(lease_seconds(&server).await, 90);

    let moved = head.replace("127.0.0.1:0", "127.0.0.1:9");
    file(server.directory(), &format!("{moved}[limits]\nlease = \"5m\"\n[log]\nlevel = \"debug\"\n"));
    server.program.signal(Signal::HUP);
    log.with("SIGHUP: limits.lease is now 5m (was 90s)").await;
    log.with("SIGHUP: log.level is now debug (was info)").await;
    let restart = log.with("SIGHUP: server.listen stays 127.0.0.1:0").await;
    assert!(restart.contains("127.0.0.1:9 takes effect after a restart"), "{restart}");
    assert_eq!(lease_seconds(&server).await, 300);
    // Records of the new level are written.
    log.with(" DEBUG ").await;

    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["SIGHUP: server.listen stays"]);
    finished.expect(0);
}

#[tokio::test]
async fn sighup_with_a_broken_file_keeps_the_old_configuration() {
    let (server, head) = server_with_file("[limits]\nlease = \"70s\"\n").await;
    let mut log = server.program.err.clone();
    file(server.directory(), &format!("{head}[limits]\nlease = \"5m\"\nsessions_max = \"many\"\n"));
    server.program.signal(Signal::HUP);
    let (at, _) = log.from(0, "SIGHUP: the configuration stays as it was").await;
    let (_, mistake) = log.from(at, "limits.sessions_max cannot be").await;
    assert!(mistake.contains("streamward.toml:6:"), "{mistake}");
    assert_eq!(lease_seconds(&server).await, 70, "nothing of it was taken");

    // Repaired, it is taken.
    file(server.directory(), &format!("{head}[limits]\nlease = \"5m\"\n"));
    server.program.signal(Signal::HUP);
    log.with("SIGHUP: limits.lease is now 5m (was 70s)").await;
    assert_eq!(lease_seconds(&server).await, 300);
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["SIGHUP: the configuration stays as it was"]);
    finished.expect(0);
}
