//! The publishers and subscribers of one measurement, from their first connection to their logout.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::load::arrivals::Arrivals;
use crate::load::error::LoadError;
use crate::load::line::{Caller, Left, follow};
use crate::load::message::NUMBER_BYTES;
use crate::load::publisher::Publisher;
use crate::load::session::{Session, dial};
use crate::load::stalled::{self, Fate, Stall, dial_narrow};
use crate::wire::v1;

/// Connections that a hub with the defaults takes of one address, with some to spare for who else is there.
const CONNECTIONS_DEFAULT: usize = 28;
/// Streams of one connection, and of one session, that a hub with the defaults takes.
const STREAMS_DEFAULT_MAX: usize = 16;
/// Logging out takes no longer, or the leases end what is left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest payload that is believed; the hub has a limit of its own.
const PAYLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Options of the works that publish.
#[derive(Args, Clone, Debug)]
pub(crate) struct CrewArgs {
    /// Bytes of a message, at least 8
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = parse_size)]
    pub(crate) size: usize,
    /// Subscribers that share a connection and a session. A hub with its defaults takes 32 connections of one
    /// address [default: as few as keep within 28 connections, at most 16]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) streams_per_connection: Option<usize>,
}

fn parse_size(text: &str) -> Result<usize, String> {
    let bytes =
        text.parse::<u64>().ok().filter(|bytes| (NUMBER_BYTES as u64..=PAYLOAD_BYTES_MAX).contains(bytes));
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("write a number of bytes from {NUMBER_BYTES} to {PAYLOAD_BYTES_MAX}"))
}

/// A number of things of which there is at least one.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse::<u32>().ok().filter(|count| *count > 0);
    count.and_then(|count| usize::try_from(count).ok()).ok_or_else(|| "write a number, at least 1".to_owned())
}

/// Who is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) publishers: u16,
    /// Subscribers that read.
    pub(crate) subscribers: usize,
    /// Subscribers with a connection of their own that will stall.
    pub(crate) stalled: usize,
    pub(crate) overflow: v1::Overflow,
}

/// Who is there.
pub(crate) struct Crew {
    addr: SocketAddr,
    caller: Caller,
    plan: Plan,
    per_connection: usize,
    pub(crate) arrivals: Rc<Arrivals>,
    pub(crate) publishers: Vec<Publisher<TcpStream>>,
    /// The epoch of the hub's order.
    pub(crate) epoch: String,
    /// Sessions that are open.
    opened: Rc<Cell<usize>>,
    lines: JoinSet<Option<Left>>,
    stalled: JoinSet<(Fate, Option<Left>)>,
    opening: JoinSet<Result<Publisher<TcpStream>, LoadError>>,
    pub(crate) stall: Stall,
    leave: CancellationToken,
}

/// The user of the session opened after so many others.
fn user(number: usize) -> String {
    format!("bench-{number}")
}

impl Plan {
    /// How many subscribers share a connection when nothing is said: as few as possible.
    fn per_connection(&self) -> usize {
        let alone = usize::from(self.publishers) + self.stalled;
        let connections = CONNECTIONS_DEFAULT.saturating_sub(alone).max(1);
        self.subscribers.div_ceil(connections).clamp(1, STREAMS_DEFAULT_MAX)
    }
}

impl Crew {
    /// Nobody is there yet. `run` is a name that no other run has.
    pub(crate) fn new(addr: SocketAddr, run: &str, args: &CrewArgs, plan: Plan) -> Self {
        Self {
            addr,
            caller: Caller {
                authority: addr.to_string(),
                user: String::new(),
                client_name: run.to_owned(),
                publishers: plan.publishers,
                payload_bytes: args.size,
                overflow: v1::Overflow::Disconnect,
            },
            plan,
            per_connection: args.streams_per_connection.unwrap_or_else(|| plan.per_connection()),
            arrivals: Rc::new(Arrivals::new(plan.publishers, plan.subscribers)),
            publishers: Vec::new(),
            epoch: String::new(),
            opened: Rc::default(),
            lines: JoinSet::new(),
            stalled: JoinSet::new(),
            opening: JoinSet::new(),
            stall: Stall::default(),
            leave: CancellationToken::new(),
        }
    }

    /// Connections there will be, each with a session.
    pub(crate) fn connections(&self) -> usize {
        self.plan.subscribers.div_ceil(self.per_connection)
            + self.plan.stalled
            + usize::from(self.plan.publishers)
    }

