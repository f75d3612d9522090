//! `tail` over a hub that dies, up to an event, with a command per event.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Server, within};

fn count(lines: &[String], needle: &str) -> usize {
    lines.iter().filter(|line| line.contains(needle)).count()
}

#[tokio::test]
async fn a_killed_hub_is_outlived_and_the_gap_told_once() {
    let server = Server::on("127.0.0.2:0", &[]).await;
    let mut tail = server.spawn(&["tail", "room/a", "--user", "anna"]);
    server.until("the tail", |status| status.subscriptions == 1).await;
    server.run(&["send", "room/a", "before", "--user", "bob"]).await.expect(0);
    tail.out.with("bob: before").await;

    let address = server.killed().await;
    tail.err.with("-- the connection was lost; trying again").await;
    let server = Server::on(&address, &[]).await;
    server.run(&["send", "room/a", "meanwhile", "--user", "bob"]).await.expect(0);
    tail.out.with("bob: meanwhile").await;
    server.run(&["send", "room/a", "after", "--user", "bob"]).await.expect(0);
    tail.out.with("bob: after").await;

    tail.signal(Signal::TERM);
    let told = tail.exited().await.expect(0);
    assert_eq!(told.out.lines().count(), 3, "each once: {}", told.out);
    let lines: Vec<String> = told.err.lines().map(ToOwned::to_owned).collect();
    assert_eq!(count(&lines, "trying again"), 1, "{lines:?}");
    assert_eq!(count(&lines, "-- connected again"), 1, "{lines:?}");
    assert_eq!(count(&lines, "present epoch"), 1, "{lines:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_match_is_printed_and_is_the_last() {
    let server = Server::start().await;
    let mut send = server.spawn(&["send", "room/a", "--user", "bob"]);
    send.write("not done\ndone it is\nand more\n").await;
    send.exited().await.expect(0);
    let tail = server.run(&["tail", "room/a", "--since", "all", "--until", "^done"]).await.expect(0);
    let ends: Vec<_> = tail.out.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    assert_eq!(ends, ["not done", "done it is"]);
    server.stop().await;
}

#[tokio::test]
async fn a_command_gets_every_event_in_order_and_its_failure_is_the_end() {
    let server = Server::start().await;
    let session = server.login("bob").await;
    // Who publishes cannot end the command's environment, nor tail with it.
    within("a receipt", session.publish("room/a", "1", "id\0x", "text/\0plain")).await.unwrap();
    for payload in ["2", "3", "4", "5"] {
        within("a receipt", session.publish("room/a", payload, "", "")).await.unwrap();
    }
    let file = server.directory().join("out");
    let command = format!(
        "read -r payload; echo \"$payload $STREAMWARD_TOPIC $STREAMWARD_SEQUENCE $STREAMWARD_SENDER \
         $STREAMWARD_MESSAGE_ID\" >> {}; test \"$payload\" -lt 4",
        file.display()
    );
    let tail = server.run(&["tail", "room/a", "--since", "all", "--exec", &command]).await.expect(76);
    assert_eq!(tail.out, "", "events are the command's");
    let expected = "the command for room/a #4 ended with exit code 1. Resume with --since 3 --epoch ";
    assert!(tail.err.contains(expected), "{}", tail.err);
    let lines = fs::read_to_string(file).unwrap();
    assert_eq!(lines, "1 room/a 1 bob id\u{fffd}x\n2 room/a 2 bob \n3 room/a 3 bob \n4 room/a 4 bob \n");
    drop(session);
    server.stop().await;
}

#[tokio::test]
async fn a_command_and_all_it_started_end_with_tail() {
    let server = Server::start().await;
    let command = "sleep 1000 & echo started; wait";
    let mut tail = server.spawn(&["tail", "room/a", "--since", "all", "--exec", command]);
    server.run(&["send", "room/a", "x"]).await.expect(0);
    tail.out.with("started").await;
    tail.signal(Signal::INT);
    // Its output ends only when nobody has it any more.
    let told = tail.exited().await.expect(0);
    assert!(told.err.contains("the command for room/a #1 was told to end"), "{}", told.err);
    server.stop().await;
}
