//! `streamward status`: how the server is, once or while watching.

use std::time::Duration;

use clap::Args;

use crate::base::order::sort_by;
use crate::cli::exit::{Exit, Failure, end_text, exit_of};
use crate::cli::hub::{AdminArgs, Interrupt};
use crate::cli::output::{Output, Paint};
use crate::cli::records::{phase_name, pressure_name, reason_name, status_json};
use crate::cli::text::{clean, count, duration_of, parse_duration, show_bytes, show_duration};
use crate::client::{Admin, ClientError, StreamEnd};
use crate::wire::v1;

/// Show how the server is
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward status
  streamward status --watch --interval 5s
  streamward status --json | jq .sessions")]
pub(crate) struct StatusArgs {
    /// Go on: one line, or JSON document, per interval
    #[arg(long, short)]
    watch: bool,
    /// How often: 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// An interval within the contract's bounds.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) || interval > Duration::from_secs(3600) {
        return Err("an interval is between 100ms and 1h".to_owned());
    }
    Ok(interval)
}

/// Shows it.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: StatusArgs, output: &mut Output) -> Result<Exit, Failure> {
    let admin = args.admin.connect().await?;
    if args.watch {
        return watch(&admin, args.interval, output).await;
    }
    let status = admin.status().await?;
    if output.json {
        output.json(&status_json(&status))?;
        return Ok(Exit::Ok);
    }
    for line in status_lines(&status, output.paint) {
        output.line(&line)?;
    }
    Ok(Exit::Ok)
}

async fn watch(admin: &Admin, interval: Duration, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let mut statuses = admin.watch(interval).await?;
    let mut before = None;
    loop {
        let status = tokio::select! {
            status = statuses.next() => status.map_err(watch_ended)?,
            () = interrupt.next() => {
                output.interrupted();
                return Ok(Exit::Ok);
            }
        };
        let Some(status) = status else { return Ok(Exit::Ok) };
        if output.json {
            output.json(&status_json(&status))?;
        } else {
            output.line(&watch_line(&status, before.as_ref()))?;
        }
        before = Some(status);
    }
}

fn watch_ended(error: ClientError) -> Failure {
    match error {
        ClientError::Refused { status, .. } => {
            let end = StreamEnd::from_status(*status);
            let exit = exit_of(end.reason, end.status.code());
            Failure::told(exit, format!("the watch ended: {}", end_text(&end)))
        }
        ClientError::Transport { .. } => {
            Failure::told(Exit::TempFail, "the watch ended: the server is gone.")
        }
        error @ (ClientError::Endpoint(_)
        | ClientError::Connect { .. }
        | ClientError::StreamEnded
        | ClientError::Contract(_)) => error.into(),
    }
}

fn status_lines(status: &v1::ServerStatus, paint: Paint) -> Vec<String> {
    let line = |label: &str, text: String| format!("{} {text}", paint.dim(&format!("{label:<9}")));
    let phase = phase_name(status.phase).to_lowercase();
    let uptime = show_duration(duration_of(status.uptime));
    let mut lines = vec![
        line(
            "server",
            format!("{} {phase}, up {uptime}, epoch {}", clean(&status.version), clean(&status.epoch)),
        ),
        line(
            "holds",
            format!(
                "{}, {}, {}, {}, {}",
                count(status.connections, "connection"),
                count(status.sessions, "session"),
                count(status.streams, "stream"),
                count(status.subscriptions, "subscription"),
                count(status.topics, "topic"),
            ),
        ),
        line(
            "events",
            format!(
                "last #{}, {} delivered ({}), {} refused, {} duplicate",
                status.last_sequence,
                status.events_delivered,
                show_bytes(status.bytes_delivered),
                status.publishes_refused,
                status.publishes_duplicate,
            ),
        ),
        line("pressure", pressure_text(status)),
        line("memory", memory_text(status)),
    ];
    for (at, accounts) in account_texts(&status.accounts).into_iter().enumerate() {
        lines.push(line(if at == 0 { "accounts" } else { "" }, accounts));
    }
    lines.push(line("process", process_text(status)));
    lines.push(line(
        "so far",
        format!("{}, {}", count(status.logins, "login"), count(status.accept_errors, "accept error")),
    ));
    lines.push(line(
        "refused",
        format!(
            "{}, {}, {}; {} cut for abuse",
            count(status.logins_refused, "login"),
            count(status.streams_refused, "stream"),
            count(status.connections_refused, "connection"),
            status.connections_abusive,
        ),
    ));
    for (at, ended) in status.ended.iter().enumerate() {
        let reason = reason_name(ended.reason).unwrap_or_default();
        let counts = format!("{}, {}", count(ended.streams, "stream"), count(ended.sessions, "session"));
        lines.push(line(if at == 0 { "ended" } else { "" }, format!("{reason}: {counts}")));
    }
    lines
}

