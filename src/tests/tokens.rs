//! What a call is told whose session has ended: why, and so whether its client may log in again.

use tokio::time::Instant;
use tonic::{Code, Status};

use super::crowd::ROOM;
use super::house::{House, follow, pass, settle, within};
use super::peer::{Peer, framed};
use crate::base::limits::ENDED_KEPT_MAX;
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Retry};
use crate::hub::registry::Token;
use crate::runtime::phase::Phase;
use crate::wire::ended::end_details;
use crate::wire::v1;

const FORGOTTEN: &str = "this token is of no live session: log in again";

/// Everything that needs a token, called with this client's, and how each was refused.
async fn every_call(house: &mut House, old: &Peer) -> Vec<(&'static str, Status)> {
    // On a connection of its own: some ends close those of the session.
    let mut peer = house.peer().await;
    peer.borrow_session(old);
    let connect = peer.open().await;
    let subscribe = peer.subscribe(vec![follow(ROOM)]).await;
    vec![
        ("Heartbeat", peer.heartbeat().await.unwrap_err()),
        ("Logout", peer.logout().await.unwrap_err()),
        ("Publish", peer.publish(ROOM, b"too late").await.unwrap_err()),
        ("Connect", *connect.tape.end().status),
        ("Subscribe", *subscribe.tape.end().status),
    ]
}

#[track_caller]
fn assert_tells(call: &str, status: &Status, old: &Peer, reason: EndReason) {
    let what = format!("{call} after {}: {status:?}", reason.name());
    assert_eq!(status.code(), Code::Unauthenticated, "{what}");
    let details = end_details(status).unwrap_or_else(|| panic!("{what}"));
    assert_eq!(details.reason, reason, "{what}");
    assert_eq!(details.session.as_ref(), Some(&old.session_id), "{what}");
    assert_eq!(details.retry_after.is_some(), reason.retry() == Retry::Later, "{what}");
    assert!(status.message().contains("log in again"), "{what}");
    let stay_away = status.message().contains("do not log in again");
    assert_eq!(stay_away, reason.retry() == Retry::No, "{what}");
    assert!(!what.contains(old.token.as_ref().unwrap()), "a secret");
}

/// Every later call of the token is told the reason, and changes nothing.
async fn assert_all_told(house: &mut House, old: &Peer, reason: EndReason) {
    let before = held(house);
    for (call, status) in every_call(house, old).await {
        assert_tells(call, &status, old, reason);
    }
    assert_eq!(held(house), before);
}

/// Sessions, streams, subscriptions, ends and events.
fn held(house: &House) -> [usize; 5] {
    let [_, sessions, streams, subscriptions] = house.counts();
    let hub = house.core.hub();
    let (ended, events) = (hub.ended().newest_first().len(), hub.last_sequence());
    [sessions, streams, subscriptions, ended, usize::try_from(events).unwrap()]
}

async fn assert_none_told(house: &mut House, old: &Peer) {
    for (call, status) in every_call(house, old).await {
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, FORGOTTEN), "{call}");
        assert_eq!(end_details(&status), None, "{call}");
    }
}

