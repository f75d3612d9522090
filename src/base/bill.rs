//! The memory bill: what the limits admit, one line per holder. Printed by `check-config`.

use std::fmt::Write as _;

use crate::base::limits::{
    ADMIN_CONNECTIONS_MAX, CONTROL_BYTES_MAX, DATA_FRAME_BYTES_MAX, ENDED_KEPT_MAX, Limits,
    METRICS_CONNECTIONS_MAX, METRICS_PAGE_BYTES_MAX, METRICS_REQUEST_BYTES_MAX, Memory, NOTE_BYTES_MAX,
    REMEMBERED_IDS_MAX, SHARED_RUNS_BYTES_MAX, TOPIC_BYTES_MAX, TURNED_AWAY_MAX,
    UNARY_CALLS_PER_CONNECTION_MAX, UNSENT_BYTES_MAX,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The process without clients, once its code is paged in. Measured after a crowd had come and gone: 5.0 MiB static,
/// 6.6 MiB with glibc; at its start 3.4 and 4.8.
const PROCESS_BYTES: u64 = 7 * MIB;
/// h2's fixed buffers per connection: 16 write + 8 read + 4 header scratch. Measured. With pages of 4 KiB and musl's
/// allocator 16.6 of them are in use while the connection is idle; the read buffer's pages come in as requests do, and
/// pages of 16 KiB leave nothing out.
pub const H2_BUFFERS_BYTES: u64 = 28 * KIB;
/// A connection's task (2.6), h2's tables and slabs for its first stream (5), permit, timers and socket state. Measured
/// in parts.
pub const CONNECTION_TASK_BYTES: u64 = 8 * KIB;
/// What the kernel holds for a peer that does not read, with `TCP_NOTSENT_LOWAT` at 16 KiB. Measured: 49 KB.
const KERNEL_SOCKET_BYTES: u64 = 49 * KIB;
/// An idle stream: its future, header map, h2 state and first cursor. Estimate.
pub const STREAM_STATE_BYTES: u64 = 2 * KIB;
/// One more subscription of a stream: cursor and places in the waiting and ready lists. Estimate.
pub const CURSOR_BYTES: u64 = 128;
/// A session: scope, token, names, deadlines. Estimate.
pub const SESSION_BYTES: u64 = KIB;
/// A topic beside its name and tail: table entries, waiting list. Estimate.
pub const TOPIC_BYTES: u64 = 256;
/// A remembered message id: its entry, and its places in two tables that are never more than half full. The sum of what
/// they allocate for the most there may be, each in a topic of its own.
pub const MESSAGE_ID_BYTES: u64 = 192;
/// An ended stream or session beside its note: names, numbers and a session's token. Estimate.
const ENDED_BYTES: u64 = 288;

/// One holder of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub holder: &'static str,
    /// How many the limits admit.
    pub count: u64,
    /// What one costs as soon as it is there.
    pub each_idle_bytes: u64,
    /// What one costs at most.
    pub each_worst_bytes: u64,
    /// All of them, idle.
    pub idle_bytes: u64,
    /// All of them at most.
    pub worst_bytes: u64,
}

/// What everything costs at the maxima.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// One line per holder.
    pub lines: Vec<Line>,
    /// Everything connected and logged in, one quiet stream on each connection, tails full.
    pub idle_bytes: u64,
    /// Every buffer of every stream full at once.
    pub worst_bytes: u64,
}

