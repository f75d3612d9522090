//! What a reload changes, and how much of it a running process takes.

use crate::base::limits::Limits;
use crate::config::Config;
use crate::config::keys::KEYS;
use crate::config::value::shown;

/// One key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, for example `limits.lease`.
    pub key: &'static str,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
    /// Whether the running process takes it; if not, it needs a restart.
    pub live: bool,
}

/// Every key whose value differs, in the order of the reference.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (mut old, mut new) = (old.clone(), new.clone());
    let mut changes = Vec::new();
    for key in KEYS {
        let (old, new) = (shown(key, &mut old), shown(key, &mut new));
        if old != new {
            changes.push(Change { key: key.name, old, new, live: key.is_live() });
        }
    }
    changes
}

/// `old` with the values of `new` that a running process takes.
#[must_use]
pub fn with_live(old: &Config, new: &Config) -> Config {
    let limits = Limits {
        connections_max: old.limits.connections_max,
        half_open_max: old.limits.half_open_max,
        ..new.limits.clone()
    };
    Config { server: old.server.clone(), auth: old.auth.clone(), limits, ..new.clone() }
}
