//! Descriptors enough for the connections the configuration admits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::base::limits::{ADMIN_CONNECTIONS_MAX, Limits};

/// Listeners, signals, epoll, standard streams, the metrics page and what a command reads in passing.
const DESCRIPTORS_OF_OUR_OWN: u64 = 64;

/// Descriptors that connections at their maxima need, on the network and on the admin socket.
#[must_use]
pub fn needed(limits: &Limits) -> u64 {
    u64::from(limits.connections_max) + u64::from(ADMIN_CONNECTIONS_MAX) + DESCRIPTORS_OF_OUR_OWN
}

/// Raises the soft limit as far as needed and allowed; says so when that is not enough.
pub fn make_room(limits: &Limits) {
    let needed = needed(limits);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        log::debug!("RLIMIT_NOFILE stays {current:?}: {error}");
    }
    if raised < needed {
        log::warn!(
            "RLIMIT_NOFILE is {raised}, limits.connections_max = {} needs {needed}; raise LimitNOFILE or lower \
             limits.connections_max",
            limits.connections_max
        );
    }
}