    /// How many of them are open so far, for a line of progress.
    pub(crate) fn opened(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.opened)
    }

    /// The users that stall.
    pub(crate) fn stalled_users(&self) -> Vec<String> {
        let first = self.plan.subscribers.div_ceil(self.per_connection);
        (first..first + self.plan.stalled).map(user).collect()
    }

    /// Opens everything, one connection after the other; what could not be opened, and why. Safe to drop while it
    /// waits: [`leave`](Self::leave) finds what is half open.
    pub(crate) async fn open(&mut self) -> Result<(), (String, LoadError)> {
        for first in (0..self.plan.subscribers).step_by(self.per_connection) {
            let subscribers = first..(first + self.per_connection).min(self.plan.subscribers);
            let (ready, opened) = oneshot::channel();
            let (caller, arrivals) = (self.caller(v1::Overflow::Disconnect), Rc::clone(&self.arrivals));
            let line = follow(dial(self.addr), caller, subscribers, arrivals, ready, self.leave.clone());
            self.lines.spawn_local(line);
            self.is_open(opened, &format!("subscriber {}", first + 1)).await?;
        }
        for number in 1..=self.plan.stalled {
            let (ready, opened) = oneshot::channel();
            let caller = self.caller(self.plan.overflow);
            let line = stalled::follow(dial_narrow(self.addr), caller, self.stall.clone(), ready);
            self.stalled.spawn_local(line);
            self.is_open(opened, &format!("subscriber {number} of those to stall")).await?;
        }
        for number in 0..self.plan.publishers {
            let (addr, caller) = (self.addr, self.caller(v1::Overflow::Disconnect));
            self.opening.spawn_local(async move { Publisher::open(dial(addr), &caller, number).await });
            let opened =
                self.opening.join_next().await.and_then(Result::ok).unwrap_or(Err(LoadError::Closed));
            self.publishers.push(opened.map_err(|error| (format!("publisher {}", number + 1), error))?);
            self.opened.set(self.opened.get() + 1);
        }
        Ok(())
    }

    fn caller(&self, overflow: v1::Overflow) -> Caller {
        Caller { user: user(self.opened.get()), overflow, ..self.caller.clone() }
    }

    async fn is_open(
        &mut self,
        opened: oneshot::Receiver<Result<String, LoadError>>,
        who: &str,
    ) -> Result<(), (String, LoadError)> {
        let opened = opened.await.unwrap_or(Err(LoadError::Closed));
        self.epoch = opened.map_err(|error| (who.to_owned(), error))?;
        self.opened.set(self.opened.get() + 1);
        Ok(())
    }

    /// Logs everybody out, and says what became of those who stalled.
    pub(crate) async fn leave(mut self) -> Vec<Fate> {
        self.leave.cancel();
        self.stall.begin.cancel();
        self.stall.end.cancel();
        let mut fates = Vec::new();
        let everybody = async {
            let mut left = Vec::new();
            while let Some(opened) = self.opening.join_next().await {
                self.publishers.extend(opened.ok().and_then(Result::ok));
            }
            for publisher in self.publishers.drain(..) {
                left.extend(publisher.leave().await);
            }
            while let Some(line) = self.lines.join_next().await {
                left.extend(line.ok().flatten());
            }
            while let Some(line) = self.stalled.join_next().await {
                if let Ok((fate, line)) = line {
                    fates.push(fate);
                    left.extend(line);
                }
            }
            for Left { token } in left {
                if let Ok(stream) = dial(self.addr).await {
                    // Over already, or its lease ends it.
                    let _ = Session::log_out_of(stream, &self.caller.authority, &token).await;
                }
            }
        };
        // A hub that does not answer any more keeps nobody.
        let _ = timeout(LEAVE_TIMEOUT, Box::pin(everybody)).await;
        fates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::Limits;

    #[test]
    fn a_hub_with_its_defaults_takes_what_is_not_said_otherwise() {
        let limits = Limits::default();
        let limit = |value: u32| usize::try_from(value).unwrap();
        for (publishers, subscribers, stalled) in [(1, 50, 0), (1, 200, 0), (4, 380, 0), (1, 90, 10)] {
            let plan = Plan { publishers, subscribers, stalled, overflow: v1::Overflow::Disconnect };
            let args = CrewArgs { size: 100, streams_per_connection: None };
            let crew = Crew::new(SocketAddr::from(([127, 0, 0, 1], 1)), "x", &args, plan);
            assert!(crew.connections() < limit(limits.connections_per_ip_max), "{plan:?}");
            assert!(crew.per_connection <= limit(limits.streams_per_connection_max), "{plan:?}");
            assert!(crew.per_connection <= limit(limits.streams_per_session_max), "{plan:?}");
        }
        let few = Plan { publishers: 1, subscribers: 10, stalled: 0, overflow: v1::Overflow::Disconnect };
        assert_eq!(few.per_connection(), 1, "each alone while there is room");
    }

    #[test]
    fn sizes_and_counts_are_within_reason() {
        assert_eq!((parse_size("8"), parse_count("1")), (Ok(8), Ok(1)));
        for text in ["7", "16777217", "-1", "x", ""] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
        assert!(parse_count("0").is_err() && parse_count("99999999999").is_err());
    }
}
