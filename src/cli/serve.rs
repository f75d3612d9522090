//! `serve` and `check-config`.

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::Args;

use crate::base::bill;
use crate::cli::VERSION;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::config;
use crate::config::{Config, ConfigErrors, Flags};
use crate::daemon;
use crate::daemon::systemd::Notifier;
use crate::daemon::{StartError, Stopped};

/// Run the hub in the foreground until Ctrl-C or SIGTERM
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward serve                                  defaults: 127.0.0.1:50051, nothing else needed
  streamward serve --config /etc/streamward/streamward.toml
  streamward serve --listen 127.0.0.1:0             any free port; the log says which
  STREAMWARD_LIMITS_LEASE=5m streamward serve       every key is also a variable

SIGTERM or SIGINT drains, a second one cuts. SIGHUP reads the configuration again.
Exit codes: 0 drained, 75 something owed was not delivered in time, 78 configuration, 69 address in use.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only check the configuration, as `check-config` does
    #[arg(long)]
    check_config: bool,
}

/// Check the configuration and print what it may cost in memory
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward check-config --config streamward.toml  every mistake at once, with its line
  streamward check-config --reference               all keys, their defaults and meaning, as a file")]
pub(crate) struct CheckConfigArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Print the commented default configuration and stop
    #[arg(long)]
    reference: bool,
}

#[derive(Args, Debug)]
struct SourceArgs {
    /// TOML file; without it the defaults and the environment count
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where administrators connect
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

impl SourceArgs {
    fn load(&self) -> Result<Config, ConfigErrors> {
        let flags = Flags { listen: self.listen.clone(), admin_socket: self.admin_socket.clone() };
        config::load(self.config.as_deref(), config::environment(), &flags)
    }
}

pub(crate) fn serve(args: &ServeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let config = args.source.load().map_err(misconfigured)?;
    if args.check_config {
        return bill(&config, output);
    }
    start_log(config.log.level);
    log::info!("streamward {VERSION}");
    let notifier = Notifier::from_environment(&config::environment());
    match daemon::run(config, &notifier, &|| args.source.load()) {
        Ok(Stopped::Drained) => Ok(Exit::Ok),
        // Each was logged by name.
        Ok(Stopped::Cut(_)) => Ok(Exit::TempFail),
        Err(error) => Err(Failure::told(exit_of(&error), error.to_string())),
    }
}

pub(crate) fn check_config(args: &CheckConfigArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.reference {
        output.raw(config::reference().as_bytes())?;
        return Ok(Exit::Ok);
    }
    bill(&args.source.load().map_err(misconfigured)?, output)
}

fn bill(config: &Config, output: &mut Output) -> Result<Exit, Failure> {
    let budget_bytes = bill::budget_bytes(&config.memory, config::mem_total_bytes());
    output.raw(bill::render(&bill::bill(&config.limits), budget_bytes).as_bytes())?;
    output.line("the configuration is good")?;
    Ok(Exit::Ok)
}

fn misconfigured(errors: ConfigErrors) -> Failure {
    Failure::told(Exit::Config, format!("the configuration has mistakes:\n{errors}"))
}

fn exit_of(error: &StartError) -> Exit {
    match error {
        StartError::Listen { source, .. } if source.kind() == ErrorKind::PermissionDenied => Exit::NoPerm,
        StartError::MetricsListen { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Exit::NoPerm
        }
        StartError::Inherited { .. } | StartError::InheritedOpen { .. } => Exit::Config,
        StartError::Listen { .. }
        | StartError::MetricsListen { .. }
        | StartError::AdminSocket { in_use: true, .. } => Exit::Unavailable,
        StartError::AdminSocket { in_use: false, .. } => Exit::CannotCreate,
        StartError::System { .. } => Exit::OsError,
    }
}

/// Our own records follow the configured level, those of the libraries below only tell what is wrong. `RUST_LOG`
/// chooses otherwise.
fn start_log(level: log::LevelFilter) {
    let environment = config::environment();
    let mut builder = env_logger::Builder::new();
    match config::variable(&environment, "RUST_LOG") {
        Some(filters) => {
            builder.parse_filters(filters);
        }
        None => {
            // The level itself is set below, so that SIGHUP can change it.
            builder.filter_level(log::LevelFilter::Warn).filter_module("streamward", log::LevelFilter::Trace);
            // Its warnings are about peers, one for each wrong frame: they would let any peer fill the log.
            builder.filter_module("h2", log::LevelFilter::Error);
        }
    }
    // Under systemd the journal adds the time.
    if config::variable(&environment, "JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None);
    } else {
        builder.format_timestamp_millis();
    }
    if builder.try_init().is_ok() && config::variable(&environment, "RUST_LOG").is_none() {
        log::set_max_level(level);
    }
}
