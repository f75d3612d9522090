//! What the works with many clients share: enough descriptors, the hub found and known, and that nothing is left behind.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cli::bench::common::{CommonArgs, or_dash, run_name, show_latency};
use crate::cli::bench::meter::Meter;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::text::{count, show_bytes};
use crate::load::dial::{Closing, dial_from};
use crate::load::guest::Guest;
use crate::load::latencies::Latencies;
use crate::load::visit::Visitor;
use crate::wire::v1;

/// Two of the hub's looks at its memory, so that what it tells is of now.
const SETTLE: Duration = Duration::from_millis(2200);
/// How long what is left may take to go.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// How often one looks whether it went.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Standard streams, epoll, signals, the admin socket, a publisher.
const DESCRIPTORS_OF_OUR_OWN: u64 = 32;
/// Clients of one user: half of what a hub takes by default.
const CLIENTS_PER_USER: u32 = 4;

/// A hub that answered, and how to see what it uses.
pub(crate) struct Ground {
    pub(crate) address: SocketAddr,
    pub(crate) meter: Meter,
    /// In the client names of this run.
    run: String,
    /// What the hub held before.
    before: Option<Holdings>,
}

/// What a hub holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) connections: u32,
    pub(crate) sessions: u32,
    pub(crate) streams: u32,
}

impl Ground {
    /// Makes room for so many connections, finds the hub, and sees that one client can come and go.
    ///
    /// # Errors
    /// When there are too few descriptors, no hub, or one that refuses the first client.
    pub(crate) async fn find(
        common: &CommonArgs,
        connections: u32,
        output: &mut Output,
    ) -> Result<Self, Failure> {
        make_room(connections)?;
        let address = common.address().await?;
        let meter = Meter::open(common, output).await?;
        let mut ground = Self { address, meter, run: run_name()?, before: None };
        let dial = dial_from(address, 0, Closing::Orderly);
        let first = Guest::come(dial, &ground.visitor(0)).await;
        let first = first.map_err(|error| common.failure("the first client", &error))?;
        let epoch = first.epoch.clone();
        first.leave().await.map_err(|error| common.failure("the first client", &error))?;
        ground.meter.check(&epoch, common, output).await?;
        ground.before = ground.holdings().await?;
        Ok(ground)
    }

    /// The client with this number.
    pub(crate) fn visitor(&self, client: u32) -> Visitor {
        Visitor {
            authority: self.address.to_string(),
            user: format!("bench-{}", client / CLIENTS_PER_USER),
            client_name: format!("{}-{client}", self.run),
        }
    }

    /// What every document begins with.
    ///
    /// # Errors
    /// When the hub is gone.
    pub(crate) async fn head(
        &self,
        work: &str,
        common: &CommonArgs,
        is_whole: bool,
    ) -> Result<Value, Failure> {
        let version = self.meter.status().await?.map(|status| status.version);
        Ok(json!({
            "work": work, "server": common.server.as_str(), "server_version": version, "stopped_early": !is_whole,
        }))
    }

    async fn holdings(&self) -> Result<Option<Holdings>, Failure> {
        Ok(self.meter.status().await?.map(|status| Holdings::of(&status)))
    }

