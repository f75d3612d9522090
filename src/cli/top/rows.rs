//! The tree as rows: filtered, sorted, folded, bounded.

use std::cmp::Ordering;
use std::collections::HashSet;

use crate::base::order::sort_by;
use crate::cli::text::duration_of;
use crate::cli::top::picture::{Figures, Picture, Session, Stream};

/// Rows kept; what is beyond is counted.
pub(crate) const ROWS_MAX: usize = 1000;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Column {
    #[default]
    Lag,
    Delivered,
    Rate,
    Age,
    User,
    Lease,
}

impl Column {
    /// In the order `s` goes through them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Lag, Self::Delivered, Self::Rate, Self::Age, Self::User, Self::Lease];

    pub(crate) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What comes first.
    pub(crate) fn order(self, reversed: bool) -> &'static str {
        match (self, reversed) {
            (Self::Lag, false) => "largest lag first",
            (Self::Lag, true) => "smallest lag first",
            (Self::Delivered, false) => "most delivered first",
            (Self::Delivered, true) => "least delivered first",
            (Self::Rate, false) => "busiest first",
            (Self::Rate, true) => "quietest first",
            (Self::Age, false) => "oldest first",
            (Self::Age, true) => "newest first",
            (Self::User, false) => "by user",
            (Self::User, true) => "by user, Z first",
            (Self::Lease, false) => "shortest lease first",
            (Self::Lease, true) => "longest lease first",
        }
    }
}

/// How the tree is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) column: Column,
    pub(crate) reversed: bool,
    /// Part of a user, client name, id or topic; empty shows all.
    pub(crate) filter: String,
    /// Sessions whose streams are hidden.
    pub(crate) folded: HashSet<String>,
}

/// A place in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The session at this index.
    Session(usize),
    /// The stream at this index of the session at this index.
    Stream(usize, usize),
}

/// The rows to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// Rows beyond [`ROWS_MAX`].
    pub(crate) more: usize,
    /// Sessions the filter left.
    pub(crate) sessions: usize,
    /// Streams the filter left, hidden ones included.
    pub(crate) streams: usize,
}

/// The rows of the picture under this view.
pub(crate) fn rows(picture: &Picture, view: &View) -> Rows {
    let filter = view.filter.to_lowercase();
    let mut sessions: Vec<(usize, Vec<usize>)> = Vec::new();
    for (at, session) in picture.sessions.iter().enumerate() {
        let whole = session_matches(session, &filter);
        let matching = session.streams.iter().enumerate();
        let streams: Vec<usize> = matching
            .filter(|(_, stream)| whole || stream_matches(stream, &filter))
            .map(|(at, _)| at)
            .collect();
        if whole || !streams.is_empty() {
            sessions.push((at, streams));
        }
    }
    let turn = |order: Ordering| if view.reversed { order.reverse() } else { order };
    sort_by(&mut sessions, |(a, _), (b, _)| {
        let (a, b) = (&picture.sessions[*a], &picture.sessions[*b]);
        turn(compare_sessions(view.column, a, b)).then_with(|| natural(&a.info.id).cmp(&natural(&b.info.id)))
    });
    let mut all = Rows { sessions: sessions.len(), ..Rows::default() };
    for (at, mut streams) in sessions {
        all.streams += streams.len();
        push(&mut all, Row::Session(at));
        let session = &picture.sessions[at];
        if view.folded.contains(&session.info.id) {
            continue;
        }
        sort_by(&mut streams, |a, b| {
            let (a, b) = (&session.streams[*a], &session.streams[*b]);
            turn(compare(view.column, &a.figures, &b.figures))
                .then_with(|| natural(&a.info.id).cmp(&natural(&b.info.id)))
        });
        for stream in streams {
            push(&mut all, Row::Stream(at, stream));
        }
    }
    all
}

fn push(all: &mut Rows, row: Row) {
    if all.rows.len() < ROWS_MAX {
        all.rows.push(row);
    } else {
        all.more += 1;
    }
}

fn compare_sessions(column: Column, a: &Session, b: &Session) -> Ordering {
    match column {
        Column::User => {
            a.info.user.cmp(&b.info.user).then_with(|| a.info.client_name.cmp(&b.info.client_name))
        }
        Column::Lease => duration_of(a.info.lease_left).cmp(&duration_of(b.info.lease_left)),
        Column::Lag | Column::Delivered | Column::Rate | Column::Age => {
            compare(column, &a.figures, &b.figures)
        }
    }
}

/// Streams of one session have one user and one lease.
fn compare(column: Column, a: &Figures, b: &Figures) -> Ordering {
    match column {
        Column::Lag => b.lag_bytes.cmp(&a.lag_bytes),
        Column::Delivered => b.bytes_delivered.cmp(&a.bytes_delivered),
        Column::Rate => b.events_per_second.cmp(&a.events_per_second),
        Column::Age => b.age.cmp(&a.age),
        Column::User | Column::Lease => Ordering::Equal,
    }
}

/// `stream/9` before `stream/10`.
fn natural(id: &str) -> (usize, &str) {
    (id.len(), id)
}

fn session_matches(session: &Session, filter: &str) -> bool {
    let info = &session.info;
    [&info.id, &info.user, &info.client_name]
        .into_iter()
        .chain(&info.connection_ids)
        .any(|text| has(text, filter))
}

fn stream_matches(stream: &Stream, filter: &str) -> bool {
    let info = &stream.info;
    [&info.id, &info.connection_id, &info.peer].into_iter().any(|text| has(text, filter))
        || info.subscriptions.iter().any(|subscription| has(&subscription.topic, filter))
}

fn has(text: &str, filter: &str) -> bool {
    filter.is_empty() || text.to_lowercase().contains(filter)
}
