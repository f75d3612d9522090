//! The server over time.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use streamward::client::Admin;
use streamward::wire::v1;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::SoakError;
use crate::procfs;
use crate::verdict::mib;

/// Four a second.
const EVERY: Duration = Duration::from_millis(250);
/// Rows of the printed table.
const ROWS: usize = 24;

/// One look at the server.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) rss: u64,
    anonymous: u64,
    descriptors: usize,
    threads: u64,
    connections: u32,
    sessions: u32,
    streams: u32,
    subscriptions: u32,
    topics: u32,
    pub(crate) pressure: i32,
    delivered: u64,
}

/// Everything seen so far, shared with the task that looks.
pub(crate) type Samples = Rc<RefCell<Vec<Sample>>>;

/// Looks until it is dropped, or until the server is gone.
pub(crate) async fn watch(pid: u32, admin: Admin, samples: Samples) {
    let started = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut status = v1::ServerStatus::default();
    loop {
        ticks.tick().await;
        // A server that is busy answers late; its memory is read all the same.
        if let Ok(Ok(now)) = tokio::time::timeout(EVERY, admin.status()).await {
            status = now;
        }
        let Ok(held) = procfs::held(pid) else { return };
        samples.borrow_mut().push(Sample {
            at: started.elapsed(),
            rss: held.rss,
            anonymous: held.anonymous,
            descriptors: held.descriptors,
            threads: held.threads,
            connections: status.connections,
            sessions: status.sessions,
            streams: status.streams,
            subscriptions: status.subscriptions,
            topics: status.topics,
            pressure: status.pressure,
            delivered: status.events_delivered,
        });
    }
}

/// A table of at most [`ROWS`] rows, each the worst of its span by memory.
pub(crate) fn print(samples: &[Sample], out: &mut dyn Write) -> Result<(), SoakError> {
    writeln!(
        out,
        "\n{:>8}  {:>9}  {:>9}  {:>5}  {:>3}  {:>6}  {:>6}  {:>7}  {:>6}  {:>6}  {:>8}  {:>11}",
        "second",
        "RSS",
        "heap",
        "fds",
        "thr",
        "conns",
        "sess",
        "streams",
        "subs",
        "topics",
        "level",
        "delivered"
    )?;
    for span in samples.chunks(samples.len().div_ceil(ROWS).max(1)) {
        let Some(worst) = span.iter().max_by_key(|sample| sample.rss) else { continue };
        let level = v1::Pressure::try_from(worst.pressure).map_or("?", |level| level.as_str_name());
        writeln!(
            out,
            "{:>8.1}  {:>9}  {:>9}  {:>5}  {:>3}  {:>6}  {:>6}  {:>7}  {:>6}  {:>6}  {:>8}  {:>11}",
            worst.at.as_secs_f64(),
            mib(worst.rss),
            mib(worst.anonymous),
            worst.descriptors,
            worst.threads,
            worst.connections,
            worst.sessions,
            worst.streams,
            worst.subscriptions,
            worst.topics,
            level,
            worst.delivered
        )?;
    }
    Ok(())
}

/// For `--json`.
pub(crate) fn json(samples: &[Sample]) -> Value {
    let one = |sample: &Sample| {
        json!({
            "seconds": sample.at.as_secs_f64(), "rss_bytes": sample.rss, "anonymous_bytes": sample.anonymous,
            "descriptors": sample.descriptors, "threads": sample.threads, "connections": sample.connections,
            "sessions": sample.sessions, "streams": sample.streams, "subscriptions": sample.subscriptions,
            "topics": sample.topics, "pressure": sample.pressure, "events_delivered": sample.delivered,
        })
    };
    samples.iter().map(one).collect()
}

/// Most threads at any time.
pub(crate) fn threads(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.threads).max().unwrap_or_default()
}

/// The most memory in `samples`.
pub(crate) fn peak(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.rss).max().unwrap_or_default()
}
