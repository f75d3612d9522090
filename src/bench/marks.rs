//! What the product promises to keep, and whether a run of measurements says that it does.

use crate::kind::Kind;
use crate::report::{
    CONNECTION_KIB, CPU_US, FILE_MIB, LEFT, Metric, Outcome, P99_RATIO, P99_US, RSS_MIB, START_MS, Spread,
};

/// A number that must not be passed: of this project's server, or as a ratio to a peer's in the same round.
struct Mark {
    work: &'static str,
    /// Ends of the cases that it is for; empty: all.
    cases: &'static [&'static str],
    metric: &'static Metric,
    /// The peers, each with a mark of its own, and the case of theirs that is compared with: `None` for the same.
    peers: &'static [Kind],
    peer_case: Option<&'static str>,
    at_most: f64,
}

const ALONE: &[&str] = &[" 1 in flight"];
const BATCHED: &[&str] = &[" 64 in flight", " 1024 in flight"];
/// Written for an event loop in a language that is interpreted or compiled while it runs.
const SCRIPTED: &[Kind] = &[Kind::GrpcJs, Kind::Grpcio];

const fn cpu(cases: &'static [&'static str], peers: &'static [Kind], at_most: f64) -> Mark {
    Mark { work: "fanout", cases, metric: &CPU_US, peers, peer_case: None, at_most }
}

const fn own(work: &'static str, metric: &'static Metric, at_most: f64) -> Mark {
    Mark { work, cases: &[], metric, peers: &[], peer_case: None, at_most }
}

const MARKS: [Mark; 15] = [
    cpu(ALONE, &[Kind::NatsServer, Kind::Mosquitto], 0.85),
    cpu(BATCHED, &[Kind::NatsServer], 0.35),
    cpu(BATCHED, &[Kind::Mosquitto], 0.04),
    cpu(ALONE, &[Kind::PlainTonic], 0.8),
    cpu(BATCHED, &[Kind::PlainTonic], 0.2),
    cpu(ALONE, SCRIPTED, 0.1),
    cpu(BATCHED, SCRIPTED, 0.02),
    Mark {
        work: "latency",
        cases: &[],
        metric: &P99_US,
        peers: &[Kind::NatsServer],
        peer_case: None,
        at_most: 1.0,
    },
    own("stalled", &P99_RATIO, 1.1),
    // The call of their own is what both ways of publishing are held against.
    Mark {
        work: "round-trip",
        cases: &[],
        metric: &CPU_US,
        peers: &[Kind::PlainTonic],
        peer_case: Some("unary"),
        at_most: 1.0,
    },
    own("start", &START_MS, 50.0),
    own("start", &RSS_MIB, 4.0),
    own("start", &FILE_MIB, 4.0),
    own("memory", &CONNECTION_KIB, 20.0),
    // All back: of a thousand clients stay the tables that grew for them, a few hundred bytes each.
    own("memory", &LEFT, 1.1),
];

/// What a run says of one mark in one case.
pub(crate) struct Verdict {
    /// The mark in words.
    pub(crate) what: String,
    /// The bound.
    pub(crate) at_most: f64,
    /// `None` when there was nothing to measure, or to compare with.
    pub(crate) spread: Option<Spread>,
}

impl Verdict {
    /// Whether the median keeps the mark.
    pub(crate) fn kept(&self) -> Option<bool> {
        self.spread.map(|spread| spread.median <= self.at_most)
    }

    /// `kept`, `MISSED` or that nobody knows.
    pub(crate) fn word(&self) -> &'static str {
        match self.kept() {
            Some(true) => "kept",
            Some(false) => "MISSED",
            None => "not measured",
        }
    }

    /// The median, and from where to where the rounds are.
    pub(crate) fn measured(&self) -> String {
        self.spread.map_or("–".to_owned(), |spread| spread.show(3))
    }
}

/// Every mark of this work, in every case that was measured.
pub(crate) fn judge(outcome: &Outcome) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for mark in MARKS.iter().filter(|mark| mark.work == outcome.work) {
        let is_for = |case: &str| mark.cases.is_empty() || mark.cases.iter().any(|end| case.ends_with(end));
        for case in outcome.cases().into_iter().filter(|case| is_for(case)) {
            verdicts.extend(judge_case(mark, outcome, case));
        }
    }
    verdicts
}

fn judge_case(mark: &Mark, outcome: &Outcome, case: &str) -> Vec<Verdict> {
    let Mark { work, metric, at_most, .. } = *mark;
    let name = if case.is_empty() { work.to_owned() } else { format!("{work}, {case}") };
    if mark.peers.is_empty() {
        let spread = outcome.spread(case, Kind::Streamward, metric);
        return vec![Verdict { what: format!("{name}: {}", metric.title), at_most, spread }];
    }
    let against = |peer: &Kind| {
        let spread = outcome.ratio(case, (*peer, mark.peer_case.unwrap_or(case)), metric);
        let which =
            mark.peer_case.filter(|other| *other != case).map_or(String::new(), |other| format!(", {other}"));
        Verdict { what: format!("{name}: {} / {}{which}", metric.title, peer.name()), at_most, spread }
    };
    mark.peers.iter().map(against).collect()
}
