//! The environment: `STREAMWARD_<SECTION>_<KEY>`, strictly.

use crate::base::order::sort_by;
use crate::config::error::{ConfigError, Place};
use crate::config::keys;
use crate::config::loading::Loading;
use crate::config::value::Raw;

/// What every variable of ours begins with.
pub(crate) const PREFIX: &str = "STREAMWARD_";
/// What an error says instead of a value that cannot be printed.
pub(crate) const NOT_UTF8: &str = "bytes that are not UTF-8";
/// Tells the client commands where the hub is; no key of the server's.
const CLIENT_VARIABLE: &str = "STREAMWARD_SERVER";

/// The process's environment, for [`crate::config::load`] and for systemd's notifications.
///
/// Bytes that are not UTF-8 become U+FFFD; a variable of ours that has any is refused by `load`.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// The value of one variable; `None` when it is unset or empty.
#[must_use]
pub fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = environment.iter().rev().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

/// Sets every key that has a variable.
pub(crate) fn apply(loading: &mut Loading, environment: &[(String, String)]) {
    let mut ours: Vec<_> =
        environment.iter().filter(|(name, _)| name.starts_with(PREFIX) && name != CLIENT_VARIABLE).collect();
    // The system gives no order; errors should have one.
    sort_by(&mut ours, Ord::cmp);
    for (name, value) in ours {
        let place = Place::Variable(name.clone());
        match keys::of_variable(name) {
            Some(key) if value.contains(char::REPLACEMENT_CHARACTER) => {
                loading.set(key.name, &Raw::Other, NOT_UTF8, place);
            }
            Some(key) => loading.set(key.name, &Raw::Bare(value), value, place),
            None => {
                let nearest = keys::nearest_variable(name);
                loading.errors.push(ConfigError::UnknownVariable { name: name.clone(), nearest });
            }
        }
    }
}
