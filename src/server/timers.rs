//! When a connection is pinged or given up. Decides; the connection acts. That nobody uses it is the reaper's business.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::limits::Limits;
use crate::server::conn::Watch;

/// What a connection has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    Wait(Instant),
    /// Send a ping.
    Ping,
    /// The peer is gone or does not read: drop the connection. The text says which.
    Dead(&'static str),
    /// The peer does what no client needs to: close the connection at once. The text says what.
    Abusive(&'static str),
}

/// What is known of the connection now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) now: Instant,
    /// When the peer was last heard of.
    pub(super) heard_at: Option<Instant>,
    /// Since when it takes no byte.
    pub(super) blocked_since: Option<Instant>,
    /// What its frames say of it.
    pub(super) watch: Watch,
    /// How long an ended call's status may take to leave.
    pub(super) flush_timeout: Duration,
}

/// What is remembered between two looks.
#[derive(Debug)]
pub(super) struct Timers {
    started_at: Instant,
    ping_sent_at: Option<Instant>,
    /// When the last call ended.
    call_ended_at: Option<Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self { started_at: now, ping_sent_at: None, call_ended_at: None }
    }

    pub(super) fn call_ended(&mut self, now: Instant) {
        self.call_ended_at = Some(now);
    }

    /// What is due. A returned [`Due::Ping`] counts as sent.
    pub(super) fn due(&mut self, facts: &Facts, limits: &Limits) -> Due {
        let now = facts.now;
        if let Some(flood) = facts.watch.flood {
            return Due::Abusive(flood);
        }
        let block_at = facts.watch.header_block_since.map(|since| since + limits.handshake_timeout);
        if block_at.is_some_and(|at| now >= at) {
            return Due::Abusive("a header block was not complete within limits.handshake_timeout");
        }
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
        Due::Wait([stuck_at, block_at].into_iter().flatten().fold(ping_at, Instant::min))
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
            watch: Watch::default(),
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
    fn a_flood_is_ended_at_once_and_an_open_header_block_in_time() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut timers = Timers::new(start);
        let open = Watch { header_block_since: Some(start), flood: None };
        let at = |now| Facts { watch: open, ..facts(now, now) };
        let complete_by = start + limits.handshake_timeout;
        assert_eq!(timers.due(&at(start), &limits), Due::Wait(complete_by));
        assert!(matches!(timers.due(&at(complete_by), &limits), Due::Abusive(_)));
        let flood = Watch { header_block_since: None, flood: Some("too much") };
        let due = timers.due(&Facts { watch: flood, ..facts(start, start) }, &limits);
        assert_eq!(due, Due::Abusive("too much"));
    }
}
