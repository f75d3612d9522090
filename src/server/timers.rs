//! When a connection is pinged, given up or closed. Decides; the connection acts.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::limits::Limits;

/// What a connection has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    Wait(Instant),
    /// Send a ping.
    Ping,
    /// The peer is gone or does not read: drop the connection. The text says which.
    Dead(&'static str),
    /// Nothing uses it: close it gracefully. The text says why.
    Unused(&'static str),
}

/// What is known of the connection now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) now: Instant,
    /// When the peer was last heard of.
    pub(super) heard_at: Option<Instant>,
    /// Since when it takes no byte.
    pub(super) blocked_since: Option<Instant>,
    /// Calls under way.
    pub(super) calls: usize,
    /// Whether a live session has used it.
    pub(super) has_session: bool,
    /// Whether it is closing already.
    pub(super) closing: bool,
    /// How long an ended call's status may take to leave.
    pub(super) flush_timeout: Duration,
}

/// What is remembered between two looks.
#[derive(Debug)]
pub(super) struct Timers {
    started_at: Instant,
    ping_sent_at: Option<Instant>,
    first_call_seen: bool,
    /// When the last call ended.
    call_ended_at: Option<Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self { started_at: now, ping_sent_at: None, first_call_seen: false, call_ended_at: None }
    }

    pub(super) fn call_began(&mut self) {
        self.first_call_seen = true;
    }

    pub(super) fn call_ended(&mut self, now: Instant) {
        self.call_ended_at = Some(now);
    }

    /// What is due. A returned [`Due::Ping`] counts as sent.
    pub(super) fn due(&mut self, facts: &Facts, limits: &Limits) -> Due {
        let now = facts.now;
        let heard_at = facts.heard_at.unwrap_or(self.started_at);
        if let (Some(blocked_since), Some(ended_at)) = (facts.blocked_since, self.call_ended_at)
            && now >= blocked_since.max(ended_at) + facts.flush_timeout
        {
            return Due::Dead("the peer takes no bytes and a call of it has ended");
        }
        if self.ping_sent_at.is_some_and(|sent_at| heard_at >= sent_at) {
            self.ping_sent_at = None;
        }
        let ping_at = match self.ping_sent_at {
            Some(sent_at) if now >= sent_at + limits.ping_timeout => {
                return Due::Dead("no answer to a ping within limits.ping_timeout");
            }
            Some(sent_at) => sent_at + limits.ping_timeout,
            None if now >= heard_at + limits.ping_interval => {
                self.ping_sent_at = Some(now);
                return Due::Ping;
            }
            None => heard_at + limits.ping_interval,
        };
        // Looked at once more even if nothing is blocked yet: the status may just be leaving.
        let stuck_at = self.call_ended_at.map(|ended_at| {
            facts.blocked_since.map_or(ended_at, |since| since.max(ended_at)) + facts.flush_timeout
        });
        let stuck_at = stuck_at.filter(|at| *at > now);
        match self.unused_at(facts, limits) {
            Some((at, why)) if now >= at => Due::Unused(why),
            unused => {
                let unused_at = unused.map(|(at, _)| at);
                Due::Wait([stuck_at, unused_at].into_iter().flatten().fold(ping_at, Instant::min))
            }
        }
    }

    fn unused_at(&self, facts: &Facts, limits: &Limits) -> Option<(Instant, &'static str)> {
        if facts.closing || facts.calls > 0 {
            return None;
        }
        if !self.first_call_seen {
            return Some((self.started_at + limits.login_timeout, "no call within limits.login_timeout"));
        }
        let since = self.call_ended_at.unwrap_or(self.started_at);
        let why = "no session and no call for limits.connection_idle_timeout";
        (!facts.has_session).then(|| (since + limits.connection_idle_timeout, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(now: Instant, heard_at: Instant) -> Facts {
        Facts {
            now,
            heard_at: Some(heard_at),
            blocked_since: None,
            calls: 1,
            has_session: true,
            closing: false,
            flush_timeout: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_quiet_peer_is_pinged_and_then_given_up() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut timers = Timers::new(start);
        assert_eq!(timers.due(&facts(start, start), &limits), Due::Wait(start + limits.ping_interval));
        let pinged_at = start + limits.ping_interval;
        assert_eq!(timers.due(&facts(pinged_at, start), &limits), Due::Ping);
        let answer_by = pinged_at + limits.ping_timeout;
        assert_eq!(timers.due(&facts(pinged_at, start), &limits), Due::Wait(answer_by));
        assert!(matches!(timers.due(&facts(answer_by, start), &limits), Due::Dead(_)));
    }

    #[test]
    fn a_peer_that_answers_lives_on() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut timers = Timers::new(start);
        let pinged_at = start + limits.ping_interval;
        assert_eq!(timers.due(&facts(pinged_at, start), &limits), Due::Ping);
        let answered_at = pinged_at + Duration::from_secs(1);
        let due = timers.due(&facts(answered_at, answered_at), &limits);
        assert_eq!(due, Due::Wait(answered_at + limits.ping_interval));
    }

    #[test]
    fn a_peer_that_takes_nothing_is_cut_a_flush_timeout_after_a_call_of_it_ended() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut timers = Timers::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let blocked = |now| Facts { blocked_since: Some(start), ..facts(now, now) };
        assert!(matches!(timers.due(&blocked(at(10)), &limits), Due::Wait(_)), "it may yet read");
        timers.call_ended(at(10));
        assert_eq!(timers.due(&blocked(at(10)), &limits), Due::Wait(at(12)));
        assert_eq!(timers.due(&facts(at(10), at(10)), &limits), Due::Wait(at(12)));
        assert!(matches!(timers.due(&blocked(at(12)), &limits), Due::Dead(_)));
    }

    #[test]
    fn a_connection_nobody_uses_is_closed() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut timers = Timers::new(start);
        let unused = |now| Facts { calls: 0, has_session: false, ..facts(now, now) };
        let login_by = start + limits.login_timeout;
        assert!(matches!(timers.due(&unused(login_by), &limits), Due::Unused(_)));
        timers.call_began();
        timers.call_ended(login_by);
        assert!(matches!(timers.due(&unused(login_by), &limits), Due::Wait(_)));
        let idle_at = login_by + limits.connection_idle_timeout;
        assert!(matches!(timers.due(&unused(idle_at), &limits), Due::Unused(_)));
        let with_session = Facts { has_session: true, ..unused(idle_at) };
        assert!(matches!(timers.due(&with_session, &limits), Due::Wait(_)));
    }
}
