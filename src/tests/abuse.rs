//! Peers that attack, beside clients that must not notice: one rule of protection per test.

mod fair;
mod floods;
mod headers;
mod lengths;
mod resets;

use super::crowd::Crowd;
use super::frames::{ENHANCE_YOUR_CALM, Frame, GOAWAY, Wire};
use super::house::{settle, take_warnings};
use crate::base::reason::EndReason;
use crate::hub::registry::Ended;

const CONNECT: &str = "/streamward.v1.MessageService/Connect";
const HEARTBEAT: &str = "/streamward.v1.SessionService/Heartbeat";

/// Three witnesses, a publisher, and somebody with a session and an open stream, number 5, on a raw connection.
struct Attack {
    crowd: Crowd,
    wire: Wire,
    token: String,
    /// The hub's number of the attacker's stream.
    stream: u64,
    /// Connections, sessions, streams and subscriptions without the attacker's connection.
    before: [usize; 4],
}

/// The attacker's open stream.
const OPEN: u32 = 3;

impl Attack {
    async fn new() -> Self {
        let mut crowd = Crowd::new(3).await;
        crowd.say(3).await;
        let mut before = crowd.house.counts();
        let mut wire = Wire::new(&mut crowd.house).await;
        let token = wire.log_in("mallory").await;
        // The session stays until its lease ends.
        before[1] += 1;
        wire.open(OPEN, CONNECT, &token).await;
        settle().await;
        let stream = crowd.house.newest_stream();
        wire.frames().await;
        Self { crowd, wire, token, stream, before }
    }

    /// How the attacker's stream ended.
    fn end(&self) -> Ended {
        self.crowd.house.stream_end(self.stream)
    }

    /// The attacker is still there.
    fn assert_lives(&self) {
        assert_eq!(self.crowd.house.counts()[0], self.before[0] + 1);
        assert!(self.crowd.house.live(self.stream).is_some(), "{:?}", self.crowd.house);
    }

    /// The attacker was thrown out and told so: once, with the reason, in every place where one looks.
    async fn assert_thrown_out(mut self, why: &str) {
        self.crowd.say(3).await;
        let frames = self.wire.frames().await;
        assert_goaway(&frames, ENHANCE_YOUR_CALM);
        assert!(self.wire.is_closed);
        assert_eq!(
            self.crowd.house.counts(),
            self.before,
            "everything of it is gone: {:?}",
            self.crowd.house
        );
        let end = self.end();
        assert_eq!(end.cause.reason, EndReason::ConnectionLost);
        assert!(end.cause.note.contains(why), "{:?}", end.cause.note);
        let status = self.crowd.status().await;
        assert_eq!((status.connections_abusive, status.connections_refused), (1, 0));
        let warnings = take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("closed a connection from peer "),
            "{warnings:?}"
        );
        assert!(warnings[0].contains(why), "{warnings:?}");
        self.crowd.close().await;
    }

    /// Nothing happened to anybody else, and nothing is left.
    async fn over(self) {
        drop(self.wire);
        self.crowd.close().await;
    }
}

impl Crowd {
    async fn status(&mut self) -> crate::wire::v1::ServerStatus {
        let mut admin = self.house.admin().await;
        let request = crate::wire::v1::GetStatusRequest {};
        let answer: crate::wire::v1::GetStatusResponse =
            admin.ask("/streamward.v1.AdminService/GetStatus", &request).await.unwrap();
        answer.status.unwrap()
    }
}

#[track_caller]
fn assert_goaway(frames: &[Frame], code: u32) {
    let last = frames.iter().rfind(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(last.error_code(), code, "{last:?}");
}
