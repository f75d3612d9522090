//! Connections: who is let in, who is given up, and how one is closed.

use std::time::Duration;

use tokio::time::Instant;

use super::crowd::{Crowd, ROOM};
use super::frames::{ACK, DATA, Frame, GOAWAY, PING, Wire};
use super::house::{House, follow, millis_since, pass, settle};
use super::peer::{Options, window};
use crate::base::limits::GOAWAY_PING_TIMEOUT;
use crate::base::reason::EndReason;
use crate::wire::v1;

/// Waits until the server has closed the connection; says how long that took.
async fn closed(wire: &mut Wire, began_at: Instant) -> Duration {
    for _ in 0..1_000_000 {
        wire.frames().await;
        if wire.is_closed {
            return began_at.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(9)).await;
    }
    panic!("it was never closed");
}

fn assert_about(took: Duration, expected: Duration) {
    assert!(took >= expected && took < expected + Duration::from_millis(100), "{took:?}, not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn handshake_timeout_closes_who_does_not_finish_the_preface() {
    for part in [0, 1, 23] {
        let mut house = House::new();
        let mut wire = Wire::silent(&mut house);
        let began_at = Instant::now();
        wire.bytes(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..part]).await;
        let took = closed(&mut wire, began_at).await;
        assert_about(took, house.core.limits().handshake_timeout);
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_is_closed_at_once() {
    let mut house = House::new();
    let mut wire = Wire::silent(&mut house);
    let began_at = Instant::now();
    wire.bytes(b"GET / HTTP/1.1\r\nHost: pi.local\r\n\r\n").await;
    assert_about(closed(&mut wire, began_at).await, Duration::ZERO);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn login_timeout_closes_a_connection_without_any_call() {
    let mut house = House::new();
    let began_at = Instant::now();
    let polite = house.peer().await;
    let mut rude = Wire::new(&mut house).await;
    let login_timeout = house.core.limits().login_timeout;
    tokio::time::sleep(login_timeout.checked_sub(Duration::from_millis(50)).unwrap()).await;
    assert_eq!(polite.closed(), None);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(polite.closed().as_deref(), Some(""), "closed gracefully");
    // It does not answer the ping behind the first GOAWAY.
    assert_about(closed(&mut rude, began_at).await, login_timeout + GOAWAY_PING_TIMEOUT);
    drop(polite);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn connection_idle_timeout_closes_a_connection_without_session_and_call() {
    let mut house = House::new();
    let mut peer = house.peer().await;
    pass(5).await;
    peer.try_login("", "").await.unwrap_err();
    let idle_at = Instant::now();
    let idle_timeout = house.core.limits().connection_idle_timeout;
    tokio::time::sleep(idle_timeout.checked_sub(Duration::from_millis(50)).unwrap()).await;
    assert_eq!(peer.closed(), None);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(peer.closed().as_deref(), Some(""), "after {} ms", millis_since(idle_at));
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn connection_idle_timeout_closes_what_a_dead_session_left() {
    let mut house = House::new();
    let quiet = house.user("quiet").await;
    let mut busy = house.user("busy").await;
    for _ in 0..6 {
        pass(30).await;
        busy.heartbeat().await.unwrap();
    }
    assert_eq!(quiet.closed().as_deref(), Some(""), "its session expired after 90 s");
    assert_eq!(busy.closed(), None);
    drop((quiet, busy));
    house.close().await;
}

fn last_ids(frames: &[Frame]) -> Vec<u32> {
    let id = |frame: &Frame| u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
    frames.iter().filter(|frame| frame.kind == GOAWAY).map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn goaway_is_sent_twice_and_the_second_waits_for_the_ping() {
    let mut house = House::new();
    let mut wire = Wire::new(&mut house).await;
    let token = wire.log_in("hand").await;
    wire.call(3, "/streamward.v1.SessionService/Logout", Some(&token), &v1::LogoutRequest {}).await;
    let frames = wire.frames().await;
    assert_eq!(last_ids(&frames), [u32::MAX >> 1], "first one that closes nothing");
    let answered = frames.iter().any(|frame| frame.stream == 3 && frame.kind == DATA);
    assert!(answered, "the caller of Logout got its answer: {frames:?}");
    let ping = frames.iter().find(|frame| frame.kind == PING).unwrap();
    assert!(!wire.is_closed);
    wire.send(PING, ACK, 0, &ping.payload).await;
    let frames = wire.frames().await;
    assert_eq!(last_ids(&frames), [3], "then the last stream that was served");
    assert!(wire.is_closed);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn goaway_is_followed_by_the_end_when_the_ping_is_never_answered() {
    let mut house = House::new();
    let mut wire = Wire::new(&mut house).await;
    let token = wire.log_in("hand").await;
    let began_at = Instant::now();
    wire.call(3, "/streamward.v1.SessionService/Logout", Some(&token), &v1::LogoutRequest {}).await;
    assert_about(closed(&mut wire, began_at).await, GOAWAY_PING_TIMEOUT);
    assert_eq!(house.counts(), [0; 4]);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_bytes_is_cut_a_flush_timeout_after_its_stream_ended() {
    let mut crowd = Crowd::new(3).await;
    let owner = crowd.house.user("stuck").await;
    let mut stuck = crowd.house.peer_with(Options { room: 512, ..window(65_535) }).await;
    stuck.borrow_session(&owner);
    let _line = stuck.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    stuck.tap.shut();
    crowd.say(60).await;
    let mut admin = crowd.house.admin().await;
    settle().await;
    let before = crowd.house.counts()[0];
    let ended_at = Instant::now();
    admin.cancel(&format!("stream/{number}"), "", false).await.unwrap();
    settle().await;
    let record = crowd.house.stream_end(number);
    assert_eq!(record.cause.reason, EndReason::AdminCancelled);
    assert_eq!(record.ended_at, ended_at, "the record does not wait for the peer");
    assert_eq!(crowd.house.counts()[0], before, "the status may yet leave");
    tokio::time::sleep(crowd.house.core.shutdown_times().flush_timeout).await;
    settle().await;
    assert_eq!(crowd.house.counts()[0], before - 1, "the connection was cut");
    drop((owner, stuck, admin));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_does_not_take_stays_in_the_tail_and_not_in_its_connection() {
    const ROOM_BYTES: u64 = 512;
    let mut crowd = Crowd::new(3).await;
    let owner = crowd.house.user("stuck").await;
    let options = Options { room: 512, connection_window: 1 << 24, ..window(1 << 20) };
    let mut stuck = crowd.house.peer_with(options).await;
    stuck.borrow_session(&owner);
    let mut lines = Vec::new();
    for _ in 0..8 {
        lines.push(stuck.follow([follow(ROOM)]).await);
    }
    stuck.tap.shut();
    // Its windows would take all of it; a connection that is stuck takes what one turn made at most.
    crowd.say(300).await;
    let taken: u64 = {
        let hub = crowd.house.core.hub();
        let of_stuck = hub.streams().filter(|stream| &*stream.principal.user == "stuck");
        of_stuck.map(|stream| stream.delivered.bytes).sum()
    };
    let published = crowd.house.core.hub().streams().map(|stream| stream.delivered.bytes).max().unwrap();
    assert!(8 * published > 10 * (ROOM_BYTES + 4096), "{published}");
    assert!(taken < ROOM_BYTES + 4096, "{taken} of 8 times {published}");
    // When it reads again it gets everything.
    stuck.tap.open();
    crowd.say(1).await;
    for line in &lines {
        assert_eq!(line.tape.events(ROOM), crowd.accepted);
    }
    drop((owner, stuck, lines));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_unary_answer_that_nobody_reads_is_given_up_in_time() {
    let mut house = House::new();
    let owner = house.user("owner").await;
    let mut peer = house.peer_with(window(0)).await;
    peer.borrow_session(&owner);
    let (response, mut send) = peer.call("/streamward.v1.SessionService/Heartbeat", None).await;
    let request = v1::HeartbeatRequest {};
    send.send_data(super::peer::framed(&request), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let began_at = Instant::now();
    let over = tokio::time::timeout(Duration::from_secs(3600), async {
        while body.data().await.is_some_and(|data| data.is_ok()) {}
    });
    assert!(over.await.is_ok(), "the call is still open after an hour");
    assert!(millis_since(began_at) <= 31_000, "{} ms", millis_since(began_at));
    drop((owner, peer));
    house.close().await;
}