/// Adds up what `limits` admits. Sums stop at `u64::MAX`.
#[must_use]
pub fn bill(limits: &Limits) -> Bill {
    let connections = u64::from(limits.connections_max);
    let streams_each = u64::from(limits.streams_per_connection_max);
    let streams = connections.saturating_mul(streams_each);
    let cursors = streams.saturating_mul(u64::from(limits.subscriptions_per_stream_max));
    let connection = H2_BUFFERS_BYTES + CONNECTION_TASK_BYTES;
    // A connection's window is shared by its streams, which together may not fill it.
    let calls_each = u64::from(limits.calls_per_connection_max());
    let streams_windows = u64::from(limits.stream_window_bytes).saturating_mul(calls_each);
    let received = streams_windows.min(u64::from(limits.connection_window_bytes));
    let event = wide(limits.event_bytes_max());
    let tails = wide(limits.tails_bytes_max);
    let topic = TOPIC_BYTES + wide(TOPIC_BYTES_MAX);
    let message_ids = if limits.dedup_window.is_zero() { 0 } else { wide(REMEMBERED_IDS_MAX) };
    let ended = ENDED_BYTES + wide(NOTE_BYTES_MAX);
    let calls = connections.saturating_mul(u64::from(UNARY_CALLS_PER_CONNECTION_MAX));
    // The page is there once in its connection and once in the kernel.
    let metrics = CONNECTION_TASK_BYTES + wide(METRICS_REQUEST_BYTES_MAX + 2 * METRICS_PAGE_BYTES_MAX);

    let lines = vec![
        line("process", 1, PROCESS_BYTES, PROCESS_BYTES),
        line("connections: h2 buffers", connections, H2_BUFFERS_BYTES, H2_BUFFERS_BYTES),
        line("connections: task", connections, CONNECTION_TASK_BYTES, CONNECTION_TASK_BYTES),
        line("connections: receive window", connections, 0, received),
        line("connections: unsent bytes", connections, 0, wide(UNSENT_BYTES_MAX)),
        line("connections: kernel buffers", connections, 0, KERNEL_SOCKET_BYTES),
        line("half-open handshakes", u64::from(limits.half_open_max), connection, connection),
        line("connections turned away", 2 * wide(TURNED_AWAY_MAX), 0, connection),
        line("admin connections", u64::from(ADMIN_CONNECTIONS_MAX), connection, connection),
        line("metrics connections", wide(METRICS_CONNECTIONS_MAX), 0, metrics),
        line("streams: first of each connection", connections, STREAM_STATE_BYTES, STREAM_STATE_BYTES),
        line("streams: further ones", streams.saturating_sub(connections), 0, STREAM_STATE_BYTES),
        line("streams: decode buffer", streams, 0, event),
        line("streams: receipts and notices", streams, 0, wide(CONTROL_BYTES_MAX)),
        line("streams: frame in flight", streams, 0, event.max(wide(DATA_FRAME_BYTES_MAX))),
        line("streams: send buffer", streams, 0, wide(limits.send_buffer_bytes_max())),
        line("calls that are no streams", calls, 0, STREAM_STATE_BYTES.saturating_add(event)),
        line("subscriptions", cursors, 0, CURSOR_BYTES),
        line("sessions", u64::from(limits.sessions_max), SESSION_BYTES, SESSION_BYTES),
        line("topics", u64::from(limits.topics_max), topic, topic),
        line("tails", 1, tails, tails),
        line("runs shared by streams", 1, 0, wide(SHARED_RUNS_BYTES_MAX)),
        // None of them outlives its window.
        line("message ids", message_ids, 0, MESSAGE_ID_BYTES),
        line("ended streams and sessions", 2 * wide(ENDED_KEPT_MAX), ENDED_BYTES, ended),
    ];
    Bill {
        idle_bytes: lines.iter().fold(0, |sum, line| sum.saturating_add(line.idle_bytes)),
        worst_bytes: lines.iter().fold(0, |sum, line| sum.saturating_add(line.worst_bytes)),
        lines,
    }
}

/// The budget in force on a machine with that much RAM.
#[must_use]
pub fn budget_bytes(memory: &Memory, mem_total_bytes: u64) -> u64 {
    if memory.budget_bytes == 0 { auto_budget_bytes(mem_total_bytes) } else { memory.budget_bytes }
}

/// A quarter of the RAM, at most 256 MiB.
#[must_use]
pub fn auto_budget_bytes(mem_total_bytes: u64) -> u64 {
    (mem_total_bytes / 4).min(256 * MIB)
}

