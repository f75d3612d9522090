//! CPU time against numbers: what a delivery costs when there is more of everything. The same work as is counted, without
//! callgrind: what a count does not show are the caches, which more of anything overflows.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::cases::{self, Fanout, Fault, LONE};

/// CPU time of one measurement, at least.
const LEAST_NS: u64 = 100_000_000;
/// Measurements of one point; the median is told, the lowest and the highest beside it.
const MEASUREMENTS: usize = 5;

/// One point of a curve.
struct Point {
    value: u32,
    fanout: Fanout,
    nanoseconds: [u64; MEASUREMENTS],
}

/// What grows, and how.
type Curve = (&'static str, &'static [u32], fn(u32) -> Fanout);

/// Deliveries of one message alone, and of 64 that came together.
const CURVES: [Curve; 9] = [
    ("subscribers", &[1, 10, 100, 1000, 10_000], |subscribers| Fanout { subscribers, ..LONE }),
    ("subscribers, 64 in flight", &[1, 10, 100, 1000, 10_000], |subscribers| Fanout {
        subscribers,
        in_flight: 64,
        ..LONE
    }),
    ("topics, ten subscribers of each", &[1, 10, 100, 1000, 10_000], |topics| Fanout {
        subscribers: 10,
        topics,
        subscriptions: 64,
        ..LONE
    }),
    ("subscriptions of a stream", &[1, 4, 16, 64], |subscriptions| Fanout {
        topics: subscriptions,
        subscriptions,
        ..LONE
    }),
    ("subscriptions of a stream, 64 in flight", &[1, 4, 16, 64], |subscriptions| Fanout {
        topics: subscriptions,
        subscriptions,
        in_flight: 64,
        ..LONE
    }),
    ("idle sessions beside", &[0, 500, 1000, 2000, 4000], |idle| Fanout { idle, ..LONE }),
    ("idle sessions beside, 64 in flight", &[0, 500, 1000, 2000, 4000], |idle| Fanout {
        idle,
        in_flight: 64,
        ..LONE
    }),
    ("bytes of a payload", &[16, 64, 256, 1024, 4096, 16_384, 65_536], |bytes| Fanout {
        payload_bytes: bytes as usize,
        ..LONE
    }),
    ("bytes of a payload, 64 in flight", &[16, 64, 256, 1024], |bytes| Fanout {
        payload_bytes: bytes as usize,
        in_flight: 64,
        ..LONE
    }),
];

/// Measures every curve whose name contains `wanted`.
pub(crate) fn run(
    wanted: &str,
    as_json: bool,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<(), Fault> {
    let mut told = Vec::new();
    for (name, values, fanout_of) in CURVES.iter().filter(|(name, ..)| name.contains(wanted)) {
        let mut points = Vec::new();
        for value in *values {
            let fanout = fanout_of(*value);
            points.push(Point { value: *value, fanout, nanoseconds: measure(fanout)? });
            writeln!(log, "{name}: {value}")?;
        }
        if as_json {
            told.push(json!({ "curve": name, "points": points.iter().map(Point::json).collect::<Vec<_>>() }));
        } else {
            table(name, &points, out)?;
        }
    }
    if as_json {
        writeln!(out, "{:#}", Value::from(told))?;
    }
    Ok(())
}

impl Point {
    fn median(&self) -> u64 {
        self.nanoseconds[MEASUREMENTS / 2]
    }

    fn json(&self) -> Value {
        let per_byte = self.median() as f64 / self.fanout.payload_bytes as f64;
        json!({
            "value": self.value,
            "ns_per_delivery": self.median(),
            "lowest": self.nanoseconds[0],
            "highest": self.nanoseconds[MEASUREMENTS - 1],
            "ns_per_payload_byte": per_byte,
        })
    }
}

fn table(name: &str, points: &[Point], out: &mut dyn Write) -> Result<(), Fault> {
    writeln!(out, "\n{name:<40} {:>12} {:>17} {:>10}", "ns/delivery", "lowest..highest", "ns/byte")?;
    for point in points {
        let (lowest, highest) = (point.nanoseconds[0], point.nanoseconds[MEASUREMENTS - 1]);
        let per_byte = point.median() as f64 / point.fanout.payload_bytes as f64;
        let spread = format!("{lowest}..{highest}");
        writeln!(out, "{:<40} {:>12} {spread:>17} {per_byte:>10.2}", point.value, point.median())?;
    }
    Ok(())
}

/// CPU nanoseconds per delivery, lowest first.
fn measure(fanout: Fanout) -> Result<[u64; MEASUREMENTS], Fault> {
    let mut nanoseconds = [0; MEASUREMENTS];
    // Every topic once, so that all have their memory.
    let warm = (fanout.topics / fanout.in_flight).max(3);
    let mut steady = cases::Steady::new(fanout, warm)?;
    for sample in &mut nanoseconds {
        let (mut rounds, mut took, mut deliveries) = (1, 0, 0);
        while took < LEAST_NS {
            let before = cpu_ns()?;
            deliveries += steady.rounds(rounds)?;
            took += cpu_ns()? - before;
            rounds *= 2;
        }
        *sample = took / deliveries;
    }
    nanoseconds.sort_unstable();
    Ok(nanoseconds)
}

/// CPU time of this process, which has one thread.
fn cpu_ns() -> Result<u64, Fault> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
