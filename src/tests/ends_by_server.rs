//! Ends that the server decides: what the client is told, what is recorded, and that nobody else notices.

use std::time::Duration;

use tokio::time::Instant;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{House, after, follow, pass, settle};
use super::peer::{Line, Peer, window};
use crate::base::reason::EndReason;
use crate::hub::registry::EndedNode;
use crate::wire::convert;

#[tokio::test(start_paused = true)]
async fn session_expired_when_its_lease_ran_out_without_heartbeat_and_traffic() {
    let mut house = House::new();
    let mut quiet = house.user("quiet").await;
    let mut busy = house.user("busy").await;
    let logged_in_at = Instant::now();
    let lines = [quiet.follow([follow(ROOM)]).await, quiet.open().await];
    let witness = busy.follow([follow(ROOM)]).await;
    let lease = house.core.limits().lease;
    for _ in 0..4 {
        pass(30).await;
        busy.heartbeat().await.unwrap();
    }
    for line in &lines {
        line.tape.assert_ended(EndReason::SessionExpired);
        // The stream's own frames were the last traffic, a moment after the login.
        let lived = line.tape.ended_at() - logged_in_at;
        assert!(lived >= lease && lived < lease + Duration::from_millis(5), "{lived:?}");
    }
    let record = house.session_end(&quiet.session_id);
    assert_eq!((record.cause.reason, &*record.cause.asked_by), (EndReason::SessionExpired, "server"));
    assert_eq!(quiet.heartbeat().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    assert!(witness.tape.is_live());
    drop((quiet, busy));
    house.close().await;
}

/// What a client does to be heard of.
type Traffic = fn(&mut Line);

#[tokio::test(start_paused = true)]
async fn session_expired_is_put_off_by_any_frame_or_call() {
    let kinds: [(&str, Traffic); 5] = [
        ("heartbeat", |line| line.heartbeat()),
        ("publish", |line| line.publish("room/x", payload(1), "m")),
        ("refused publish", |line| line.publish("not a topic", payload(1), "m")),
        ("subscribe", |line| line.subscribe(follow("room/y"))),
        ("unsubscribe", |line| line.unsubscribe("room/z")),
    ];
    for (name, speak) in kinds {
        let mut house = House::new();
        let mut peer = house.user("busy").await;
        let mut line = peer.open().await;
        for _ in 0..5 {
            pass(60).await;
            speak(&mut line);
        }
        settle().await;
        assert!(line.tape.is_live(), "{name} did not renew the lease");
        drop(peer);
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn session_expired_is_put_off_by_unary_calls() {
    let mut house = House::new();
    let mut beating = house.user("beating").await;
    let mut talking = house.user("talking").await;
    let lines = [beating.open().await, talking.open().await];
    for number in 0..5 {
        pass(60).await;
        beating.heartbeat().await.unwrap();
        talking.publish(ROOM, &payload(number)).await.unwrap();
    }
    assert!(lines.iter().all(|line| line.tape.is_live()));
    drop((beating, talking));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn session_taken_over_by_the_same_user_and_client_name_only() {
    let mut crowd = Crowd::new(3).await;
    let mut phone = crowd.house.peer().await;
    phone.login("alice", "phone").await;
    let mut laptop = crowd.house.peer().await;
    laptop.login("alice", "laptop").await;
    let (old, other) = (phone.follow([follow(ROOM)]).await, laptop.follow([follow(ROOM)]).await);
    let number = crowd.house.newest_stream() - 1;
    crowd.say(2).await;
    let mut new_phone = crowd.house.peer().await;
    let granted = new_phone.login("alice", "phone").await;
    settle().await;
    old.tape.assert_ended(EndReason::SessionTakenOver);
    assert_eq!(crowd.house.stream_end(number).cause.reason, EndReason::SessionTakenOver);
    let previous = granted.previous_end.unwrap();
    assert_eq!(previous.id, phone.session_id);
    assert_eq!(previous.reason, i32::from(convert::reason(EndReason::SessionTakenOver)));
    assert_ne!(new_phone.session_id, phone.session_id);
    crowd.say(2).await;
    assert_eq!(other.tape.events(ROOM), crowd.accepted);
    assert_eq!(phone.heartbeat().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    // A client without a name is never taken over and told of no previous end.
    let mut nameless = [crowd.house.user("alice").await, crowd.house.user("alice").await];
    for peer in &mut nameless {
        peer.heartbeat().await.unwrap();
        assert_eq!(peer.login("alice", "").await.previous_end, None);
    }
    drop((phone, laptop, new_phone, nameless));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn session_taken_over_tells_a_later_login_how_the_last_one_ended() {
    let mut house = House::new();
    let mut first = house.peer().await;
    assert_eq!(first.login("alice", "phone").await.previous_end, None);
    first.logout().await.unwrap();
    let mut second = house.peer().await;
    let previous = second.login("alice", "phone").await.previous_end.unwrap();
    assert_eq!(previous.id, first.session_id);
    assert_eq!(previous.reason, i32::from(convert::reason(EndReason::SessionLoggedOut)));
    drop((first, second));
    house.close().await;
}

/// Publishes until the stream's lag bound is passed by far, then says when that was.
async fn flood(crowd: &mut Crowd, count: usize) -> Instant {
    let at = Instant::now();
    crowd.say(count).await;
    at
}

/// One event takes at least this many bytes in the tail: see [`payload`].
const EVENT_BYTES_MIN: usize = 30;

async fn slow_crowd() -> Crowd {
    let house = House::with(|limits, _| {
        limits.lease = Duration::from_secs(7200);
        limits.lag_bytes_max = 4096;
        limits.tail_bytes_max = 64 * 1024;
    });
    Crowd::of(house, 3).await
}

/// A consumer that stops reading with this window, in a session borrowed from `owner`.
async fn slow_consumer(crowd: &mut Crowd, window_bytes: u32) -> (Peer, Peer, Line) {
    let owner = crowd.house.user("slow").await;
    let mut peer = crowd.house.peer_with(window(window_bytes)).await;
    peer.borrow_session(&owner);
    let line = peer.follow([follow(ROOM)]).await;
    line.stall();
    (owner, peer, line)
}

#[tokio::test(start_paused = true)]
async fn slow_consumer_is_told_at_once_and_resumes_from_last_sequence_without_loss() {
    for window_bytes in [0, 400, 1000, 3000, 65_535] {
        let mut crowd = slow_crowd().await;
        let (owner, peer, line) = slow_consumer(&mut crowd, window_bytes).await;
        let number = crowd.house.newest_stream();
        let last_read = crowd.newest();
        let mut passed_at = Instant::now();
        // In small steps with time between them: whatever the pump does with a rest of window, it does.
        while crowd.house.live(number).is_some() {
            assert!(crowd.accepted.len() < 3000, "window {window_bytes}: it never ended");
            passed_at = flood(&mut crowd, 4).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let record = crowd.house.stream_end(number);
        assert_eq!(record.cause.reason, EndReason::SlowConsumer, "window {window_bytes}");
        assert!(record.ended_at - passed_at < Duration::from_millis(10), "window {window_bytes}");
        line.tape.assert_ended(EndReason::SlowConsumer);
        let details = line.tape.end().details.unwrap();
        let last = details.last_sequence.unwrap();
        assert_eq!(details.retry_after, Some(Duration::ZERO), "come back at once");
        let seen = line.tape.sequences(ROOM);
        assert_eq!(seen.last().copied().unwrap_or(last_read), last, "window {window_bytes}");
        let resumed = peer_with_room(&mut crowd, &owner).await.follow_resumed(last).await;
        crowd.say(2).await;
        assert!(resumed.1.tape.subscribed()[0].recovered);
        assert_eq!(resumed.1.tape.events(ROOM), crowd.since(last));
        drop((owner, peer, resumed));
        crowd.close().await;
    }
}

/// A second connection of the same session, with ordinary windows.
async fn peer_with_room(crowd: &mut Crowd, owner: &Peer) -> Resumer {
    let mut peer = crowd.house.peer().await;
    peer.borrow_session(owner);
    Resumer(peer)
}

struct Resumer(Peer);

impl Resumer {
    async fn follow_resumed(mut self, sequence: u64) -> (Self, Line) {
        let line = self.0.follow([after(ROOM, sequence)]).await;
        (self, line)
    }
}

#[tokio::test(start_paused = true)]
async fn slow_consumer_keeps_nothing_but_its_cursor_and_ends_alone() {
    let mut crowd = slow_crowd().await;
    let (owner, peer, line) = slow_consumer(&mut crowd, 0).await;
    let number = crowd.house.newest_stream();
    let neighbour = crowd.publisher.follow([follow(ROOM)]).await;
    flood(&mut crowd, 2000 / EVENT_BYTES_MIN / 4).await;
    let key = crowd.house.live(number).unwrap();
    assert_eq!(crowd.house.core.hub().delivered(key).unwrap().bytes, 0, "nothing was taken from the cursor");
    flood(&mut crowd, 200).await;
    let record = crowd.house.stream_end(number);
    assert_eq!(record.cause.reason, EndReason::SlowConsumer);
    let EndedNode::Stream { lag_bytes, delivered, .. } = record.node else { panic!("{record:?}") };
    assert!(lag_bytes > 4096 && delivered.events == 0, "{lag_bytes} {delivered:?}");
    line.tape.assert_ended(EndReason::SlowConsumer);
    assert_eq!(neighbour.tape.events(ROOM), crowd.accepted);
    drop((owner, peer));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn admin_cancelled_tells_the_note_and_touches_nobody_else() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let line = victim.follow([follow(ROOM)]).await;
    let id = format!("stream/{}", crowd.house.newest_stream());
    let neighbour = victim.follow([follow(ROOM)]).await;
    let mut admin = crowd.house.admin().await;
    let note = "too loud: \u{e4}\u{20ac}";
    let counted = admin.cancel(&id, note, true).await.unwrap();
    assert_eq!((counted.streams_ended, counted.sessions_ended, counted.others_untouched), (1, 0, 5));
    settle().await;
    assert!(line.tape.is_live(), "a dry run ends nothing");
    let done = admin.cancel(&id, note, false).await.unwrap();
    assert_eq!(done, counted, "the dry run counted right");
    settle().await;
    line.tape.assert_ended(EndReason::AdminCancelled);
    assert_eq!(line.tape.end().status.message(), note);
    let record = &crowd.house.ended()[0];
    assert_eq!((&*record.cause.note, &*record.cause.asked_by), (note, "admin uid=0"));
    crowd.say(3).await;
    assert_eq!(neighbour.tape.events(ROOM), crowd.accepted);
    assert_eq!(admin.cancel(&id, "", false).await.unwrap_err().code(), tonic::Code::NotFound);
    drop((victim, admin));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn admin_cancelled_ends_a_session_with_all_its_streams() {
    let mut crowd = Crowd::new(4).await;
    let mut victim = crowd.house.user("victim").await;
    let lines = [victim.follow([follow(ROOM)]).await, victim.open().await, victim.open().await];
    let mut admin = crowd.house.admin().await;
    let id = victim.session_id.clone();
    let counted = admin.cancel(&id, "bye", true).await.unwrap();
    assert_eq!((counted.streams_ended, counted.sessions_ended, counted.others_untouched), (3, 1, 4));
    assert_eq!(admin.cancel(&id, "bye", false).await.unwrap(), counted);
    settle().await;
    for line in &lines {
        line.tape.assert_ended(EndReason::AdminCancelled);
        assert_eq!(line.tape.end().status.message(), "bye");
    }
    assert_eq!(crowd.house.session_end(&id).cause.reason, EndReason::AdminCancelled);
    assert_eq!(victim.heartbeat().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    drop((victim, admin));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn admin_cancelled_reaches_a_peer_whose_window_is_shut() {
    for window_bytes in [0, 400, 3000] {
        let mut crowd = Crowd::new(2).await;
        let (owner, peer, line) = slow_consumer(&mut crowd, window_bytes).await;
        let number = crowd.house.newest_stream();
        crowd.say(40).await;
        pass(5).await;
        let mut admin = crowd.house.admin().await;
        admin.cancel(&format!("stream/{number}"), "enough", false).await.unwrap();
        settle().await;
        assert_eq!(crowd.house.live(number), None, "window {window_bytes}: held");
        line.tape.assert_ended(EndReason::AdminCancelled);
        drop((owner, peer, admin));
        crowd.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_cause_wins_over_every_later_one() {
    let mut crowd = Crowd::new(2).await;
    let mut victim = crowd.house.peer_with(window(1000)).await;
    victim.token.clone_from(&crowd.publisher.token);
    let mut owner = crowd.house.peer().await;
    owner.login("victim", "phone").await;
    victim.borrow_session(&owner);
    // Logged out while stalled: it may still deliver for the flush time. Its deadline comes within that time.
    let line = victim.open_for(Some("5S")).await;
    let number = crowd.house.newest_stream();
    line.stall();
    let mut line = line;
    line.subscribe(follow(ROOM));
    crowd.say(30).await;
    tokio::time::sleep(Duration::from_millis(4000)).await;
    let mut admin = crowd.house.admin().await;
    line.logout();
    settle().await;
    assert!(crowd.house.live(number).is_some(), "it is owed something");
    let cancelled = admin.cancel(&format!("stream/{number}"), "late", false).await.unwrap();
    assert_eq!(cancelled.streams_ended, 1, "it is cut, but for the cause it had");
    settle().await;
    assert_eq!(crowd.house.stream_end(number).cause.reason, EndReason::Completed);
    drop((victim, owner, admin));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_cause_is_the_deadline_when_a_logout_follows_it() {
    let mut house = House::new();
    let mut victim = house.user("victim").await;
    let line = victim.open_for(Some("5S")).await;
    let number = house.newest_stream();
    pass(5).await;
    victim.logout().await.unwrap();
    settle().await;
    line.tape.assert_ended(EndReason::DeadlineExceeded);
    assert_eq!(house.stream_end(number).cause.reason, EndReason::DeadlineExceeded);
    assert_eq!(house.session_end(&victim.session_id).cause.reason, EndReason::SessionLoggedOut);
    drop(victim);
    house.close().await;
}
