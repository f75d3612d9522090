//! The process: what runs beside the connections, and how it all starts and stops. [`run`] is a start list; stopping
//! is its reverse.

pub mod activation;
pub mod descriptors;
mod http1;
pub mod listen;
pub mod metrics;
pub mod metrics_text;
pub mod monitor;
pub mod procfs;
pub mod reaper;
pub mod shutdown;
pub mod signals;
pub mod systemd;
pub mod watchdog;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::event::Epoch;
use crate::base::reason::{Cause, EndReason};
use crate::config;
use crate::config::{Config, ConfigErrors};
use crate::daemon::monitor::Monitor;
use crate::daemon::procfs::Procfs;
use crate::daemon::signals::Signals;
use crate::daemon::systemd::Notifier;
use crate::runtime::scope::Scope;
use crate::server::Core;
use crate::server::accept;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network address cannot be listened on.
    #[error("cannot listen on {listen}: {}", listen_advice(source))]
    Listen {
        /// The address.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
    /// What systemd hands over cannot be listened on.
    #[error(
        "cannot listen on what systemd hands over: {problem}; streamward.socket must have one ListenStream=, a TCP \
         address, and Accept=no"
    )]
    Inherited {
        /// What is wrong.
        problem: String,
    },
    /// Anyone on the network could log in under any name at the address that systemd hands over.
    #[error(
        "streamward.socket listens on {listen}, which can be reached from other machines while auth.mode = open lets \
         anyone log in under any name; make it ListenStream=127.0.0.1:{}, or set auth.allow_open = true if everyone \
         there is trusted",
        listen.port()
    )]
    InheritedOpen {
        /// The address.
        listen: SocketAddr,
    },
    /// The metrics address cannot be listened on.
    #[error("cannot listen on {listen} for the metrics: {}", metrics_advice(source))]
    MetricsListen {
        /// The address.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
    /// The admin socket cannot be made.
    #[error("cannot make the admin socket {}: {problem}; choose another with --admin-socket", path.display())]
    AdminSocket {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// Whether another server answers there.
        in_use: bool,
    },
    /// The system refuses what every process needs.
    #[error("the system refuses {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn listen_advice(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        "another server listens there; choose with --listen".to_owned()
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "this machine has no such address; choose with --listen".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "not allowed; ports below 1024 need the capability CAP_NET_BIND_SERVICE".to_owned()
    } else {
        error.to_string()
    }
}

fn metrics_advice(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        "another program listens there; choose another server.metrics_listen".to_owned()
    } else {
        format!("{error}; choose another server.metrics_listen")
    }
}

/// How the server stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything accepted was delivered.
    Drained,
    /// Time or patience was over before; these streams had not got what they were owed.
    Cut(Vec<String>),
}

/// Serves until told to stop. `reload` reads the configuration again at SIGHUP; `ready` is told the network address
/// once clients can connect.
///
/// # Errors
/// When something the server needs cannot be had; nothing is left behind then.
pub fn run(
    config: Config,
    notifier: &Notifier,
    reload: &dyn Fn() -> Result<Config, ConfigErrors>,
) -> Result<Stopped, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    // One thread. The blocking pool is never used by the server; one is the least tokio takes.
    let blocking_threads_max = (config.server.threads_max as usize).saturating_sub(1).max(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads_max)
        .build()
        .map_err(system("a runtime"))?;
    runtime.block_on(serve(config, notifier, reload))
}

async fn serve(
    config: Config,
    notifier: &Notifier,
    reload: &dyn Fn() -> Result<Config, ConfigErrors>,
) -> Result<Stopped, StartError> {
    let mut signals =
        Signals::new().map_err(|source| StartError::System { what: "signal handlers", source })?;
    let mut epoch = [0; 8];
    getrandom::fill(&mut epoch).map_err(|error| StartError::System {
        what: "random bytes",
        source: io::Error::other(error.to_string()),
    })?;
    let epoch = Epoch::from_random(epoch);
    descriptors::make_room(&config.limits);
    let (tcp, address) = match activation::inherited(&config)? {
        Some(handed) => handed,
        None => listen::tcp(config.server.listen)?,
    };
    let metrics_page = config.server.metrics_listen.map(listen::metrics).transpose()?;
    let (unix, socket_file) = listen::unix(&config.server.admin_socket)?;
    let core = Core::new(epoch, config.limits.clone(), config.memory.clone(), config.shutdown.clone());
    let mut procfs = Procfs::open();
    let mut monitor = Monitor::new(config::mem_total_bytes(), config.server.threads_max);
    monitor.tick(&core, &procfs.read(), Duration::ZERO, Instant::now());
    let upkeep = Scope::root();

    // The start list; `shutdown` takes it down from the bottom.
    upkeep.spawn_boxed(reaper::run(Arc::clone(&core), upkeep.clone()));
    upkeep.spawn_boxed(monitor::run(Arc::clone(&core), upkeep.clone(), monitor, procfs));
    if let Some((listener, address)) = metrics_page {
        log::info!("metrics at http://{address}{}", metrics::PATH);
        upkeep.spawn_boxed(metrics::run(Arc::clone(&core), listener, upkeep.clone()));
    }
    core.service.spawn_boxed(accept::run(Arc::clone(&core), accept::Listener::Unix(unix)));
    core.service.spawn_boxed(accept::run(Arc::clone(&core), accept::Listener::Tcp(tcp)));
    log::info!("admin socket {}", config.server.admin_socket.display());
    log::info!("listening on {address}, epoch {}", core.hub().epoch().0);
    notifier.ready(&format!("listening on {address}"));

    let work = async {
        let cause = tokio::select! {
            signal = signals::wait_for_stop(&mut signals, &core, config, reload) => shutdown::cause(signal),
            cause = core.drain_asked() => cause,
        };
        shutdown::run(&core, notifier, &cause, &mut signals).await
    };
    let stopped = tokio::select! {
        stopped = work => stopped,
        never = watchdog::run(&core, notifier) => match never {},
    };
    drop(socket_file);
    upkeep.end(Cause::server(EndReason::ServerDraining));
    upkeep.finished().await;
    Ok(stopped)
}