fn end(house: &House, peer: &Peer, reason: EndReason) {
    let key = peer.session_id.parse().unwrap();
    assert!(house.core.hub().end_session(key, Cause::server(reason), Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_ended_session_is_told_why_it_ended_in_every_call_and_for_every_reason() {
    for reason in EndReason::ALL {
        let mut house = House::new();
        let mut other = house.user("other").await;
        let witness = other.follow([follow(ROOM)]).await;
        let old = house.user("alice").await;
        end(&house, &old, reason);
        assert_all_told(&mut house, &old, reason).await;
        other.publish(ROOM, b"x").await.unwrap();
        settle().await;
        assert_eq!(witness.tape.sequences(ROOM), [1], "{}", reason.name());
        drop((old, other, witness));
        house.close().await;
    }
}

/// How sessions really end, and what their token is told afterwards.
#[derive(Clone, Copy)]
enum Way {
    Logout,
    LogoutFrame,
    Lease,
    Takeover,
    Cancel,
}

const WAYS: [(Way, EndReason); 5] = [
    (Way::Logout, EndReason::SessionLoggedOut),
    // Only the stream that asked has completed.
    (Way::LogoutFrame, EndReason::SessionLoggedOut),
    (Way::Lease, EndReason::SessionExpired),
    (Way::Takeover, EndReason::SessionTakenOver),
    (Way::Cancel, EndReason::AdminCancelled),
];

#[tokio::test(start_paused = true)]
async fn a_token_is_told_of_the_end_its_session_really_had() {
    for (way, reason) in WAYS {
        let mut house = House::new();
        let mut old = house.peer().await;
        old.login("alice", "phone").await;
        let mut line = old.open().await;
        let mut other = house.peer().await;
        match way {
            Way::Logout => assert_eq!(old.logout().await.unwrap(), 1),
            Way::LogoutFrame => line.logout(),
            Way::Lease => pass(91).await,
            Way::Takeover => drop(other.login("alice", "phone").await),
            Way::Cancel => {
                let mut admin = house.admin().await;
                admin.cancel(&old.session_id, "stay away", false).await.unwrap();
            }
        }
        settle().await;
        assert_all_told(&mut house, &old, reason).await;
        drop((old, line, other));
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_token_is_told_of_its_own_session_whatever_became_of_the_next_ones() {
    let mut house = House::new();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = house.peer().await;
        peer.login("alice", "phone").await;
        peers.push(peer);
    }
    peers[2].logout().await.unwrap();
    let reasons = [EndReason::SessionTakenOver, EndReason::SessionTakenOver, EndReason::SessionLoggedOut];
    for (peer, reason) in peers.iter().zip(reasons) {
        assert_all_told(&mut house, peer, reason).await;
    }
    drop(peers);
    house.close().await;
}

/// Sessions that come and go.
fn churn(house: &House, numbers: std::ops::Range<usize>) {
    let mut hub = house.core.hub();
    let connection = hub.connections().map(|(id, _)| *id).next().unwrap();
    for number in numbers {
        let token = Token(std::array::from_fn(|at| number.to_le_bytes().get(at).copied().unwrap_or(1)));
        let principal = Principal::new("crowd", "").unwrap();
        let login = hub.login(principal, token, connection, Instant::now()).unwrap();
        hub.end_session(login.session, Cause::client(EndReason::SessionLoggedOut), Instant::now());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_never_given_or_is_forgotten_is_told_of_nothing() {
    let mut house = House::new();
    let mut stranger = house.peer().await;
    stranger.token = Some("ab".repeat(32));
    let old = house.user("alice").await;
    end(&house, &old, EndReason::SessionTakenOver);
    churn(&house, 1..ENDED_KEPT_MAX);
    assert_all_told(&mut house, &old, EndReason::SessionTakenOver).await;
    assert_none_told(&mut house, &stranger).await;
    churn(&house, 0..1);
    assert_none_told(&mut house, &old).await;
    drop((stranger, old));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_when_its_session_ends_is_told_why() {
    let mut house = House::new();
    let mut old = house.peer().await;
    old.login("alice", "phone").await;
    let publish = v1::PublishRequest { topic: ROOM.to_owned(), ..Default::default() };
    let subscribe = v1::SubscribeRequest { subscriptions: vec![follow(ROOM)] };
    let mut under_way = Vec::new();
    for (rpc, request) in [("Publish", framed(&publish)), ("Subscribe", framed(&subscribe))] {
        let call = old.call(&format!("/streamward.v1.MessageService/{rpc}"), None).await;
        under_way.push((rpc, request, call));
    }
    // Their token was looked at; what they ask has not come yet.
    settle().await;
    let mut new = house.peer().await;
    new.login("alice", "phone").await;
    for (rpc, request, (response, mut send)) in under_way {
        send.send_data(request, true).unwrap();
        let response = within(response).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_tells(rpc, &status, &old, EndReason::SessionTakenOver);
    }
    assert_eq!(house.core.hub().last_sequence(), 0);
    assert_eq!(house.counts()[2], 0);
    drop((old, new));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_ended_session_is_told_of_the_drain_while_there_is_one() {
    let mut house = House::new();
    let old = house.user("alice").await;
    end(&house, &old, EndReason::SessionTakenOver);
    house.core.phase.advance(Phase::Refusing);
    for (call, status) in every_call(&mut house, &old).await {
        assert_eq!(status.code(), Code::Unavailable, "{call}: {status:?}");
        let details = end_details(&status).unwrap();
        assert_eq!(details.reason, EndReason::ServerDraining, "{call}: {status:?}");
        assert!(details.retry_after.is_some(), "{call}: {status:?}");
    }
    drop(old);
    house.close().await;
}
