//! `send` that is stopped in the middle and goes on.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use crate::harness::Server;

const LINES: usize = 1500;

#[tokio::test]
async fn a_stopped_run_that_goes_on_where_it_says_has_sent_every_line_once() {
    // So slow that it is stopped in the middle; what the rate refuses is waited for.
    let server = Server::with(&[("STREAMWARD_LIMITS_PUBLISHES_PER_SECOND_MAX", "500")]).await;
    let path = server.directory().join("lines");
    let lines: Vec<String> = (1..=LINES).map(|number| format!("line {number}")).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let first = server.spawn(&["send", "room/a", "--lines", path, "--user", "bob"]);
    server.until("some lines", |status| status.last_sequence > 100).await;
    first.signal(Signal::INT);
    let told = first.exited().await.expect(130);
    let go_on = told.err.lines().find_map(|line| line.strip_prefix("-- go on with ")).unwrap();
    let go_on: Vec<&str> = go_on.split(' ').collect();
    let (settled, accepted) = (go_on[1].parse::<u64>().unwrap(), server.status().await.last_sequence);
    assert!(settled == accepted && settled < LINES as u64, "{settled} of {accepted}");

    let args: Vec<&str> =
        ["send", "room/a", "--lines", path, "--user", "bob"].into_iter().chain(go_on).collect();
    let second = server.run(&args).await.expect(0);
    let rest = format!("{} events accepted, 0 refused", LINES as u64 - settled);
    assert!(second.err.contains(&rest), "{}", second.err);

    let max = LINES.to_string();
    let tail = server.run(&["tail", "room/a", "--since", "all", "--max", &max, "--json"]).await.expect(0);
    let events: Vec<_> =
        tail.documents().into_iter().filter(|document| document["sender"] == "bob").collect();
    let payloads: BTreeSet<&str> = events.iter().filter_map(|event| event["payload"].as_str()).collect();
    assert_eq!(payloads, lines.iter().map(String::as_str).collect());
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event["message_id"].as_str()).collect();
    assert_eq!(ids.len(), LINES);
    assert!(ids.iter().all(|id| id.starts_with(args[9])), "one run: {ids:?}");
    assert_eq!(server.status().await.last_sequence, LINES as u64, "no line twice");
    server.stop().await;
}

#[tokio::test]
async fn a_second_interrupt_leaves_lines_in_doubt_and_says_which() {
    let server = Server::start().await;
    let mut send = server.spawn(&["send", "room/a", "--user", "bob"]);
    send.write("one\n").await;
    server.until("the first line", |status| status.last_sequence == 1).await;
    server.program.signal(Signal::STOP);
    send.write("two\nthree\n").await;
    // It says so once it waits for the receipts.
    send.err.with("no receipt for 5 seconds").await;
    send.signal(Signal::INT);
    send.signal(Signal::TERM);
    let told = send.exited().await.expect(130);
    assert!(
        told.err.contains("1 event accepted, 0 refused; stopped after line 1. Lines 2 to 3 have no"),
        "{}",
        told.err
    );
    assert!(told.err.contains("-- go on with --skip-lines 1 --resume "), "{}", told.err);
    // Whether the hub had them by then or not.
    server.program.signal(Signal::CONT);
    let go_on = told.err.lines().find_map(|line| line.strip_prefix("-- go on with ")).unwrap();
    let args: Vec<&str> = ["send", "room/a", "--user", "bob"].into_iter().chain(go_on.split(' ')).collect();
    let mut second = server.spawn(&args);
    second.write("one\ntwo\nthree\n").await;
    second.exited().await.expect(0);
    let tail = server.run(&["tail", "room/a", "--since", "all", "--max", "3"]).await.expect(0);
    let sent: Vec<_> = tail.out.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    assert_eq!(sent, ["one", "two", "three"]);
    assert_eq!(server.status().await.last_sequence, 3);
    server.stop().await;
}
