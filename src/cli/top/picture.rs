//! One look at the hub as it is shown: sessions with their streams, with rates since the look before, all foreign text
//! made harmless.

use std::collections::HashMap;
use std::time::Duration;

use prost_types::Timestamp;

use crate::base::order::sort_by;
use crate::cli::text::{clean, duration_of};
use crate::cli::top::rates::{Rate, time_between};
use crate::wire::v1;

/// A lag bar is full at the largest lag there is, and never at less than this: the largest frame of a stream.
pub(crate) const LAG_SCALE_BYTES_MIN: u64 = 16 * 1024;

/// What the hub answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) status: v1::ServerStatus,
    pub(crate) sessions: Vec<v1::SessionInfo>,
    pub(crate) streams: Vec<v1::StreamInfo>,
    /// Asked for only when shown.
    pub(crate) ended: Vec<v1::Ended>,
}

/// One look, digested.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) status: v1::ServerStatus,
    pub(crate) sessions: Vec<Session>,
    pub(crate) ended: Vec<v1::Ended>,
    /// Lag at which a bar is full.
    pub(crate) lag_scale_bytes: u64,
}

/// A session and what it owns.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) info: v1::SessionInfo,
    pub(crate) streams: Vec<Stream>,
    /// Of all its streams: the largest lag, the sum of the rest.
    pub(crate) figures: Figures,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) info: v1::StreamInfo,
    pub(crate) figures: Figures,
}

/// What rows show and sort by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The largest lag of a subscription: the bound is per subscription.
    pub(crate) lag_bytes: u64,
    pub(crate) bytes_delivered: u64,
    /// None at first sight.
    pub(crate) events_per_second: Option<Rate>,
    pub(crate) bytes_per_second: Option<Rate>,
    pub(crate) age: Duration,
}

/// Harmless on one line of cells.
pub(crate) fn plain(text: &str) -> String {
    clean(text).replace('\t', " ")
}

impl Picture {
    /// Digests a look; rates are since `before`.
    pub(crate) fn new(look: Look, before: Option<&Self>) -> Self {
        let since = before.and_then(|before| Some((before, time_between(&before.status, &look.status)?)));
        let earlier: HashMap<&str, (&v1::StreamInfo, Duration)> = since
            .iter()
            .flat_map(|(before, time)| {
                before.streams().map(|stream| (stream.info.id.as_str(), (&stream.info, *time)))
            })
            .collect();
        let clock = clock(&look.status);
        let mut owned: HashMap<String, Vec<Stream>> = HashMap::new();
        let mut lag_scale_bytes = LAG_SCALE_BYTES_MIN;
        for info in look.streams {
            let stream = Stream::new(info, &earlier, clock);
            lag_scale_bytes = lag_scale_bytes.max(stream.figures.lag_bytes);
            owned.entry(stream.info.session_id.clone()).or_default().push(stream);
        }
        let session = |mut info: v1::SessionInfo| {
            info.id = plain(&info.id);
            let streams = owned.remove(&info.id).unwrap_or_default();
            Session::new(info, streams, clock)
        };
        Self {
            sessions: look.sessions.into_iter().map(session).collect(),
            ended: look.ended.into_iter().map(plain_ended).collect(),
            status: plain_status(look.status),
            lag_scale_bytes,
        }
    }

    /// All streams of all sessions.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.sessions.iter().flat_map(|session| &session.streams)
    }
}

impl Stream {
    fn new(
        mut info: v1::StreamInfo,
        earlier: &HashMap<&str, (&v1::StreamInfo, Duration)>,
        clock: Option<Duration>,
    ) -> Self {
        for text in [
            &mut info.id,
            &mut info.session_id,
            &mut info.user,
            &mut info.client_name,
            &mut info.connection_id,
            &mut info.rpc,
            &mut info.peer,
        ] {
            *text = plain(text);
        }
        for subscription in &mut info.subscriptions {
            subscription.topic = plain(&subscription.topic);
        }
        // The laggards first: they are what one looks for.
        sort_by(&mut info.subscriptions, |a, b| {
            b.lag_bytes.cmp(&a.lag_bytes).then_with(|| a.topic.cmp(&b.topic))
        });
        let lag_bytes =
            info.subscriptions.first().map_or(info.lag_bytes, |subscription| subscription.lag_bytes);
        let before = earlier.get(info.id.as_str());
        let figures = Figures {
            lag_bytes,
            bytes_delivered: info.bytes_delivered,
            events_per_second: before
                .map(|(before, time)| Rate::between(before.events_delivered, info.events_delivered, *time)),
            bytes_per_second: before
                .map(|(before, time)| Rate::between(before.bytes_delivered, info.bytes_delivered, *time)),
            age: age(info.started_at, clock),
        };
        Self { info, figures }
    }
}

impl Session {
    fn new(mut info: v1::SessionInfo, streams: Vec<Stream>, clock: Option<Duration>) -> Self {
        info.user = plain(&info.user);
        info.client_name = plain(&info.client_name);
        for id in &mut info.connection_ids {
            *id = plain(id);
        }
        let mut figures = Figures { age: age(info.started_at, clock), ..Figures::default() };
        for stream in &streams {
            let of = stream.figures;
            figures.lag_bytes = figures.lag_bytes.max(of.lag_bytes);
            figures.bytes_delivered = figures.bytes_delivered.saturating_add(of.bytes_delivered);
            figures.events_per_second = sum(figures.events_per_second, of.events_per_second);
            figures.bytes_per_second = sum(figures.bytes_per_second, of.bytes_per_second);
        }
        Self { info, streams, figures }
    }
}

fn sum(a: Option<Rate>, b: Option<Rate>) -> Option<Rate> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (one, None) | (None, one) => one,
    }
}

/// The server's clock when it answered, since the epoch of Unix: ours may differ.
fn clock(status: &v1::ServerStatus) -> Option<Duration> {
    since_1970(status.started_at?)?.checked_add(duration_of(status.uptime))
}

fn since_1970(time: Timestamp) -> Option<Duration> {
    Some(Duration::new(u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?))
}

/// How long ago that was by the server's clock.
fn age(started_at: Option<Timestamp>, clock: Option<Duration>) -> Duration {
    let started_at = started_at.and_then(since_1970);
    clock.zip(started_at).map_or(Duration::ZERO, |(clock, started_at)| clock.saturating_sub(started_at))
}

fn plain_status(mut status: v1::ServerStatus) -> v1::ServerStatus {
    status.version = plain(&status.version);
    for account in &mut status.accounts {
        account.holder = plain(&account.holder);
    }
    status
}

fn plain_ended(mut ended: v1::Ended) -> v1::Ended {
    for text in [&mut ended.id, &mut ended.user, &mut ended.client_name, &mut ended.note, &mut ended.asked_by]
    {
        *text = plain(text);
    }
    ended
}
