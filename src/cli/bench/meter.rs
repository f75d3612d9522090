//! What the hub's process uses: by its own word over the admin socket, or by /proc of this machine.

use std::fs;
use std::time::Duration;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::text::clean;
use crate::client::Admin;
use crate::config::machine::number;
use crate::wire::v1;

const HOW: &str = "The hub's CPU time and memory are not shown. Name its admin socket with --admin-socket (of another \
                   machine: bring it here with `ssh -L`, see `streamward bench --help`), or its process with --pid";

/// CPU time and memory of the hub's process; unset where nobody tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerReading {
    /// User and system time since its start.
    pub(crate) cpu: Option<Duration>,
    /// Resident set. Over the admin socket it is what the hub's monitor saw last, up to a second ago.
    pub(crate) rss_bytes: Option<u64>,
}

/// Where readings come from.
pub(crate) struct Meter(Source);

enum Source {
    /// The hub's admin socket.
    Admin(Box<Admin>),
    /// A process of this machine.
    Process(u32),
    /// Nowhere.
    Nowhere,
}

impl ServerReading {
    /// CPU time since the earlier reading.
    pub(crate) fn cpu_since(&self, before: &Self) -> Option<Duration> {
        Some(self.cpu?.saturating_sub(before.cpu?))
    }
}

impl Meter {
    /// Finds a source. One that was named must be there; without any it is told how to have one.
    ///
    /// # Errors
    /// When the process or the socket that was named cannot be read.
    pub(crate) async fn open(common: &CommonArgs, output: &mut Output) -> Result<Self, Failure> {
        if let Some(pid) = common.pid {
            of_process(pid)?;
            return Ok(Self(Source::Process(pid)));
        }
        let connected = match common.socket.path() {
            Ok(path) => Admin::connect(&path).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match connected {
            Ok(admin) => Ok(Self(Source::Admin(Box::new(admin)))),
            Err(failure) if common.socket.is_named() => Err(failure),
            Err(_) => {
                output.notice(&format!("{HOW}."));
                Ok(Self(Source::Nowhere))
            }
        }
    }

    /// Makes sure that the socket is that of the hub under load, whose subscriptions named this epoch.
    ///
    /// # Errors
    /// When the socket that was named is another hub's. One that was only found is not used.
    pub(crate) async fn check(
        &mut self,
        epoch: &str,
        common: &CommonArgs,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let Source::Admin(admin) = &self.0 else { return Ok(()) };
        if admin.status().await?.epoch == epoch {
            return Ok(());
        }
        if common.socket.is_named() {
            let text = format!("the admin socket is that of another hub than the one at {}.", common.server);
            return Err(Failure::told(Exit::Usage, text));
        }
        output.notice(&format!("The admin socket here is another hub's. {HOW}."));
        self.0 = Source::Nowhere;
        Ok(())
    }

    /// The whole status, where the admin socket is the source.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub(crate) async fn status(&self) -> Result<Option<v1::ServerStatus>, Failure> {
        match &self.0 {
            Source::Admin(admin) => Ok(Some(admin.status().await?)),
            Source::Process(_) | Source::Nowhere => Ok(None),
        }
    }

    /// The admin socket, where that is the source.
    pub(crate) fn admin(&self) -> Option<&Admin> {
        match &self.0 {
            Source::Admin(admin) => Some(admin),
            Source::Process(_) | Source::Nowhere => None,
        }
    }

    /// What is used now.
    ///
    /// # Errors
    /// When the source is gone.
    pub(crate) async fn read(&self) -> Result<ServerReading, Failure> {
        match &self.0 {
            Source::Admin(admin) => Ok(of_status(&admin.status().await?)),
            Source::Process(pid) => of_process(*pid),
            Source::Nowhere => Ok(ServerReading::default()),
        }
    }
}

fn of_status(status: &v1::ServerStatus) -> ServerReading {
    let rss_bytes = Some(status.rss_bytes).filter(|bytes| *bytes > 0);
    // An older hub does not tell its CPU time.
    let cpu = status.cpu_time.and_then(|time| Duration::try_from(time).ok());
    ServerReading { cpu, rss_bytes }
}

fn of_process(pid: u32) -> Result<ServerReading, Failure> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).map_err(|error| {
            let why = clean(&error.to_string()).into_owned();
            let advice = "Name the process of a hub on this machine: --pid \"$(pidof streamward)\".";
            Failure::told(Exit::Unavailable, format!("cannot read {path}: {why}. {advice}"))
        })
    };
    Ok(ServerReading {
        // The first number is the time on the CPU in nanoseconds: of the first thread, and the hub has no other.
        cpu: number(&read("schedstat")?, "", 0).map(Duration::from_nanos),
        rss_bytes: number(&read("status")?, "VmRSS:", 0).map(|kibibytes| kibibytes.saturating_mul(1024)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_this_machine_is_read_and_one_that_is_not_there_is_told() {
        let own = of_process(std::process::id()).unwrap();
        assert!(own.cpu.is_some() && own.rss_bytes.is_some_and(|bytes| bytes > 0), "{own:?}");
        let failure = of_process(u32::MAX).unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(failure.to_string().contains("--pid"), "{failure}");
    }

    #[test]
    fn what_is_missing_is_not_known() {
        assert_eq!(number("17 3 2\n", "", 0), Some(17));
        assert_eq!(number("VmSize:\t 9 kB\nVmRSS:\t    12 kB\n", "VmRSS:", 0), Some(12));
        for text in ["", "x", "VmRSS:", "VmRSS: -"] {
            assert_eq!((number(text, "", 0), number(text, "VmRSS:", 0)), (None, None), "{text:?}");
        }
    }

    #[test]
    fn cpu_time_needs_both_readings() {
        let at = |ms| ServerReading { cpu: Some(Duration::from_millis(ms)), rss_bytes: None };
        assert_eq!(at(30).cpu_since(&at(10)), Some(Duration::from_millis(20)));
        assert_eq!(at(30).cpu_since(&ServerReading::default()), None);
        assert_eq!(ServerReading::default().cpu_since(&at(1)), None);
    }
}