/// The bill as an aligned table, ending with what it means for the budget.
#[must_use]
pub fn render(bill: &Bill, budget_bytes: u64) -> String {
    let mut text = String::new();
    row(&mut text, ["holder", "count", "idle each", "worst each", "idle", "worst"]);
    for line in &bill.lines {
        let sizes = [line.each_idle_bytes, line.each_worst_bytes, line.idle_bytes, line.worst_bytes];
        let [each_idle, each_worst, idle, worst] = sizes.map(size_text);
        row(&mut text, [line.holder, &line.count.to_string(), &each_idle, &each_worst, &idle, &worst]);
    }
    let (idle, worst, budget) =
        (size_text(bill.idle_bytes), size_text(bill.worst_bytes), size_text(budget_bytes));
    row(&mut text, ["total", "", "", "", &idle, &worst]);
    let verdict = if bill.idle_bytes > budget_bytes {
        "the idle cost exceeds it: refused"
    } else if bill.worst_bytes > budget_bytes {
        "the idle cost fits, the worst case does not: the monitor's ladder is what holds the line"
    } else {
        "even the worst case fits"
    };
    let end = writeln!(text, "\nmemory budget {budget}: {verdict}");
    debug_assert!(end.is_ok(), "writing to a String cannot fail");
    text
}

/// Bytes for people: `512 B`, `28.0 KiB`, `32.0 MiB`, `1.5 GiB`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1024 * MIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= factor {
            return format!("{}.{} {unit}", bytes / factor, bytes % factor * 10 / factor);
        }
    }
    format!("{bytes} B")
}

fn line(holder: &'static str, count: u64, each_idle_bytes: u64, each_worst_bytes: u64) -> Line {
    Line {
        holder,
        count,
        each_idle_bytes,
        each_worst_bytes,
        idle_bytes: count.saturating_mul(each_idle_bytes),
        worst_bytes: count.saturating_mul(each_worst_bytes),
    }
}

fn row(text: &mut String, [holder, count, each_idle, each_worst, idle, worst]: [&str; 6]) {
    let end = writeln!(text, "{holder:<34}{count:>9}{each_idle:>12}{each_worst:>12}{idle:>12}{worst:>12}");
    debug_assert!(end.is_ok(), "writing to a String cannot fail");
}

/// Lossless on every machine Rust's `usize` exists for.
fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_a_pi_with_half_a_gigabyte() {
        // A Zero 2 W shows about 416 MiB of its 512 to Linux.
        let budget = auto_budget_bytes(416 * MIB);
        let bill = bill(&Limits::default());
        assert!(bill.idle_bytes <= budget, "{}", render(&bill, budget));
        assert!(bill.worst_bytes > auto_budget_bytes(u64::MAX), "then the table must say so");
    }

    #[test]
    fn the_automatic_budget_is_a_quarter_and_has_a_ceiling() {
        assert_eq!(auto_budget_bytes(512 * MIB), 128 * MIB);
        assert_eq!(auto_budget_bytes(1024 * MIB), 256 * MIB);
        assert_eq!(auto_budget_bytes(u64::MAX), 256 * MIB);
        let fixed = Memory { budget_bytes: 7, ..Memory::default() };
        assert_eq!(budget_bytes(&fixed, 1024 * MIB), 7);
        assert_eq!(budget_bytes(&Memory::default(), 1024 * MIB), 256 * MIB);
    }

    #[test]
    fn totals_are_the_sums_and_do_not_wrap() {
        let all = bill(&Limits::default());
        assert_eq!(all.idle_bytes, all.lines.iter().map(|line| line.idle_bytes).sum::<u64>());
        assert_eq!(all.worst_bytes, all.lines.iter().map(|line| line.worst_bytes).sum::<u64>());
        for line in &all.lines {
            assert!(line.idle_bytes <= line.worst_bytes, "{}", line.holder);
        }
        let most = Limits {
            connections_max: u32::MAX,
            streams_per_connection_max: u32::MAX,
            subscriptions_per_stream_max: u32::MAX,
            ..Limits::default()
        };
        assert_eq!(bill(&most).worst_bytes, u64::MAX);
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_the_verdict() {
        let bill = bill(&Limits::default());
        let table = render(&bill, 256 * MIB);
        let rows: Vec<&str> = table.lines().take(bill.lines.len() + 2).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
        assert!(table.ends_with("the monitor's ladder is what holds the line\n"), "{table}");
        assert!(render(&bill, 1).ends_with("refused\n"));
        assert!(render(&bill, u64::MAX).ends_with("even the worst case fits\n"));
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (28 * KIB, "28.0 KiB"), (MIB * 3 / 2, "1.5 MiB")]
        {
            assert_eq!(size_text(bytes), text);
        }
    }
}
