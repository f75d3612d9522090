//! File, environment and flags become one [`Config`], or the list of everything that is wrong with them.
//!
//! Nothing but this floor reads the environment. One table, `keys::KEYS`, names every key; the file reader, the
//! environment reader, the shipped reference and the list of changes all come from it.

mod changes;
mod check;
mod environment;
mod error;
mod file;
pub(crate) mod keys;
mod loading;
pub(crate) mod machine;
mod manual;
pub(crate) mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod value;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::base::bill;
use crate::base::limits::{Limits, Memory, Shutdown};
use crate::config::environment::NOT_UTF8;
use crate::config::loading::Loading;
use crate::config::machine::Machine;
use crate::config::value::Raw;

pub use crate::config::changes::{Change, changes, with_live};
pub use crate::config::environment::{environment, variable};
pub use crate::config::error::{ConfigError, ConfigErrors, Place};
pub use crate::config::machine::mem_total_bytes;
pub use crate::config::manual::{KeyManual, SectionManual, manual};
pub use crate::config::reference::reference;

/// Where the admin socket is when systemd made our runtime directory.
pub const ADMIN_SOCKET_DEFAULT: &str = "/run/streamward/admin.sock";

/// Everything that can be set, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The `[server]` section.
    pub server: Server,
    /// The `[auth]` section.
    pub auth: Auth,
    /// The `[log]` section.
    pub log: Log,
    /// The `[limits]` section.
    pub limits: Limits,
    /// The `[memory]` section.
    pub memory: Memory,
    /// The `[shutdown]` section.
    pub shutdown: Shutdown,
}

/// The `[server]` section; read at start only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The Unix socket of the administrator's service: an absolute path.
    pub admin_socket: PathBuf,
    /// Where the metrics page is: a loopback address, or nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Threads of the process at most, the main one included.
    pub threads_max: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            admin_socket: PathBuf::from(ADMIN_SOCKET_DEFAULT),
            metrics_listen: None,
            threads_max: 2,
        }
    }
}

/// The `[auth]` section; read at start only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Who may log in.
    pub mode: AuthMode,
    /// Lets [`AuthMode::Open`] be reachable from other machines.
    pub allow_open: bool,
}

impl Auth {
    /// Whether anyone on another machine could log in at this address, and nobody said that they may.
    #[must_use]
    pub fn lets_in_strangers(&self, listen: SocketAddr) -> bool {
        match self.mode {
            AuthMode::Open => is_reachable(listen) && !self.allow_open,
        }
    }
}

/// Whether other machines can reach a listener at this address.
#[must_use]
pub fn is_reachable(listen: SocketAddr) -> bool {
    // An IPv4 loopback address written as IPv6 is one too.
    !listen.ip().to_canonical().is_loopback()
}

/// Who may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Anyone, under any user name.
    #[default]
    Open,
}

/// The `[log]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level still written.
    pub level: LevelFilter,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LevelFilter::Info }
    }
}

/// What the command line sets; each wins over environment and file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`, as typed.
    pub listen: Option<String>,
    /// `--admin-socket`.
    pub admin_socket: Option<PathBuf>,
}

/// Reads the configuration: flags win over `environment`, that over `file`, that over the defaults.
///
/// Every `STREAMWARD_<SECTION>_<KEY>` of `environment` is read; other variables are passed over, except that
/// `XDG_RUNTIME_DIR` helps to place the admin socket when nothing names it.
///
/// # Errors
/// Every mistake found, in the order file, environment, flags, then the rules between keys. A rule is not checked
/// when one of its keys could not be read, and none is when the file could not be.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigErrors> {
    load_on(&Machine::read(), file, environment, flags)
}

/// [`load`] with the machine as an argument.
fn load_on(
    machine: &Machine,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigErrors> {
    let file = file.map(|path| (path, std::fs::read_to_string(path)));
    load_read(machine, file, environment, flags)
}

/// [`load_on`] with what reading the file gave.
pub(crate) fn load_read(
    machine: &Machine,
    file: Option<(&Path, io::Result<String>)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigErrors> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let mut loading = Loading::new();
    let runtime_directory = environment::variable(&environment, "XDG_RUNTIME_DIR");
    loading.config.server.admin_socket = machine.admin_socket(runtime_directory);

    let file_was_read = file.is_none_or(|(path, text)| file::apply(&mut loading, path, text));
    environment::apply(&mut loading, &environment);
    apply_flags(&mut loading, flags);
    if file_was_read {
        let budget_bytes = bill::budget_bytes(&loading.config.memory, machine.mem_total_bytes);
        check::check(&mut loading, budget_bytes);
    }
    loading.finish()
}

fn apply_flags(loading: &mut Loading, flags: &Flags) {
    if let Some(listen) = &flags.listen {
        loading.set("server.listen", &Raw::Bare(listen), listen, Place::Flag("--listen"));
    }
    if let Some(path) = &flags.admin_socket {
        let place = Place::Flag("--admin-socket");
        match path.to_str() {
            Some(path) => loading.set("server.admin_socket", &Raw::Bare(path), path, place),
            None => loading.set("server.admin_socket", &Raw::Other, NOT_UTF8, place),
        }
    }
}
