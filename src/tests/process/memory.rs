//! Memory that a crowd of clients needed goes back when the crowd has left.

use streamward::client::Item;

use crate::harness::{Server, follow, within};

/// Enough that the crowd is the most of what the server holds.
const CROWD: usize = 250;
/// The first crowd, in which the server touches its own code and tables.
const WARM: usize = 10;
/// Published to everyone in each crowd: the topic's tail is as full before as after.
const MESSAGES: usize = 8;
const PAYLOAD_BYTES: usize = 1000;
const ENVIRONMENT: [(&str, &str); 4] = [
    ("STREAMWARD_LIMITS_CONNECTIONS_MAX", "1000"),
    ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "1000"),
    ("STREAMWARD_LIMITS_SESSIONS_MAX", "1000"),
    // Nothing ends by itself, however slow the machine is.
    ("STREAMWARD_LIMITS_LEASE", "10m"),
];

fn rss_kib(server: &Server) -> u64 {
    server.proc_status("VmRSS")
}

/// That many clients log in, hear everything, log out. Returns what the server held while they were there.
async fn crowd(server: &Server, clients: usize) -> u64 {
    let mut followers = Vec::new();
    for number in 0..clients {
        let session = server.login(&format!("client{number}")).await;
        let stream = follow(&session, "room/crowd").await;
        followers.push((session, stream));
    }
    for _ in 0..MESSAGES {
        let (session, _) = &followers[0];
        let publish = session.publish("room/crowd", vec![7; PAYLOAD_BYTES], "", "");
        within("a receipt", Box::pin(publish)).await.unwrap();
    }
    for (_, stream) in &mut followers {
        for _ in 0..MESSAGES {
            match within("an event", stream.next()).await {
                Ok(Item::Event(event)) => assert_eq!(event.payload.len(), PAYLOAD_BYTES),
                other => panic!("{other:?}"),
            }
        }
    }
    let held_kib = rss_kib(server);
    for (session, _) in followers {
        within("the logout", Box::pin(session.logout())).await.unwrap();
    }
    server
        .until("the last connection to close", |status| (status.connections, status.streams) == (1, 0))
        .await;
    held_kib
}

#[tokio::test]
async fn what_a_crowd_needed_goes_back_or_serves_the_next_one() {
    let server = Server::with(&ENVIRONMENT).await;
    crowd(&server, WARM).await;
    let warm_kib = rss_kib(&server);
    let first_kib = crowd(&server, CROWD).await;
    assert!(
        first_kib > warm_kib * 5 / 4,
        "{CROWD} clients need memory: {warm_kib} KiB, then {first_kib} KiB"
    );
    if cfg!(target_env = "musl") {
        let is_back = |rss_kib: u64| rss_kib <= warm_kib * 6 / 5;
        server.until("memory to come back", |_| is_back(rss_kib(&server))).await;
    }
    // glibc's malloc gives back only what is above the last allocation still there, so of it just this can be asked:
    // two more crowds do with what the first one left, where each would otherwise need as much again.
    crowd(&server, CROWD).await;
    let third_kib = crowd(&server, CROWD).await;
    let most_kib = first_kib + (first_kib - warm_kib) * 3 / 4;
    assert!(
        third_kib <= most_kib,
        "{warm_kib} KiB warm, {first_kib} with a crowd, {third_kib} with the third"
    );
    // A debug build keeps more than is accounted for, and says so.
    server.terminate().await.0.expect(0);
}
