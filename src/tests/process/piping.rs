//! `pipe`: a file of tasks as a service.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Program, Server};
use crate::systemd::Manager;

fn hub(server: &Server) -> String {
    format!("[hub]\nserver = \"{}\"\nuser = \"pi\"\n", server.address)
}

fn task(name: &str, rest: &str) -> String {
    format!("[task.{name}]\ntopics = [\"room/{name}\"]\nsince = \"all\"\n{rest}\n")
}

fn pipe(path: &Path) -> std::process::Command {
    Program::streamward(["pipe", path.to_str().unwrap()])
}

/// The stream that follows the topic.
async fn stream_of(server: &Server, topic: &str) -> String {
    let streams = server.admin.streams(None).await.unwrap();
    let follows = |stream: &&streamward::wire::v1::StreamInfo| {
        stream.subscriptions.iter().any(|subscription| subscription.topic == topic)
    };
    streams.iter().find(follows).unwrap().id.clone()
}

#[tokio::test]
async fn a_reload_touches_what_changed_and_nothing_else() {
    let server = Server::start().await;
    let path = server.directory().join("pipes.toml");
    let both = |rest: &str| hub(&server) + &task("a", "output = \"stdout\"") + &task("b", rest);
    fs::write(&path, both("output = \"stdout\"")).unwrap();
    let notify = server.directory().join("notify");
    let mut manager = Manager::new(&notify);
    let mut command = pipe(&path);
    command.env("NOTIFY_SOCKET", &notify);
    let mut program = Program::spawn(command);
    manager.hears("READY=1\nSTATUS=2 tasks running").await;
    server.until("both tasks", |status| status.subscriptions == 2).await;
    for topic in ["room/a", "room/b"] {
        server.run(&["send", topic, "first", "--user", "bob"]).await.expect(0);
        program.out.with(&format!("{topic} #")).await;
    }
    let untouched = stream_of(&server, "room/a").await;

    // Broken: nothing changes.
    fs::write(&path, both("output = 5")).unwrap();
    program.signal(Signal::HUP);
    program.err.with("pipes.toml:11:10: task.b.output cannot be 5").await;
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    server.run(&["send", "room/b", "second", "--user", "bob"]).await.expect(0);
    program.out.with("bob: second").await;

    // Changed: it goes on where it was, though it begins with all that is kept.
    fs::write(&path, both("output = \"stdout\"\nformat = \"json\"")).unwrap();
    program.signal(Signal::HUP);
    program.err.with("SIGHUP: task b is changed").await;
    server.run(&["send", "room/b", "third", "--user", "bob"]).await.expect(0);
    program.out.with("\"payload\":\"third\"").await;
    assert_eq!(stream_of(&server, "room/a").await, untouched);

    // Removed.
    fs::write(&path, hub(&server) + &task("a", "output = \"stdout\"")).unwrap();
    program.signal(Signal::HUP);
    program.err.with("SIGHUP: task b is removed").await;
    server.until("one task", |status| status.subscriptions == 1).await;
    assert_eq!(stream_of(&server, "room/a").await, untouched);

    program.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    let told = program.exited().await.expect(0);
    assert!(told.err.contains("-- 1 task ended"), "{}", told.err);
    let of_b: Vec<&str> = told.out.lines().filter(|line| line.contains("room/b")).collect();
    assert_eq!(of_b.len(), 3, "each once: {of_b:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_task_that_fails_ends_its_group_and_the_last_end_is_the_exit_code() {
    let server = Server::start().await;
    let path = server.directory().join("pipes.toml");
    let file = hub(&server)
        + &task("a", "exec = \"exit 3\"\ngroup = \"g\"")
        + &task("b", "output = \"stdout\"\ngroup = \"g\"")
        + &task("c", "output = \"stdout\"\nuntil = \"^end$\"");
    fs::write(&path, file).unwrap();
    let mut program = Program::spawn(pipe(&path));
    server.until("all tasks", |status| status.subscriptions == 3).await;
    server.run(&["send", "room/a", "x"]).await.expect(0);
    program.err.with("task a ended: the command for room/a #1 ended with exit code 3").await;
    program.err.with("task b ended: cancelled with its group").await;
    server.until("the third", |status| status.subscriptions == 1).await;
    assert!(program.is_running());
    server.run(&["send", "room/c", "end"]).await.expect(0);
    let told = program.exited().await.expect(76);
    assert!(told.out.contains(": end"), "{}", told.out);
    server.stop().await;
}

#[tokio::test]
async fn a_command_may_finish_its_event_when_the_service_is_stopped() {
    let server = Server::start().await;
    let (path, done) = (server.directory().join("pipes.toml"), server.directory().join("done"));
    let fifo = server.directory().join("fifo");
    let command =
        format!("mkfifo {0}; echo started; read -r _ < {0}; echo done > {1}", fifo.display(), done.display());
    fs::write(&path, hub(&server) + &task("a", &format!("exec = '{command}'"))).unwrap();
    let mut program = Program::spawn(pipe(&path));
    server.run(&["send", "room/a", "x"]).await.expect(0);
    program.out.with("started").await;
    program.signal(Signal::TERM);
    program.err.with("stopping; once more cuts").await;
    assert!(program.is_running());
    fs::write(&fifo, "go on\n").unwrap();
    program.exited().await.expect(0);
    assert_eq!(fs::read_to_string(done).unwrap(), "done\n");
    server.stop().await;
}

#[tokio::test]
async fn a_file_is_checked_without_a_hub() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipes.toml");
    fs::write(&path, task("a", "exec = \"true\"")).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(Program::run(&["pipe", "--check", path]).await.expect(0).out, "the file is good: 1 task\n");
    fs::write(path, task("a", "exec = 1\ncolour = 1")).unwrap();
    let told = Program::run(&["pipe", path]).await.expect(78);
    assert!(told.err.contains("pipes.toml:4:8: ") && told.err.contains("pipes.toml:5:1: "), "{}", told.err);
}
