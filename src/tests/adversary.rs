//! Everything at once: one client is ended in every way there is while all others must not notice.

use std::time::Duration;

use super::crowd::{Crowd, ROOM};
use super::house::{House, follow, pass, settle};
use super::peer::{Line, Peer, window};
use crate::base::reason::EndReason;

/// Every way a client can end that leaves the server running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Logout,
    InBandLogout,
    HalfClose,
    Reset,
    Cut,
    AdminStream,
    AdminSession,
    Deadline,
    Takeover,
    SlowConsumer,
    Garbage,
}

const WAYS: [Way; 11] = [
    Way::Logout,
    Way::InBandLogout,
    Way::HalfClose,
    Way::Reset,
    Way::Cut,
    Way::AdminStream,
    Way::AdminSession,
    Way::Deadline,
    Way::Takeover,
    Way::SlowConsumer,
    Way::Garbage,
];

impl Way {
    fn reason(self) -> EndReason {
        match self {
            Self::Logout => EndReason::SessionLoggedOut,
            Self::InBandLogout | Self::HalfClose => EndReason::Completed,
            Self::Reset => EndReason::ClientCancelled,
            Self::Cut => EndReason::ConnectionLost,
            Self::AdminStream | Self::AdminSession => EndReason::AdminCancelled,
            Self::Deadline => EndReason::DeadlineExceeded,
            Self::Takeover => EndReason::SessionTakenOver,
            Self::SlowConsumer => EndReason::SlowConsumer,
            Self::Garbage => EndReason::InvalidRequest,
        }
    }
}

/// The one who is ended, with everyone else around.
struct Scene {
    crowd: Crowd,
    /// Sessions of their own on one connection.
    sharing: Vec<(String, Line)>,
    shared: Peer,
    admin: Peer,
}

impl Scene {
    async fn new() -> Self {
        let house = House::with(|limits, _| {
            limits.lease = Duration::from_secs(7200);
            limits.lag_bytes_max = 16 * 1024;
        });
        let mut crowd = Crowd::of(house, 50).await;
        let mut shared = crowd.house.peer().await;
        let mut sharing = Vec::new();
        for number in 0..10 {
            shared.login(&format!("sharing{number}"), "").await;
            sharing.push((shared.token.clone().unwrap(), shared.follow([follow(ROOM)]).await));
        }
        let admin = crowd.house.admin().await;
        Self { crowd, sharing, shared, admin }
    }

    fn assert_nobody_noticed(&self, way: Way) {
        self.crowd.assert_nobody_noticed();
        for (at, (_, line)) in self.sharing.iter().enumerate() {
            assert!(line.tape.is_live(), "{way:?}: sharing {at} was ended: {:?}", line.tape.end());
            assert_eq!(line.tape.events(ROOM), self.crowd.accepted, "{way:?}: sharing {at}");
            assert_eq!(line.tape.gaps(), []);
        }
    }

    /// Ends `line` of `victim` this way, while events go on.
    async fn end(&mut self, way: Way, victim: &mut Peer, line: &mut Line, number: u64) {
        match way {
            Way::Logout => assert_eq!(victim.logout().await.unwrap(), 1),
            Way::InBandLogout => line.logout(),
            Way::HalfClose => line.half_close(),
            Way::Reset => line.reset(),
            Way::Cut => victim.tap.cut(),
            Way::AdminStream => {
                let done = self.admin.cancel(&format!("stream/{number}"), "x", false).await.unwrap();
                assert_eq!((done.streams_ended, done.others_untouched), (1, 60));
            }
            Way::AdminSession => {
                let done = self.admin.cancel(&victim.session_id, "x", false).await.unwrap();
                assert_eq!((done.streams_ended, done.others_untouched), (1, 60));
            }
            Way::Deadline => pass(30).await,
            Way::Takeover => {
                let mut thief = self.crowd.house.peer().await;
                thief.login("victim", "phone").await;
                thief.logout().await.unwrap();
            }
            Way::SlowConsumer => {
                line.stall();
                self.crowd.say(400).await;
            }
            Way::Garbage => line.send_bytes(bytes::Bytes::from_static(&[9; 32])),
        }
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn sixty_clients_miss_nothing_while_one_is_ended_in_every_way() {
    let mut scene = Scene::new().await;
    for way in WAYS {
        let mut victim = scene.crowd.house.peer_with(window(4000)).await;
        victim.login("victim", "phone").await;
        let timeout = (way == Way::Deadline).then_some("20S");
        let mut line = victim.open_for(timeout).await;
        line.subscribe(follow(ROOM));
        settle().await;
        let number = scene.crowd.house.newest_stream();
        let from = scene.crowd.newest();
        scene.crowd.say(3).await;
        scene.end(way, &mut victim, &mut line, number).await;
        let record = scene.crowd.house.stream_end(number);
        assert_eq!(record.cause.reason, way.reason(), "{way:?}: {record:?}");
        if way != Way::Reset && way != Way::Cut {
            line.tape.assert_ended(way.reason());
        }
        let seen = line.tape.events(ROOM);
        assert_eq!(seen, scene.crowd.since(from)[..seen.len()], "{way:?}: what it saw was in order, too");
        scene.crowd.say(3).await;
        scene.assert_nobody_noticed(way);
    }
    // And one of those that share a connection: the connection stays for the others.
    let (token, line) = scene.sharing.remove(3);
    scene.shared.token = Some(token);
    assert_eq!(scene.shared.logout().await.unwrap(), 1);
    settle().await;
    line.tape.assert_ended(EndReason::SessionLoggedOut);
    assert_eq!(scene.shared.closed(), None);
    scene.crowd.say(3).await;
    scene.assert_nobody_noticed(Way::Logout);
    drop((scene.shared, scene.admin));
    scene.crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_logins_leave_nothing_behind() {
    let mut house = House::new();
    let mut talker = house.user("talker").await;
    for round in 0_u64..1000 {
        let mut peer = house.user("guest").await;
        let mut line = peer.follow([follow(ROOM), follow("user/guest")]).await;
        let sequence = talker.publish(ROOM, &super::crowd::payload(round)).await.unwrap();
        settle().await;
        assert_eq!(line.tape.sequences(ROOM), [sequence]);
        match round % 4 {
            0 => line.logout(),
            1 => assert_eq!(peer.logout().await.unwrap(), 1),
            2 => {
                line.half_close();
                settle().await;
                assert_eq!(peer.logout().await.unwrap(), 0);
            }
            _ => {
                line.reset();
                settle().await;
                peer.logout().await.unwrap();
            }
        }
        settle().await;
        assert_eq!(house.counts(), [1, 1, 0, 0], "round {round}");
    }
    assert_eq!(house.core.hub().stats().logins, 1001);
    assert_eq!(house.ended().len(), 1024, "the rings are full and no fuller");
    assert_eq!(house.core.hub().topics().len(), 2);
    drop(talker);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn references_to_dead_cursors_are_not_kept() {
    let mut house = House::new();
    let mut peer = house.user("guest").await;
    peer.publish(ROOM, b"one event").await.unwrap();
    let mut line = peer.open().await;
    for _ in 0..1000 {
        line.subscribe(super::house::retained(ROOM));
        line.unsubscribe(ROOM);
    }
    settle().await;
    assert_eq!(line.tape.subscribed().len(), 1000);
    let references = house.core.hub().cursor_references();
    assert!(references <= 64, "{references} references to cursors that are gone");
    drop(peer);
    house.close().await;
}
