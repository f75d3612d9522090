//! What all works share: where the hub is, how results are shown, what refusals and faults read like.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use http::uri::Authority;
use tokio::time::{MissedTickBehavior, interval};

use crate::base::reason::EndReason;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{Interrupt, SERVER_DEFAULT, SocketArgs};
use crate::cli::output::Output;
use crate::cli::text::clean;
use crate::client::{ClientError, Endpoint};
use crate::load::error::LoadError;

/// As often as an eye wants it.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// Options of every work.
#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// The hub: host:port
    #[arg(long, value_name = "ADDR", env = "STREAMWARD_SERVER", default_value = SERVER_DEFAULT, value_parser = parse_tcp)]
    pub(crate) server: Authority,
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
    /// Instead of an admin socket: the process of a hub on this machine, whose CPU time and memory /proc tells
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print JSON: one document for the run
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the results in the terminal, too
    #[arg(long, conflicts_with = "json")]
    pub(crate) plot: bool,
    /// Write the plots to this file as SVG; a file that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// Load comes over TCP, as that of real clients does.
fn parse_tcp(text: &str) -> Result<Authority, String> {
    match text.parse::<Endpoint>() {
        Ok(Endpoint::Tcp(authority)) => Ok(authority),
        Ok(Endpoint::Unix(_)) => Err("bench measures over TCP: write `host:port`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl CommonArgs {
    /// The hub's address, looked up once.
    pub(crate) async fn address(&self) -> Result<SocketAddr, Failure> {
        let failure =
            |why: String| Failure::told(Exit::Unavailable, format!("cannot look up {}: {why}.", self.server));
        // A parsed endpoint has a port.
        let port = self.server.port_u16().unwrap_or_default();
        let host = self.server.host().trim_start_matches('[').trim_end_matches(']');
        let mut found =
            tokio::net::lookup_host((host, port)).await.map_err(|error| failure(error.to_string()))?;
        found.next().ok_or_else(|| failure("it has no address".to_owned()))
    }

    /// What went wrong under load, as the program's end. `what` says what was being done.
    pub(crate) fn failure(&self, what: &str, error: &LoadError) -> Failure {
        match error {
            LoadError::Refused(error) => refusal(what, error),
            LoadError::Socket(error) => {
                let why = clean(&error.to_string()).into_owned();
                Failure::told(
                    Exit::Unavailable,
                    format!(
                        "{what}: cannot reach the hub at {}: {why}. Is it running? Start one with `streamward serve`.",
                        self.server
                    ),
                )
            }
            error @ (LoadError::Http2(_) | LoadError::Closed | LoadError::Malformed(_)) => Failure::told(
                Exit::Unavailable,
                format!("{what}: {}. Is a Streamward hub at {}?", clean(&error.to_string()), self.server),
            ),
            error @ (LoadError::Void(_) | LoadError::Gap) => {
                Failure::told(Exit::Data, format!("{what}: {}.", clean(&error.to_string())))
            }
        }
    }
}

/// A limit that was reached is told with the key to raise.
fn refusal(what: &str, error: &ClientError) -> Failure {
    let ClientError::Refused { details: Some(details), .. } = error else { return error.into() };
    let Some(quota) = &details.quota else { return error.into() };
    // `limits.sessions_max = 256; the operator can…`: the advice here is a longer one.
    let limit = quota.description.split(';').next().unwrap_or(&quota.subject);
    let advice = "Raise it in the hub's configuration, or ask for less.";
    Failure::told(Exit::TempFail, format!("{what}: the hub refused: {} is reached. {advice}", clean(limit)))
}

/// A name for the clients of one run, which no other run has.
///
/// # Errors
/// When the system has no random numbers.
pub(crate) fn run_name() -> Result<String, Failure> {
    let number = getrandom::u32();
    let failure = |error| Failure::told(Exit::Internal, format!("no random numbers: {error}."));
    number.map(|number| format!("{number:08x}")).map_err(failure)
}

/// What `work` gives, while a line says how far it is; none when it was interrupted.
pub(crate) async fn watched<T>(
    work: impl Future<Output = T>,
    mut line: impl FnMut() -> String,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Option<T> {
    let mut work = pin!(work);
    let mut draw = interval(DRAW_EVERY);
    draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shows = output.shows_progress();
    let done = loop {
        tokio::select! {
            done = &mut work => break Some(done),
            () = interrupt.next() => break None,
            _ = draw.tick(), if shows => output.progress(&line()),
        }
    };
    if shows {
        output.progress("");
    }
    if done.is_none() {
        output.interrupted();
    }
    done
}

/// Why a measurement means nothing, with what to do about it.
pub(crate) fn void_text(who: &str, error: &LoadError) -> String {
    let LoadError::Refused(refused @ ClientError::Refused { details: Some(details), .. }) = error else {
        return format!("{who}: {}", clean(&error.to_string()));
    };
    let text = refused.to_string();
    let why = format!("{who}: {}: {}", details.reason.name(), clean(text.trim_end_matches('.')));
    match &details.quota {
        Some(quota) => {
            format!("{why}. Raise {} in the hub's configuration, or ask for less", clean(&quota.subject))
        }
        None if details.reason == EndReason::SlowConsumer => format!(
            "{why}. Ask for less (--in-flight, --rate, --size), or raise limits.lag_bytes_max and with it \
             limits.tail_bytes_max in the hub's configuration"
        ),
        None => why,
    }
}

/// A number for a table, without a fraction.
pub(crate) fn number(number: f64) -> String {
    format!("{number:.0}")
}

/// What nobody knows is a dash.
pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// `83us`, `1.25ms`, `12.5ms`, `1.20s`.
pub(crate) fn show_latency(latency: Duration) -> String {
    let micros = latency.as_secs_f64() * 1e6;
    if micros < 1e3 {
        format!("{micros:.0}us")
    } else if micros < 1e4 {
        format!("{:.2}ms", micros / 1e3)
    } else if micros < 1e6 {
        format!("{:.1}ms", micros / 1e3)
    } else {
        format!("{:.2}s", micros / 1e6)
    }
}

/// `[######      ] 50%`
pub(crate) fn bar(done: u64, all: u64) -> String {
    const CELLS: usize = 24;
    let (done, all) = (u128::from(done.min(all)), u128::from(all.max(1)));
    let full = usize::try_from(done * CELLS as u128 / all).unwrap_or(CELLS);
    format!("[{}{}] {:>3}%", "#".repeat(full), " ".repeat(CELLS - full), done * 100 / all)
}

/// The same for a time.
pub(crate) fn time_bar(done: Duration, all: Duration) -> String {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    bar(millis(done), millis(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_comes_over_tcp() {
        assert!(parse_tcp("pi:50051").is_ok() && parse_tcp("[::1]:1").is_ok());
        assert!(parse_tcp("unix:/run/x.sock").unwrap_err().contains("host:port"));
        assert!(parse_tcp("pi").is_err());
    }

    #[test]
    fn the_bar_is_to_scale_and_never_beyond() {
        assert_eq!(bar(0, 10), format!("[{}]   0%", " ".repeat(24)));
        assert_eq!(bar(5, 10), format!("[{}{}]  50%", "#".repeat(12), " ".repeat(12)));
        assert_eq!(bar(11, 10), format!("[{}] 100%", "#".repeat(24)));
        assert_eq!(bar(0, 0), format!("[{}]   0%", " ".repeat(24)));
    }

    #[test]
    fn latencies_read_short() {
        for (micros, text) in
            [(0, "0us"), (83, "83us"), (1250, "1.25ms"), (12_540, "12.5ms"), (1_200_000, "1.20s")]
        {
            assert_eq!(show_latency(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_slow_subscriber_is_told_what_to_raise() {
        use crate::base::reason::Cause;
        use crate::wire::status::{EndFacts, ended};
        let status = ended(&Cause::server(EndReason::SlowConsumer), &EndFacts::default());
        let text = void_text("subscriber 3", &LoadError::Refused(ClientError::from(status)));
        for part in ["subscriber 3", "SLOW_CONSUMER", "--in-flight", "limits.lag_bytes_max"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_limit_is_told_with_the_key_to_raise() {
        use crate::base::reason::Cause;
        use crate::base::reason::Quota;
        use crate::wire::status::{EndFacts, ended};
        let cause = Cause::quota(Quota { key: "limits.sessions_max", value: 256 });
        let failure = refusal("subscriber 257", &ClientError::from(ended(&cause, &EndFacts::default())));
        assert_eq!(failure.exit(), Exit::TempFail);
        let text = failure.to_string();
        assert!(
            text.contains("subscriber 257") && text.contains("limits.sessions_max = 256 is reached"),
            "{text}"
        );
    }
}