/// `high, 90% used: 180 MiB of 200 MiB, budget 256 MiB`; the level alone while nobody has measured.
fn pressure_text(status: &v1::ServerStatus) -> String {
    let level = pressure_name(status.pressure).to_lowercase();
    let Some((memory, percent)) = used_percent(status) else { return level };
    format!(
        "{level}, {percent}% used: {} of {}, budget {}",
        show_bytes(memory.used_bytes),
        show_bytes(memory.ceiling_bytes),
        show_bytes(memory.budget_bytes),
    )
}

/// What is used of the ceiling, when there is one.
fn used_percent(status: &v1::ServerStatus) -> Option<(v1::MemoryStatus, u128)> {
    let memory = status.memory.filter(|memory| memory.ceiling_bytes > 0)?;
    Some((memory, u128::from(memory.used_bytes) * 100 / u128::from(memory.ceiling_bytes)))
}

fn memory_text(status: &v1::ServerStatus) -> String {
    let (tails, tails_max) = (show_bytes(status.tails_bytes), show_bytes(status.tails_bytes_max));
    let resident = show_bytes(status.rss_bytes);
    let accounts_bytes = status.memory.map_or(0, |memory| memory.accounts_bytes);
    let accounted = match accounts_bytes {
        0 => String::new(),
        bytes => format!(", {} accounted for", show_bytes(bytes)),
    };
    format!("{resident} resident, tails {tails} of {tails_max}{accounted}")
}

/// Holders that hold something, the biggest first, in lines of bounded length.
fn account_texts(accounts: &[v1::Account]) -> Vec<String> {
    /// Columns of text beside the label.
    const COLUMNS: usize = 90;
    let mut holders: Vec<&v1::Account> = accounts.iter().filter(|account| account.bytes > 0).collect();
    sort_by(&mut holders, |one, other| other.bytes.cmp(&one.bytes));
    let mut lines: Vec<String> = Vec::new();
    for account in holders {
        let text = format!("{} {} ({})", clean(&account.holder), show_bytes(account.bytes), account.count);
        match lines.last_mut() {
            Some(line) if line.len() + 2 + text.len() <= COLUMNS => {
                line.push_str(", ");
                line.push_str(&text);
            }
            Some(_) | None => lines.push(text),
        }
    }
    lines
}

fn process_text(status: &v1::ServerStatus) -> String {
    // 0 is no limit, or nobody knows it.
    let of = |max: u64| if max == 0 { String::new() } else { format!(" of {max}") };
    format!(
        "CPU {}, {}{}, {}{}, loop lag {} (worst {})",
        show_duration(duration_of(status.cpu_time)),
        count(status.threads, "thread"),
        of(u64::from(status.threads_max)),
        count(status.descriptors, "descriptor"),
        of(status.descriptors_max),
        show_duration(duration_of(status.loop_lag)),
        show_duration(duration_of(status.loop_lag_max)),
    )
}

/// One line per interval, with rates since the line before.
fn watch_line(status: &v1::ServerStatus, before: Option<&v1::ServerStatus>) -> String {
    let rates = before.map_or_else(String::new, |before| {
        let between = duration_of(status.uptime).saturating_sub(duration_of(before.uptime)).as_secs_f64();
        if between <= 0.0 {
            return String::new();
        }
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), between);
        format!(
            ", {}/s in, {}/s out, CPU {:.1}%",
            rate(status.last_sequence, before.last_sequence),
            rate(status.events_delivered, before.events_delivered),
            100.0 * duration_of(status.cpu_time).saturating_sub(duration_of(before.cpu_time)).as_secs_f64()
                / between,
        )
    });
    let used = used_percent(status).map_or_else(String::new, |(_, percent)| format!(" at {percent}%"));
    format!(
        "{} up {}: {}, {}, {}, #{}{rates}, {}, pressure {}{used}",
        phase_name(status.phase).to_lowercase(),
        show_duration(duration_of(status.uptime)),
        count(status.connections, "connection"),
        count(status.sessions, "session"),
        count(status.streams, "stream"),
        status.last_sequence,
        show_bytes(status.rss_bytes),
        pressure_name(status.pressure).to_lowercase(),
    )
}

