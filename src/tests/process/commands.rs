//! The command line end to end, as people and scripts use it.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Program, Server};

/// The id of the user's only stream.
async fn stream_of(server: &Server, user: &str) -> String {
    let listed = server.run(&["streams", "--json"]).await.expect(0).document();
    let streams = listed["streams"].as_array().unwrap();
    let mut ids = streams.iter().filter(|stream| stream["user"] == user).map(|stream| &stream["id"]);
    let id = ids.next().unwrap_or_else(|| panic!("no stream of {user}: {listed}"));
    assert_eq!(ids.next(), None);
    id.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_sent_is_tailed() {
    let server = Server::start().await;
    let tail = server.spawn(&["tail", "room/kitchen", "--user", "anna", "--max", "4"]);
    server.until("the tail", |status| status.subscriptions == 1).await;
    let sent = server.run(&["send", "room/kitchen", "the", "kettle", "is", "on", "--user", "bob"]).await;
    assert_eq!(sent.expect(0).out, "room/kitchen #1\n");
    let mut lines = server.spawn(&["send", "room/kitchen", "--user", "bob"]);
    lines.write("one\n\nthree \x1b[2J ü\n").await;
    let told = lines.exited().await.expect(0);
    assert!(told.err.contains("3 events accepted, 0 refused"), "{}", told.err);
    let tailed = tail.exited().await.expect(0);
    let rows: Vec<&str> = tailed.out.lines().collect();
    assert_eq!(rows.len(), 4, "{}", tailed.out);
    for (row, end) in rows.iter().zip([
        "room/kitchen #1 bob: the kettle is on",
        "room/kitchen #2 bob: one",
        "room/kitchen #3 bob: ",
        "room/kitchen #4 bob: three \\u{1b}[2J ü",
    ]) {
        assert!(row.ends_with(end), "{row:?} does not end with {end:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_tail_as_json_is_one_document_per_line() {
    let server = Server::start().await;
    let mut tail = server.spawn(&["tail", "room/a", "room/b", "--user", "anna", "--json"]);
    tail.out.with("room/b").await;
    let mut send =
        server.spawn(&["send", "room/a", "--json", "--content-type", "text/plain", "--user", "bob"]);
    send.write("\"quoted\"\n\u{7}\u{2028}\n").await;
    let receipts = send.exited().await.expect(0).documents();
    assert_eq!(receipts.iter().map(|receipt| &receipt["sequence"]).collect::<Vec<_>>(), [1, 2]);
    server.run(&["send", "room/b", "--file", "/proc/self/cmdline", "--user", "bob"]).await.expect(0);
    tail.out.with("cmdline").await;
    tail.signal(Signal::TERM);
    let documents = tail.exited().await.expect(0).documents();
    let events: Vec<&Value> = documents.iter().filter(|document| document["sender"] == "bob").collect();
    assert_eq!(events[0]["payload"], "\"quoted\"");
    assert_eq!(events[0]["content_type"], "text/plain");
    assert_eq!(events[1]["payload"], "\u{7}\u{2028}");
    assert_eq!(events[2]["topic"], "room/b");
    assert_eq!(events.len(), 3);
    assert!(documents.iter().all(|document| document["notice"].is_object() || document["sender"] == "bob"));
    server.stop().await;
}

#[tokio::test]
async fn piped_chats_hear_each_other_and_not_themselves() {
    let server = Server::start().await;
    let mut anna = server.spawn(&["chat", "kitchen", "--user", "anna"]);
    let mut bob = server.spawn(&["chat", "kitchen", "--user", "bob"]);
    server.until("both in the room", |status| status.subscriptions == 2).await;
    anna.write("dinner is ready\n").await;
    bob.out.with("anna: dinner is ready").await;
    bob.write("coming\n").await;
    anna.out.with("bob: coming").await;
    bob.write("/quit\n").await;
    assert_eq!(bob.exited().await.expect(0).out, "anna: dinner is ready\n");
    assert_eq!(anna.exited().await.expect(0).out, "bob: coming\n");
    let status = server.until("both to have left", |status| status.sessions == 0).await;
    assert_eq!(status.streams, 0);
    server.stop().await;
}

#[tokio::test]
async fn every_list_is_json_with_what_is_there() {
    let server = Server::start().await;
    let tail = server.spawn(&["tail", "room/a", "--user", "anna", "--client-name", "kitchen"]);
    server.until("the tail", |status| status.subscriptions == 1).await;
    server.run(&["send", "room/a", "x", "--user", "bob"]).await.expect(0);

    let sessions = server.run(&["sessions", "--json"]).await.expect(0).document();
    assert_eq!(sessions["sessions"][0]["user"], "anna");
    assert_eq!(sessions["sessions"][0]["client_name"], "kitchen");
    let streams = server.run(&["streams", "--json"]).await.expect(0).document();
    assert_eq!(streams["streams"][0]["subscriptions"][0]["topic"], "room/a");
    assert_eq!(streams["streams"][0]["session_id"], sessions["sessions"][0]["id"]);
    let tree = server.run(&["tree", "--json"]).await.expect(0).document();
    assert_eq!(tree["sessions"][0]["streams"][0]["id"], streams["streams"][0]["id"]);
    let status = server.run(&["status", "--json"]).await.expect(0).document();
    assert_eq!((&status["sessions"], &status["threads"]), (&Value::from(1), &Value::from(1)));
    let ended = server.run(&["ended", "--json"]).await.expect(0).document();
    assert_eq!(ended["ended"][0]["reason"], "SESSION_LOGGED_OUT");
    assert_eq!(ended["ended"][0]["user"], "bob");
    for command in ["sessions", "streams", "tree", "status", "ended"] {
        let text = server.run(&[command]).await.expect(0);
        assert!(text.out.lines().count() > 1, "{command}: {}", text.out);
    }
    tail.signal(Signal::INT);
    tail.exited().await.expect(0);
    server.stop().await;
}

#[tokio::test]
async fn a_cancel_tells_its_note_to_the_one_and_nothing_to_the_other() {
    let server = Server::start().await;
    let mut anna = server.spawn(&["tail", "room/a", "--user", "anna"]);
    let mut bob = server.spawn(&["tail", "room/a", "--user", "bob"]);
    server.until("both tails", |status| status.subscriptions == 2).await;
    let stream = stream_of(&server, "anna").await;

    let dry = server.run(&["cancel", &stream, "--dry-run"]).await.expect(0);
    assert!(dry.out.starts_with("would end "), "{}", dry.out);
    assert_eq!(server.status().await.streams, 2, "only counted");
    assert!(anna.is_running());

    let done = server.run(&["cancel", &stream, "--note", "please update your client"]).await.expect(0);
    assert_eq!(done.out, "ended 0 sessions and 1 stream; 1 other stream untouched\n");
    let ended = anna.exited().await.expect(77);
    assert!(ended.err.contains("ADMIN_CANCELLED: please update your client"), "{}", ended.err);

    server.run(&["send", "room/a", "still here?", "--user", "carla"]).await.expect(0);
    bob.out.with("carla: still here?").await;
    assert!(bob.is_running());
    let unknown = server.run(&["cancel", &stream]).await.expect(65);
    assert!(unknown.err.contains(&stream), "{}", unknown.err);

    // The whole session, and told as JSON.
    let listed = server.run(&["sessions", "--json"]).await.expect(0).document();
    let session = listed["sessions"][0]["id"].as_str().unwrap().to_owned();
    let done = server.run(&["cancel", &session, "--json"]).await.expect(0).document();
    assert_eq!((&done["sessions_ended"], &done["streams_ended"]), (&Value::from(1), &Value::from(1)));
    bob.exited().await.expect(77);
    server.stop().await;
}

#[tokio::test]
async fn an_absent_hub_is_told_by_every_command_with_exit_69() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let socket = socket.to_str().unwrap();
    // Bound and not listening: nobody else can get this port meanwhile.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap().to_string();
    for args in [&["send", "room/a", "x"][..], &["tail", "room/a"], &["chat", "kitchen"]] {
        let args: Vec<&str> = args.iter().copied().chain(["--server", &address]).collect();
        let absent = Program::run(&args).await.expect(69);
        assert!(absent.err.contains(&address) && absent.err.contains("streamward serve"), "{}", absent.err);
        assert_eq!(absent.out, "");
    }
    for args in [
        &["status"][..],
        &["tree"],
        &["sessions"],
        &["streams"],
        &["ended"],
        &["shed", "--plan"],
        &["drain"],
        &["cancel", "stream/1"],
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--admin-socket", socket]).collect();
        let absent = Program::run(&args).await.expect(69);
        assert!(absent.err.contains(socket) && absent.err.contains("streamward serve"), "{}", absent.err);
    }
}

#[tokio::test]
async fn help_and_completions_need_no_hub() {
    let help = Program::run(&["--help"]).await.expect(0);
    let commands = help.out.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        for args in [["help", command], [command, "--help"]] {
            if args == ["help", "--help"] || args == ["help", "help"] {
                continue;
            }
            let help = Program::run(&args).await.expect(0);
            assert!(help.out.contains("Usage: streamward"), "{args:?}: {}", help.out);
            assert_eq!(help.err, "", "{args:?}");
        }
    }
    let script = Program::run(&["completions", "bash"]).await.expect(0);
    assert!(script.out.contains("_streamward()") && script.out.contains("cancel"), "{}", script.out);
    assert!(Program::run(&["--version"]).await.expect(0).out.starts_with("streamward 0."));
    Program::run(&["tial"]).await.expect(64);
}
