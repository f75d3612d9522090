//! `streamward top` in a terminal: what it shows, what its keys do, and how it leaves the terminal.

use rustix::process::Signal;

use crate::harness::{Program, Server, Tty};

/// A server with a tail of anna's and one of bob's, and `top` in front of it.
async fn watched() -> (Server, Program, Program, Tty) {
    let server = Server::start().await;
    let anna = server.spawn(&["tail", "room/kitchen", "room/hall", "--user", "anna"]);
    let bob = server.spawn(&["tail", "room/kitchen", "--user", "bob"]);
    server.until("both tails", |status| status.subscriptions == 3).await;
    let mut tty = Tty::spawn(&server, &["top", "--interval", "100ms"], 100, 30);
    tty.until(&["RUNNING", "▾ anna", "▾ bob", "room/hall", "2 sessions, 2 streams", "q quit"]).await;
    (server, anna, bob, tty)
}

#[tokio::test]
async fn a_session_is_found_inspected_and_cancelled_with_a_note_and_the_other_stays() {
    let (server, anna, mut bob, mut tty) = Box::pin(watched()).await;
    tty.press("/ann");
    tty.until(&["1 session, 1 stream with \"ann\"", "filter: ann"]).await;
    tty.press("\r\r");
    tty.until(&["session of anna", "lease runs out in"]).await;
    tty.press("c");
    tty.until(&["Cancel session/", "of anna?", "would end 1 session and 1 stream; 1 other stream untouched"])
        .await;
    tty.press("please update");
    tty.until(&["Note to the client: please update"]).await;
    assert_eq!(server.status().await.sessions, 2, "only asked");
    tty.press("\r");
    tty.until(&["ended 1 session and 1 stream; 1 other stream untouched", "nothing matches the filter"])
        .await;
    let ended = anna.exited().await.expect(77);
    assert!(ended.err.contains("ADMIN_CANCELLED: please update"), "{}", ended.err);
    // Escape takes away the pane, then the filter.
    tty.press("\x1b");
    tty.until(&["q quit"]).await;
    tty.press("e");
    tty.until(&["recent ends, 2", "ADMIN_CANCELLED", "anna, by admin uid=", "please update"]).await;
    tty.press("q");
    tty.exited(0).await;
    assert!(bob.is_running());
    bob.signal(Signal::TERM);
    bob.exited().await.expect(0);
    server.stop().await;
}

#[tokio::test]
async fn the_terminal_is_given_back_however_it_ends() {
    let server = Server::start().await;
    for end in ["q", "\x1b", "\x03"] {
        let mut tty = Tty::spawn(&server, &["top"], 80, 24);
        tty.until(&["nobody is logged in", "q quit"]).await;
        tty.press(end);
        tty.exited(0).await;
    }
    for end in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut tty = Tty::spawn(&server, &["top"], 80, 24);
        tty.until(&["nobody is logged in"]).await;
        tty.signal(end);
        tty.exited(0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn it_folds_sorts_and_fits_another_size() {
    let (server, _anna, _bob, mut tty) = Box::pin(watched()).await;
    tty.press("\x1b[H\x1b[D");
    tty.until(&["▸ ", " +1 session/"]).await;
    tty.press("ssss");
    tty.until(&["by user;", "▲USER"]).await;
    tty.resize(50, 10);
    tty.until(&["50x10 is too small", "60x15 at least"]).await;
    tty.resize(60, 15);
    tty.until(&["RUNNING", "▲USER", "q quit"]).await;
    tty.press("?");
    tty.until(&["Ctrl-L Ctrl-Z"]).await;
    tty.press("?p");
    tty.until(&["PAUSED"]).await;
    tty.press("q");
    tty.exited(0).await;
    server.program.signal(Signal::TERM);
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_is_found_again() {
    let (server, _anna, _bob, mut tty) = Box::pin(watched()).await;
    let again = Server::command(server.directory());
    server.program.signal(Signal::KILL);
    // Its socket refuses only when it has really gone.
    assert_eq!(server.program.exited().await.signal, Some(Signal::KILL.as_raw()));
    let lost = tty.until(&["connection lost, retrying"]).await;
    assert!(lost.contains("▾ anna"), "the last picture stays:\n{lost}");
    let mut again = Program::spawn(again);
    again.err.with("listening on ").await;
    tty.until(&["nobody is logged in", "every 100ms"]).await;
    tty.press("q");
    tty.exited(0).await;
    again.signal(Signal::TERM);
    again.exited().await.expect(0);
}

#[tokio::test]
async fn without_a_terminal_it_says_what_to_use_and_one_screen_is_printed() {
    let server = Server::start().await;
    let refused = server.run(&["top"]).await.expect(64);
    for part in ["needs a terminal", "status --watch", "--json", "top --once"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    let tail = server.spawn(&["tail", "room/kitchen", "--user", "anna"]);
    server.until("the tail", |status| status.subscriptions == 1).await;
    let screen = server.run(&["top", "--once", "--interval", "100ms"]).await.expect(0);
    assert!(screen.out.contains("▾ anna session/"), "{}", screen.out);
    assert!(!screen.out.contains('\x1b'), "no escape codes: {}", screen.out);
    tail.signal(Signal::TERM);
    tail.exited().await.expect(0);
    server.stop().await;
    let nobody = Program::run(&["top", "--once", "--admin-socket", "/nowhere/admin.sock"]).await;
    nobody.expect(69);
}