fn per_second(events: u64, seconds: f64) -> String {
    // Exact up to 2^53 events in one interval.
    let rate = events as f64 / seconds;
    format!("{rate:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    fn status(uptime_s: i64, last_sequence: u64, events_delivered: u64) -> v1::ServerStatus {
        v1::ServerStatus {
            version: "0.1.0".to_owned(),
            epoch: "e".to_owned(),
            phase: 1,
            uptime: Some(prost_types::Duration { seconds: uptime_s, nanos: 0 }),
            connections: 1,
            last_sequence,
            events_delivered,
            rss_bytes: 2 * 1024 * 1024,
            threads: 1,
            ended: vec![v1::ReasonCount { reason: 5, streams: 2, sessions: 1 }],
            ..Default::default()
        }
    }

    #[test]
    fn watching_shows_rates_from_the_second_line_on() {
        let (first, mut second) = (status(10, 100, 200), status(12, 130, 260));
        second.cpu_time = Some(prost_types::Duration { seconds: 0, nanos: 45_000_000 });
        assert!(!watch_line(&first, None).contains("/s"));
        let line = watch_line(&second, Some(&first));
        assert!(line.contains("#130, 15.0/s in, 30.0/s out, CPU 2.2%, 2 MiB, pressure"), "{line}");
        assert!(!watch_line(&first, Some(&first)).contains("/s"));
    }

    #[test]
    fn the_status_names_what_ended_by_reason() {
        let (output, _, _) = captured(false);
        let lines = status_lines(&status(61, 1, 1), output.paint);
        assert_eq!(lines[0], "server    0.1.0 running, up 1m01s, epoch e");
        assert_eq!(lines.last().unwrap(), "ended     SESSION_LOGGED_OUT: 2 streams, 1 session");
    }

    #[test]
    fn the_status_says_what_is_used_of_what() {
        const MIB: u64 = 1024 * 1024;
        let (output, _, _) = captured(false);
        let account = |holder: &str, count, bytes| v1::Account { holder: holder.to_owned(), count, bytes };
        let mut full = v1::ServerStatus {
            pressure: v1::Pressure::High.into(),
            memory: Some(v1::MemoryStatus {
                budget_bytes: 256 * MIB,
                ceiling_bytes: 200 * MIB,
                used_bytes: 181 * MIB,
                accounts_bytes: 40 * MIB,
                ..Default::default()
            }),
            accounts: vec![
                account("sessions", 3, 3072),
                account("nothing", 9, 0),
                account("tails", 2, 12 * MIB),
                account("streams: receipts and notices", 7, 2048),
                account("connections: h2 buffers", 5, 1024),
            ],
            threads_max: 2,
            descriptors_max: 1088,
            loop_lag: Some(prost_types::Duration { seconds: 0, nanos: 2_000_000 }),
            loop_lag_max: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            cpu_time: Some(prost_types::Duration { seconds: 75, nanos: 0 }),
            logins_refused: 1,
            connections_abusive: 4,
            ..status(61, 1, 1)
        };
        let lines = status_lines(&full, output.paint);
        for expected in [
            "pressure  high, 90% used: 181 MiB of 200 MiB, budget 256 MiB",
            "memory    2 MiB resident, tails 0 B of 0 B, 40 MiB accounted for",
            "accounts  tails 12 MiB (2), sessions 3 KiB (3), streams: receipts and notices 2 KiB (7)",
            "          connections: h2 buffers 1 KiB (5)",
            "process   CPU 1m15s, 1 thread of 2, 0 descriptors of 1088, loop lag 2ms (worst 1.5s)",
            "refused   1 login, 0 streams, 0 connections; 4 cut for abuse",
        ] {
            assert!(lines.iter().any(|line| line == expected), "no {expected:?} in {lines:#?}");
        }
        assert!(
            watch_line(&full, None).ends_with("2 MiB, pressure high at 90%"),
            "{}",
            watch_line(&full, None)
        );
        full.memory = None;
        assert!(status_lines(&full, output.paint).iter().any(|line| line == "pressure  high"));
        assert!(watch_line(&full, None).ends_with("pressure high"));
    }

    #[test]
    fn one_screen_is_enough() {
        let (output, _, _) = captured(false);
        let account =
            v1::Account { holder: "streams: first of each connection".to_owned(), count: 1, bytes: 1 };
        let most = v1::ServerStatus { accounts: vec![account; 20], ..status(1, 1, 1) };
        assert!(status_lines(&most, output.paint).len() <= 24);
    }

    #[test]
    fn intervals_have_the_contracts_bounds() {
        assert_eq!(parse_interval("100ms"), Ok(Duration::from_millis(100)));
        assert!(parse_interval("99ms").is_err());
        assert!(parse_interval("61m").is_err());
        assert!(parse_interval("x").is_err());
    }
}
