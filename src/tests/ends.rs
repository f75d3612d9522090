//! Ends that the client brings about: what it is told, what is recorded, and that nobody else notices.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{House, follow, millis_since, pass, settle, within};
use super::peer::{Options, window};
use crate::base::reason::EndReason;
use crate::client::Item;

#[tokio::test(start_paused = true)]
async fn completed_a_half_close_gets_what_is_owed_and_then_ok() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let mut line = victim.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    crowd.say(3).await;
    line.publish("room/other", Bytes::from_static(b"last words"), "m1");
    line.half_close();
    settle().await;
    line.tape.assert_ended(EndReason::Completed);
    assert_eq!(line.tape.events(ROOM), crowd.accepted);
    assert_eq!(line.tape.receipts().len(), 1, "the receipt left before the end");
    let record = crowd.house.stream_end(number);
    assert_eq!((record.cause.reason, &*record.cause.asked_by), (EndReason::Completed, "client"));
    assert_eq!(crowd.house.live(number), None);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn completed_a_half_close_before_the_window_opens_still_gets_everything() {
    let mut house = House::new();
    let mut talker = house.user("talker").await;
    let mut victim = house.peer_with(window(300)).await;
    victim.login("victim", "").await;
    let mut line = victim.follow([follow(ROOM)]).await;
    line.stall();
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push((talker.publish(ROOM, &payload(number)).await.unwrap(), payload(number)));
    }
    line.half_close();
    settle().await;
    assert!(line.tape.is_live() && line.tape.events(ROOM).len() < 20);
    line.go_on();
    settle().await;
    line.tape.assert_ended(EndReason::Completed);
    assert_eq!(line.tape.events(ROOM), sent);
    drop((talker, victim));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn completed_an_in_band_logout_ends_the_other_streams_with_session_logged_out() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let mut asking = victim.follow([follow(ROOM)]).await;
    let other = victim.follow([follow(ROOM)]).await;
    crowd.say(3).await;
    asking.logout();
    settle().await;
    asking.tape.assert_ended(EndReason::Completed);
    other.tape.assert_ended(EndReason::SessionLoggedOut);
    assert_eq!(asking.tape.events(ROOM), crowd.accepted);
    assert_eq!(other.tape.events(ROOM), crowd.accepted);
    let session = crowd.house.session_end(&victim.session_id);
    assert_eq!(session.cause.reason, EndReason::SessionLoggedOut);
    assert_eq!(crowd.house.stream_reasons(), [EndReason::Completed, EndReason::SessionLoggedOut]);
    assert_eq!(victim.closed().as_deref(), Some(""), "its connection was closed gracefully");
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn client_cancelled_is_recorded_within_one_turn_and_neighbours_go_on() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let mut line = victim.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    let neighbour = victim.follow([follow(ROOM)]).await;
    crowd.say(3).await;
    let reset_at = Instant::now();
    line.reset();
    settle().await;
    let record = crowd.house.stream_end(number);
    assert_eq!((record.cause.reason, &*record.cause.asked_by), (EndReason::ClientCancelled, "client"));
    assert_eq!(record.ended_at, reset_at, "without any time passing");
    crowd.say(3).await;
    assert!(neighbour.tape.is_live());
    assert_eq!(neighbour.tape.events(ROOM), crowd.accepted);
    drop(victim);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn client_cancelled_works_inside_a_message_and_at_a_full_window() {
    let mut crowd = Crowd::new(3).await;
    let owner = crowd.house.user("victim").await;
    let mut victim = crowd.house.peer_with(window(40)).await;
    victim.borrow_session(&owner);
    let mut stalled = victim.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    stalled.stall();
    crowd.say(20).await;
    stalled.send_bytes(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
    pass(3).await;
    stalled.reset();
    settle().await;
    assert_eq!(crowd.house.stream_end(number).cause.reason, EndReason::ClientCancelled);
    drop((victim, owner));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn connection_lost_when_the_transport_is_cut() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let lines = [victim.follow([follow(ROOM)]).await, victim.open().await, victim.open().await];
    crowd.say(3).await;
    let cut_at = Instant::now();
    victim.tap.cut();
    settle().await;
    let reasons = crowd.house.stream_reasons();
    assert_eq!(reasons, [EndReason::ConnectionLost; 3]);
    assert!(crowd.house.ended().iter().all(|record| record.ended_at == cut_at), "at once");
    assert!(lines.iter().all(|line| line.tape.reason() == Some(EndReason::ConnectionLost)));
    assert_eq!(crowd.house.counts(), [5, 6, 4, 4], "the session lives until its lease ends");
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn connection_lost_when_a_peer_stops_answering_pings() {
    let mut house = House::new();
    let mut victim = house.user("victim").await;
    let _line = victim.follow([follow(ROOM)]).await;
    let number = house.newest_stream();
    let heard_at = Instant::now();
    victim.tap.shut();
    let limits = house.core.limits();
    let patience = limits.ping_interval + limits.ping_timeout;
    tokio::time::sleep(patience.checked_sub(Duration::from_millis(20)).unwrap()).await;
    assert!(house.live(number).is_some(), "not before its time");
    tokio::time::sleep(Duration::from_millis(40)).await;
    let record = house.stream_end(number);
    assert_eq!(record.cause.reason, EndReason::ConnectionLost);
    assert!(record.cause.note.contains("limits.ping_timeout"), "{}", record.cause.note);
    let waited = record.ended_at - heard_at;
    assert!(waited <= patience + Duration::from_millis(5), "{waited:?}");
    assert_eq!(house.counts(), [0, 1, 0, 0]);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_slept_for_less_than_that_goes_on_where_it_was() {
    let mut crowd = Crowd::new(2).await;
    let mut sleeper = crowd.house.user("sleeper").await;
    let line = sleeper.follow([follow(ROOM)]).await;
    for _ in 0..4 {
        sleeper.tap.shut();
        crowd.say(10).await;
        pass(45).await;
        assert_ne!(line.tape.events(ROOM), crowd.accepted);
        sleeper.tap.open();
        settle().await;
        assert!(line.tape.is_live());
        assert_eq!(line.tape.events(ROOM), crowd.accepted);
    }
    drop(sleeper);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_kept_however_quiet() {
    let mut house = House::with(|limits, _| limits.lease = Duration::from_secs(7200));
    let mut quiet = house.user("quiet").await;
    let line = quiet.follow([follow(ROOM)]).await;
    pass(3600).await;
    assert!(line.tape.is_live() && quiet.closed().is_none());
    drop(quiet);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn deadline_exceeded_is_announced_one_tenth_before_and_ends_in_time() {
    let mut crowd = Crowd::new(3).await;
    let mut victim = crowd.house.user("victim").await;
    for (timeout, total, near) in [("40S", 40_000, 4000), ("4S", 4000, 1000), ("500m", 500, 500)] {
        let opened_at = Instant::now();
        let line = victim.open_for(Some(timeout)).await;
        let number = crowd.house.newest_stream();
        pass(50).await;
        line.tape.assert_ended(EndReason::DeadlineExceeded);
        let took = (line.tape.ended_at() - opened_at).as_millis();
        assert!((total..total + 3).contains(&took), "{timeout}: {took} ms");
        let notices: Vec<_> = line.tape.items();
        let [(at, Item::DeadlineNear { remaining })] = notices.as_slice() else { panic!("{notices:?}") };
        let told = (*at - opened_at).as_millis();
        assert!((total - near..total - near + 3).contains(&told), "{timeout}: told at {told} ms");
        assert!(remaining.as_millis().abs_diff(near) < 3, "{remaining:?}");
        let record = crowd.house.stream_end(number);
        assert_eq!((record.cause.reason, &*record.cause.asked_by), (EndReason::DeadlineExceeded, "server"));
    }
    drop(victim);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn deadline_exceeded_reaches_a_peer_whose_window_is_shut() {
    for options in [window(0), window(1000)] {
        let mut house = House::new();
        let mut talker = house.user("talker").await;
        let owner = house.user("victim").await;
        let mut victim = house.peer_with(options).await;
        victim.borrow_session(&owner);
        let opened_at = Instant::now();
        let mut line = victim.open_for(Some("20S")).await;
        line.stall();
        line.subscribe(follow(ROOM));
        settle().await;
        for number in 0..30 {
            talker.publish(ROOM, &payload(number)).await.unwrap();
        }
        pass(21).await;
        line.tape.assert_ended(EndReason::DeadlineExceeded);
        let took = (line.tape.ended_at() - opened_at).as_millis();
        assert!((20_000..20_003).contains(&took), "{options:?}: {took} ms");
        drop((talker, victim, owner));
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn session_logged_out_ends_its_streams_everywhere_and_closes_its_own_connections() {
    let mut crowd = Crowd::new(4).await;
    let mut home = crowd.house.user("victim").await;
    let mut away = crowd.house.peer().await;
    let mut shared = crowd.house.user("bystander").await;
    let mut bystander = shared.follow([follow(ROOM)]).await;
    let bystander_token = shared.token.clone();
    away.token.clone_from(&home.token);
    shared.token.clone_from(&home.token);
    let own = [
        home.follow([follow(ROOM)]).await,
        away.follow([follow(ROOM)]).await,
        away.subscribe(vec![follow(ROOM)]).await,
        shared.follow([follow(ROOM)]).await,
    ];
    crowd.say(3).await;
    let began_at = Instant::now();
    assert_eq!(home.logout().await.unwrap(), 4, "the caller gets its answer");
    settle().await;
    assert!(millis_since(began_at) < 10, "nothing had to be waited for");
    for line in &own {
        line.tape.assert_ended(EndReason::SessionLoggedOut);
        assert_eq!(line.tape.events(ROOM), crowd.accepted);
    }
    assert_eq!(home.closed().as_deref(), Some(""));
    assert_eq!(away.closed().as_deref(), Some(""));
    assert_eq!(shared.closed(), None, "it carries another session's stream");
    crowd.say(3).await;
    assert!(bystander.tape.is_live());
    assert_eq!(bystander.tape.events(ROOM), crowd.accepted);
    shared.token = bystander_token;
    shared.heartbeat().await.unwrap();
    bystander.half_close();
    pass(30).await;
    assert_eq!(shared.closed(), None, "nor is it closed later: its other session lives");
    shared.heartbeat().await.unwrap();
    let refused = away_call(&mut crowd.house, home.token.clone()).await;
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let record = crowd.house.session_end(&home.session_id);
    assert_eq!((record.cause.reason, &*record.cause.asked_by), (EndReason::SessionLoggedOut, "client"));
    drop(shared);
    crowd.close().await;
}

/// A call with the token of a session that is over.
async fn away_call(house: &mut House, token: Option<String>) -> tonic::Status {
    let mut late = house.peer().await;
    late.token = token;
    late.heartbeat().await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn session_logged_out_is_answered_even_when_a_stream_of_it_does_not_read() {
    let mut crowd = Crowd::new(2).await;
    let mut victim = crowd.house.user("victim").await;
    let mut stuck = crowd.house.peer_with(Options { window: 200, ..Options::default() }).await;
    stuck.token.clone_from(&victim.token);
    let line = stuck.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    line.stall();
    crowd.say(20).await;
    let began_at = Instant::now();
    assert_eq!(victim.logout().await.unwrap(), 1);
    let flush = crowd.house.core.shutdown_times().flush_timeout;
    assert!(began_at.elapsed() <= flush * 2 + Duration::from_millis(2), "{:?}", began_at.elapsed());
    settle().await;
    assert_eq!(crowd.house.stream_end(number).cause.reason, EndReason::SessionLoggedOut);
    assert_eq!(victim.closed().as_deref(), Some(""));
    assert_eq!(stuck.closed().as_deref(), Some(""));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_library_sees_the_same_ends() {
    let mut house = House::new();
    let guest = house.login("alice", "laptop").await;
    let (sender, stream) = within(guest.session.open()).await.unwrap();
    let (tape, mut tasks) = (super::tape::Tape::default(), tokio::task::JoinSet::new());
    tasks.spawn(tape.clone().record(stream));
    sender.subscribe(follow(ROOM)).await.unwrap();
    sender.publish(ROOM, "hello", "m1", "text/plain").await.unwrap();
    settle().await;
    assert_eq!(tape.events(ROOM), [(1, Bytes::from_static(b"hello"))]);
    assert_eq!(within(guest.session.logout()).await.unwrap(), 1);
    settle().await;
    tape.assert_ended(EndReason::SessionLoggedOut);
    let again = within(guest.client.login("alice", "", "laptop")).await;
    assert!(again.is_err(), "one in-memory connection, and it was closed");
    drop((guest.client, guest.tap, sender));
    house.close().await;
}