    /// Waits until the hub holds no more than before, but not for ever, and says how much more it still holds; none
    /// when it does not say.
    ///
    /// # Errors
    /// When the hub is gone.
    pub(crate) async fn left(&self) -> Result<Option<Holdings>, Failure> {
        let until = Instant::now() + LEAVE_PATIENCE;
        loop {
            let (Some(before), Some(now)) = (self.before, self.holdings().await?) else { return Ok(None) };
            let left = now.beyond(before);
            if left == Holdings::default() || Instant::now() >= until {
                return Ok(Some(left));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Holdings {
    fn of(status: &v1::ServerStatus) -> Self {
        Self { connections: status.connections, sessions: status.sessions, streams: status.streams }
    }

    fn beyond(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            sessions: self.sessions.saturating_sub(before.sessions),
            streams: self.streams.saturating_sub(before.streams),
        }
    }

    pub(crate) fn json(self) -> Value {
        json!({"connections": self.connections, "sessions": self.sessions, "streams": self.streams})
    }

    /// How it reads.
    pub(crate) fn text(self) -> String {
        if self == Self::default() {
            return "nothing".to_owned();
        }
        format!(
            "{}, {}, {}",
            count(self.connections, "connection"),
            count(self.sessions, "session"),
            count(self.streams, "stream")
        )
    }
}

/// How a run ends that the user stopped, after its results were told.
pub(crate) fn stopped() -> Failure {
    Failure::told(Exit::Interrupted, "stopped before the end.")
}

/// How a run ends that measured nothing.
pub(crate) fn void(why: &str) -> Failure {
    Failure::told(Exit::Data, format!("the measurement is void: {why}."))
}

/// How a run ends whose clients have left; `left` is what the hub still holds of them, where it says.
///
/// # Errors
/// When it was stopped, or something was left behind.
pub(crate) fn verdict(is_whole: bool, left: Option<Holdings>) -> Result<Exit, Failure> {
    if !is_whole {
        return Err(stopped());
    }
    if left.is_some_and(|left| left != Holdings::default()) {
        return Err(void("the hub still holds what had left, or others came meanwhile"));
    }
    Ok(Exit::Ok)
}

/// Waits until what the hub tells of its memory is of now.
pub(crate) async fn settle() {
    sleep(SETTLE).await;
}

/// Raises the soft limit of descriptors as far as needed.
fn make_room(connections: u32) -> Result<(), Failure> {
    let needed = u64::from(connections) + DESCRIPTORS_OF_OUR_OWN;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let told = |why: String| {
        let advice = format!("Ask for fewer connections, or raise the limit: ulimit -n {needed}.");
        Failure::told(
            Exit::OsError,
            format!("{connections} connections need {needed} descriptors: {why}. {advice}"),
        )
    };
    if let Some(maximum) = maximum.filter(|maximum| *maximum < needed) {
        return Err(told(format!("there may be {maximum}")));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .map_err(|error| told(format!("the limit cannot be raised: {error}")))
}

/// Memory, or a dash.
pub(crate) fn known_bytes(bytes: Option<u64>) -> String {
    or_dash(bytes.map(show_bytes))
}

/// The header of a table of [`latency_row`]s.
pub(crate) const LATENCY_HEADER: [&str; 6] = ["STEP", "P50", "P90", "P99", "P99.9", "MAX"];

/// One line of quantiles.
pub(crate) fn latency_row(name: &str, latencies: &Latencies) -> Vec<String> {
    let told = latencies.quantiles();
    let shown = [told.p50, told.p90, told.p99, told.p999, told.max].map(show_latency);
    std::iter::once(name.to_owned()).chain(shown).collect()
}

/// The same for programs, in microseconds.
pub(crate) fn latency_json(latencies: &Latencies) -> Value {
    let told = latencies.quantiles();
    let micros = |latency: Duration| latency.as_secs_f64() * 1e6;
    json!({
        "p50_us": micros(told.p50),
        "p90_us": micros(told.p90),
        "p99_us": micros(told.p99),
        "p99_9_us": micros(told.p999),
        "max_us": micros(told.max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_hold_is_not_left_behind() {
        let holds = |connections, sessions, streams| Holdings { connections, sessions, streams };
        assert_eq!(holds(3, 2, 1).beyond(holds(3, 2, 1)).text(), "nothing");
        assert_eq!(holds(1, 0, 0).beyond(holds(3, 2, 1)), Holdings::default(), "others left");
        let left = holds(4, 4, 1).beyond(holds(3, 2, 1));
        assert_eq!(left.text(), "1 connection, 2 sessions, 0 streams");
    }

    #[test]
    fn more_connections_than_descriptors_are_told_with_the_way_out() {
        let failure = make_room(u32::MAX).unwrap_err().to_string();
        assert!(failure.contains("4294967327") && failure.contains("ulimit -n"), "{failure}");
        make_room(1).unwrap();
    }
}
