//! What comes also goes: sessions, streams, connections, descriptors, memory; and one thread does it all.

use streamward::client::Item;

use crate::harness::{Load, Server, following, subscription, within};

/// One client's whole life: connect, log in, follow, publish, hear it, log out.
async fn round(server: &Server) {
    let session = server.login("anna").await;
    let (sender, mut stream) = session.open().await.unwrap();
    sender.subscribe(subscription("room/a")).await.unwrap();
    following(&mut stream).await;
    sender.publish("room/a", "hello", "", "").await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(within("an event and a receipt", stream.next()).await.unwrap());
    }
    let is_there = |is_it: fn(&Item) -> bool| heard.iter().any(is_it);
    assert!(is_there(|item| matches!(item, Item::Event(_))), "{heard:?}");
    assert!(is_there(|item| matches!(item, Item::Receipt(_))), "{heard:?}");
    assert_eq!(within("the logout", session.logout()).await.unwrap(), 1);
    within("the stream's end", stream.next()).await.unwrap_err();
}

#[tokio::test]
async fn a_thousand_rounds_leave_everything_as_before() {
    let server = Server::start().await;
    let before = server.status().await;
    let descriptors = server.descriptors();
    let mut rss_kib = 0;
    for number in 1..=1000 {
        round(&server).await;
        if number == 100 {
            rss_kib = server.proc_status("VmRSS");
        }
    }
    let after =
        server.until("the last connection to close", |status| status.connections == before.connections).await;
    assert_eq!((after.sessions, after.streams, after.subscriptions), (0, 0, 0));
    assert_eq!(after.topics, before.topics + 1);
    assert_eq!((after.logins, after.last_sequence), (1000, 1000));
    assert_eq!(server.proc_status("Threads"), 1);
    assert_eq!(server.descriptors(), descriptors);
    let growth_kib = server.proc_status("VmRSS").saturating_sub(rss_kib);
    assert!(growth_kib < 1024, "{growth_kib} KiB more after 1000 rounds than after 100 ({rss_kib} KiB)");
    let logged_out: u64 = after.ended.iter().map(|count| count.streams).sum();
    assert_eq!(logged_out, 1000, "every stream has an end: {:?}", after.ended);
    server.stop().await;
}

#[tokio::test]
async fn the_process_has_one_thread_under_load() {
    let server = Server::with(&Load::ENVIRONMENT).await;
    let load = Load::start(&server, 10, 10).await;
    server.until("load", |status| status.last_sequence >= 500).await;
    // What a server might be tempted to hand to another thread.
    server.run(&["tree"]).await.expect(0);
    server.run(&["status", "--json"]).await.expect(0);
    server.program.signal(rustix::process::Signal::HUP);
    server.program.err.clone().with("SIGHUP: ").await;
    assert_eq!(server.proc_status("Threads"), 1);
    assert_eq!(server.status().await.threads, 1);
    drop(load);
    server.stop().await;
}
