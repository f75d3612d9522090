//! The client commands against a hub of their own, as a shell would use them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

/// Patience for anything that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub on a free port; killed when dropped.
struct Hub {
    process: Child,
    address: String,
    directory: TempDir,
    // A closed pipe would end the hub's log.
    _log: BufReader<ChildStderr>,
}

impl Hub {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = streamward()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-socket"])
            .arg(directory.path().join("admin.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the hub ended at its start");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(',').next().unwrap().trim().to_owned();
            }
        };
        Self { process, address, directory, _log: log }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// A command with this hub's addresses in its environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = streamward();
        command
            .args(arguments)
            .env("STREAMWARD_SERVER", &self.address)
            .env("STREAMWARD_SERVER_ADMIN_SOCKET", self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command with the bytes as its standard input.
    fn feed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut process = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input).unwrap();
        process.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Waits until the list named has an entry for which `is_it` holds.
    fn until(&self, list: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let lists = self.json(&[list, "--json"]);
            if let Some(found) = lists[list].as_array().unwrap().iter().find(|entry| is_it(entry)) {
                return found.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{list}: {lists}");
        }
    }

    /// Starts a command and waits until `user` follows something.
    fn follow(&self, arguments: &[&str], user: &str) -> (Child, ChildStdin) {
        let mut process =
            self.command(arguments).args(["--user", user]).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = process.stdin.take().unwrap();
        self.until("streams", |stream| {
            stream["user"] == user && stream["subscriptions"].as_array().is_some_and(|all| !all.is_empty())
        });
        (process, stdin)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn streamward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamward"));
    command.env_remove("STREAMWARD_SERVER").env_remove("RUST_LOG").env("USER", "tester");
    command
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn every_line_sent_is_an_event_in_order() {
    let hub = Hub::start();
    let sent = hub.feed(&["send", "room/a"], b"one\n\ntwo\r\n\xff\x00\nlast");
    assert_eq!(code(&sent), 0, "{sent:?}");
    let tail = hub.run(&["tail", "room/a", "--since", "all", "--max", "5", "--json"]);
    assert_eq!(code(&tail), 0, "{tail:?}");
    let lines: Vec<Value> =
        text(&tail.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["notice"]["kind"], "subscribed");
    let events = &lines[1..];
    let payloads: Vec<_> = events.iter().map(|event| event["payload"].as_str().unwrap_or("-")).collect();
    assert_eq!(payloads, ["one", "", "two", "-", "last"]);
    assert_eq!(events[3]["payload_base64"], "/wA=");
    for (at, event) in (1..).zip(events) {
        assert_eq!(event["sequence"], at);
        assert_eq!((&event["topic"], &event["sender"]), (&"room/a".into(), &"tester".into()));
    }
}

#[test]
fn thousands_of_lines_arrive_complete_and_a_bare_sequence_number_resumes() {
    let hub = Hub::start();
    let lines: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    assert_eq!(code(&hub.feed(&["send", "room/a"], lines.as_bytes())), 0);
    let tail = hub.run(&["tail", "room/a", "--since", "1000", "--max", "2000"]);
    assert_eq!(code(&tail), 0, "{tail:?}");
    let numbers: Vec<&str> =
        text(&tail.stdout).lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    let expected: Vec<String> = (1001..=3000).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn a_refused_line_is_told_with_its_number_and_the_rest_is_sent() {
    let hub = Hub::start();
    let mut input = b"fine\n".to_vec();
    input.extend(vec![b'x'; 64 * 1024 + 1]);
    input.extend(b"\nfine\n");
    let sent = hub.feed(&["send", "room/a"], &input);
    assert_eq!(code(&sent), 65);
    let told = text(&sent.stderr);
    assert!(told.contains("line 2: refused"), "{told}");
    assert!(told.contains("2 events accepted, 1 refused"), "{told}");
}

#[test]
fn a_chat_in_a_pipe_delivers_what_it_was_given_and_prints_what_others_said() {
    let hub = Hub::start();
    let (bob, mut to_bob) = hub.follow(&["chat", "kitchen"], "bob");
    let alice = hub.feed(&["chat", "kitchen", "--user", "alice"], b"hello\n\nbye\n");
    assert_eq!((code(&alice), text(&alice.stdout)), (0, ""), "{alice:?}");
    to_bob.write_all(b"thanks\n/quit\nnot sent\n").unwrap();
    let bob = bob.wait_with_output().unwrap();
    assert_eq!((code(&bob), text(&bob.stdout)), (0, "alice: hello\nalice: bye\n"), "{bob:?}");
    let all = hub.run(&["tail", "room/kitchen", "--since", "all", "--max", "3"]);
    assert!(text(&all.stdout).ends_with("bob: thanks\n"), "{all:?}");
    hub.until("ended", |end| end["user"] == "bob" && end["reason"] == "COMPLETED");
}

#[test]
fn messages_to_a_user_arrive_in_that_users_inbox_only() {
    let hub = Hub::start();
    let (mut bob, stdin) = hub.follow(&["chat", "@alice"], "bob");
    assert_eq!(code(&hub.feed(&["chat", "@bob", "--user", "alice"], b"psst\n")), 0);
    let mut heard = String::new();
    BufReader::new(bob.stdout.take().unwrap()).read_line(&mut heard).unwrap();
    assert_eq!(heard, "alice: psst\n");
    drop(stdin);
    assert_eq!(bob.wait().unwrap().code(), Some(0));
    let spy = hub.run(&["tail", "user/bob", "--user", "eve"]);
    assert_eq!(code(&spy), 77, "{spy:?}");
}

#[test]
fn a_cancelled_client_is_told_the_note_and_others_are_untouched() {
    let hub = Hub::start();
    let (told, _stdin) = hub.follow(&["tail", "room/a"], "bob");
    let (mut other, _stdin) = hub.follow(&["tail", "room/a"], "carl");
    let id = hub.until("sessions", |session| session["user"] == "bob")["id"].clone();
    let id = id.as_str().unwrap();
    let dry = hub.json(&["cancel", id, "--dry-run", "--json"]);
    assert_eq!((&dry["sessions_ended"], &dry["streams_ended"]), (&1.into(), &1.into()), "{dry}");
    let done = hub.json(&["cancel", id, "--note", "go\x1b[2Jaway", "--json"]);
    assert_eq!(done["others_untouched"], 1, "{done}");
    let told = told.wait_with_output().unwrap();
    assert_eq!(code(&told), 77);
    assert!(text(&told.stderr).contains("ADMIN_CANCELLED: go\\u{1b}[2Jaway"), "{told:?}");
    assert_eq!(code(&hub.run(&["cancel", id])), 65, "there is none any more");
    assert_eq!(other.try_wait().unwrap(), None);
    let _ = other.kill();
    let _ = other.wait();
}

#[test]
fn ctrl_c_logs_out() {
    let hub = Hub::start();
    let (tail, _stdin) = hub.follow(&["tail", "room/a"], "bob");
    signal(&tail, "-INT");
    assert_eq!(code(&tail.wait_with_output().unwrap()), 0);
    let stream = hub.until("ended", |end| end["kind"] == "STREAM" && end["user"] == "bob");
    // The task leaves its stream first, then the session ends.
    assert_eq!(stream["reason"], "CLIENT_CANCELLED");
    let session = hub.until("ended", |end| end["kind"] == "SESSION" && end["user"] == "bob");
    assert_eq!(session["reason"], "SESSION_LOGGED_OUT");
    assert_eq!(hub.json(&["sessions", "--json"])["sessions"].as_array().unwrap().len(), 0);
}

#[test]
fn a_drain_tells_followers_when_to_come_back_and_from_where() {
    let mut hub = Hub::start();
    let (tail, _stdin) = hub.follow(&["tail", "room/a", "--retries", "0"], "bob");
    assert_eq!(code(&hub.run(&["send", "room/a", "x"])), 0);
    assert_eq!(code(&hub.run(&["drain"])), 0);
    let tail = tail.wait_with_output().unwrap();
    assert_eq!(code(&tail), 75);
    let told = text(&tail.stderr);
    assert!(told.contains("the hub is stopping; come back in"), "{told}");
    assert!(told.contains("SERVER_DRAINING"), "{told}");
    assert!(told.contains("Resume with --since 1 --epoch "), "{told}");
    assert_eq!(hub.process.wait().unwrap().code(), Some(0));
    let late = hub.run(&["send", "room/a", "x"]);
    assert_eq!(code(&late), 69);
    assert!(text(&late.stderr).contains("Is it running?"), "{late:?}");
}

#[test]
fn a_reader_that_went_away_ends_a_command_quietly() {
    let hub = Hub::start();
    let lines = "a line that is not short\n".repeat(20_000);
    let sent = hub.feed(&["send", "room/a"], lines.as_bytes());
    assert_eq!(code(&sent), 0);
    let mut tail = hub.command(&["tail", "room/a", "--since", "all"]).spawn().unwrap();
    let mut first = [0; 100];
    tail.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = tail.wait_with_output().unwrap();
    assert_eq!((code(&ended), text(&ended.stderr)), (0, ""));
}

#[test]
fn the_tree_and_the_status_show_who_holds_what() {
    let hub = Hub::start();
    let (mut tail, _stdin) = hub.follow(&["tail", "room/a", "room/b"], "bob");
    let tree = hub.run(&["tree"]);
    let lines: Vec<&str> = text(&tree.stdout).lines().collect();
    assert!(lines[0].starts_with("server "), "{lines:?}");
    assert!(lines[1].starts_with("└─ session/") && lines[1].contains(" bob, lease "), "{lines:?}");
    assert!(
        lines[2].starts_with("   └─ stream/") && lines[2].contains(" Subscribe over connection/"),
        "{lines:?}"
    );
    assert_eq!(lines[3..], ["      ├─ room/a lag 0 B", "      └─ room/b lag 0 B"]);
    let status = hub.json(&["status", "--json"]);
    assert_eq!((&status["streams"], &status["subscriptions"]), (&1.into(), &2.into()), "{status}");
    assert_eq!(status["phase"], "RUNNING");
    let _ = tail.kill();
    let _ = tail.wait();
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for arguments in [&["send", "hall/a", "x"][..], &["tail"], &["frobnicate"], &[]] {
        assert_eq!(code(&streamward().args(arguments).output().unwrap()), 64, "{arguments:?}");
    }
    let version = streamward().arg("--version").output().unwrap();
    assert_eq!(code(&version), 0);
    // Version, commit, target: two builds are told apart.
    let told = text(&version.stdout);
    let told = told.strip_prefix(concat!("streamward ", env!("CARGO_PKG_VERSION"), " (")).unwrap();
    assert!(
        told.contains(", ") && told.ends_with("-linux-gnu)\n") || told.ends_with("-linux-musl)\n"),
        "{told}"
    );
}
