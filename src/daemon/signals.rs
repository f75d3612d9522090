//! SIGTERM and SIGINT stop, SIGHUP reads the configuration again.

use std::io;

use futures_util::StreamExt as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config;
use crate::config::{Config, ConfigErrors};
use crate::server::Core;

/// The signals of this process as a stream; no thread of ours waits for them.
pub struct Signals(signal_hook_tokio::Signals);

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// Takes over the three signals.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn new() -> io::Result<Self> {
        signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
    }

    /// The next signal.
    async fn next(&mut self) -> i32 {
        match self.0.next().await {
            Some(signal) => signal,
            // The handle is never closed, so the stream never ends.
            None => std::future::pending().await,
        }
    }

    /// Waits for SIGTERM or SIGINT; other signals are passed over.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                SIGTERM => return "SIGTERM",
                SIGINT => return "SIGINT",
                _ => {}
            }
        }
    }
}

/// Waits for a signal to stop, and obeys SIGHUP meanwhile. Returns which signal it was.
pub async fn wait_for_stop(
    signals: &mut Signals,
    core: &Core,
    mut config: Config,
    reload: &dyn Fn() -> Result<Config, ConfigErrors>,
) -> &'static str {
    loop {
        match signals.next().await {
            SIGTERM => return "SIGTERM",
            SIGINT => return "SIGINT",
            SIGHUP => config = apply(core, config, reload()),
            _ => {}
        }
    }
}

/// Puts in force what can change while running and says what cannot. With a mistake anywhere nothing changes.
fn apply(core: &Core, old: Config, read: Result<Config, ConfigErrors>) -> Config {
    let new = match read {
        Ok(new) => new,
        Err(errors) => {
            log::error!("SIGHUP: the configuration stays as it was, the new one has mistakes:\n{errors}");
            return old;
        }
    };
    let changes = config::changes(&old, &new);
    if changes.is_empty() {
        log::info!("SIGHUP: the configuration has not changed");
    }
    for change in changes {
        if change.live {
            log::info!("SIGHUP: {} is now {} (was {})", change.key, change.new, change.old);
        } else {
            let config::Change { key, old, new, .. } = change;
            log::warn!("SIGHUP: {key} stays {old}; {new} takes effect after a restart");
        }
    }
    let next = config::with_live(&old, &new);
    log::set_max_level(next.log.level);
    core.reconfigure(next.limits.clone(), next.memory.clone(), next.shutdown.clone());
    next
}
