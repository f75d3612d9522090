//! The monitor end to end: what the kernel says of the real process, and what follows from it.

use std::fs;

use rustix::process::Signal;
use streamward::base::reason::EndReason;
use streamward::client::{ClientError, MessageStream, Session};
use streamward::wire::v1;

use crate::harness::{Program, Server, follow, within};

const CLIENTS: usize = 50;

/// Few connections and small tails, so that the idle bill is below what the test leaves for it.
const LIMITS: &str = "\
[limits]
connections_max = 64
connections_per_ip_max = 64
half_open_max = 8
sessions_max = 128
topics_max = 64
subscriptions_per_stream_max = 8
tails_bytes_max = \"256KiB\"
";

type Guest = (Session, MessageStream);

/// Many guests, each on a connection of its own; fewer where the door closes meanwhile.
async fn fill(server: &Server) -> Vec<Guest> {
    let mut guests = Vec::new();
    for number in 0..CLIENTS {
        let client = server.connect().await;
        match within("a login", client.login(&format!("guest{number}"), "", "")).await {
            Ok(session) => {
                let stream = follow(&session, "room/a").await;
                guests.push((session, stream));
            }
            Err(_) => return guests,
        }
    }
    guests
}

/// They log out; `left` connections stay.
async fn leave(server: &Server, guests: Vec<Guest>, left: u32) {
    for (session, _stream) in guests {
        within("a logout", session.logout()).await.unwrap();
    }
    server.until("the guests to have left", |status| status.connections == left).await;
}

fn resident_bytes(server: &Server) -> u64 {
    server.proc_status("VmRSS") * 1024
}

#[tokio::test]
async fn over_budget_logins_are_refused_with_a_time_and_relief_opens_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("streamward.toml");
    fs::write(&path, LIMITS).unwrap();
    let mut command = Server::command(directory.path());
    // So that glibc returns what is freed, as musl does by itself, and that a buffer counts from its first byte on.
    command.envs([
        ("MALLOC_MMAP_THRESHOLD_", "4096"),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_TOP_PAD_", "0"),
        ("MALLOC_PERTURB_", "1"),
    ]);
    command.args(["--config", path.to_str().unwrap()]);
    let server = Server::launch(command, directory).await;

    // What is needed for the first time is paged in now.
    let anna = server.login("anna").await;
    let guests = fill(&server).await;
    assert_eq!(guests.len(), CLIENTS);
    leave(&server, guests, 2).await;
    let idle_bytes = resident_bytes(&server);
    let guests = fill(&server).await;
    let full_bytes = resident_bytes(&server);
    leave(&server, guests, 2).await;
    assert!(full_bytes > idle_bytes + 1024 * 1024, "{CLIENTS} guests are seen: {idle_bytes}, {full_bytes}");

    // ELEVATED begins halfway to where it was.
    let budget_bytes = (idle_bytes + full_bytes) / 2 * 100 / 70;
    let memory =
        format!("[memory]\nbudget_bytes = {budget_bytes}\nhysteresis_percent = 1\ntick = \"100ms\"\n");
    fs::write(&path, format!("{LIMITS}{memory}")).unwrap();
    server.program.signal(Signal::HUP);
    let has_budget =
        |status: &v1::ServerStatus| status.memory.is_some_and(|memory| memory.budget_bytes == budget_bytes);
    let status = server.until("the new budget", has_budget).await;
    assert_eq!(status.pressure(), v1::Pressure::Normal, "{status:?}");

    let guests = fill(&server).await;
    server.until("pressure", |status| status.pressure() >= v1::Pressure::Elevated).await;
    let refusal = within("a login", server.connect().await.login("late", "", "")).await.map(|_| "a session");
    let Err(ClientError::Refused { status, details: Some(details) }) = refusal else {
        panic!("{} guests, then {refusal:?}", guests.len());
    };
    assert_eq!((status.code(), details.reason), (tonic::Code::Unavailable, EndReason::MemoryPressure));
    assert!(details.retry_after.is_some());
    assert!(server.status().await.logins_refused > 0);
    // Who is there stays.
    within("a publish", anna.publish("room/a", "still here", "", "")).await.unwrap();
    let told = server.run(&["shed", "--plan"]).await.expect(0);
    assert!(told.out.starts_with("pressure elevated: ") && told.out.contains("0 B needed"), "{}", told.out);
    let told = server.run(&["shed", "--plan", "--json"]).await.expect(0).document();
    assert_eq!(told["steps"].as_array().unwrap().len(), guests.len());
    assert_eq!(told["ends_next_tick"], 0);

    leave(&server, guests, 2).await;
    server.until("relief", |status| status.pressure() == v1::Pressure::Normal).await;
    server.login("late").await.logout().await.unwrap();
    anna.logout().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn shed_without_plan_is_a_usage_error_that_names_it() {
    let refused = Program::run(&["shed"]).await.expect(64);
    assert!(refused.err.contains("--plan"), "{}", refused.err);
}
