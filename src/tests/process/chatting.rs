//! `chat` over a hub that dies.

use crate::harness::Server;

#[tokio::test]
async fn what_is_typed_while_the_hub_is_away_is_said_once_when_it_is_back() {
    let server = Server::on("127.0.0.3:0", &[]).await;
    let mut chat = server.spawn(&["chat", "kitchen", "--user", "anna"]);
    server.until("the chat", |status| status.subscriptions == 1).await;
    let address = server.killed().await;
    chat.err.with("-- the connection was lost; trying again").await;
    chat.write("are you there?\nhello?\n").await;
    let server = Server::on(&address, &[]).await;
    chat.err.with("-- connected again").await;
    let tail = ["tail", "room/kitchen", "--since", "all", "--max", "3", "--user", "bob"];
    let tail = server.spawn(&tail);
    server.until("what was typed", |status| status.last_sequence == 2).await;
    chat.write("good\n").await;
    let heard = tail.exited().await.expect(0);
    let said: Vec<_> = heard.out.lines().map(|line| line.split_once("anna: ").unwrap().1).collect();
    assert_eq!(said, ["are you there?", "hello?", "good"]);
    server.run(&["send", "room/kitchen", "welcome back", "--user", "bob"]).await.expect(0);
    chat.out.with("bob: welcome back").await;
    let told = chat.exited().await.expect(0);
    assert!(told.err.contains("-- the hub has started anew"), "{}", told.err);
    server.stop().await;
}
