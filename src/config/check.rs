//! Rules between keys. Bounds of a single key are in the table of keys.

use crate::base::bill;
use crate::base::limits::EVENT_OVERHEAD_BYTES_MAX;
use crate::config::error::ConfigError;
use crate::config::is_reachable;
use crate::config::loading::Loading;
use crate::config::value::{measure, shown};

/// The first of each pair must be below the second.
const BELOW: &[(&str, &str)] = &[
    ("limits.heartbeat_interval", "limits.lease"),
    ("memory.elevated_percent", "memory.high_percent"),
    ("memory.high_percent", "memory.critical_percent"),
    ("memory.hysteresis_percent", "memory.elevated_percent"),
];

/// The first of each pair must be at most the second: parts and wholes.
const AT_MOST: &[(&str, &str)] = &[
    ("limits.sessions_per_user_max", "limits.sessions_max"),
    ("limits.connections_per_ip_max", "limits.connections_max"),
    ("limits.half_open_max", "limits.connections_max"),
    ("limits.subscriptions_per_stream_max", "limits.topics_max"),
    ("limits.lag_bytes_max", "limits.tail_bytes_max"),
    ("limits.tail_bytes_max", "limits.tails_bytes_max"),
    ("limits.stream_window_bytes", "limits.connection_window_bytes"),
];

/// What the idle cost depends on, most telling first.
const BILLED: &[&str] = &[
    "memory.budget_bytes",
    "limits.connections_max",
    "limits.tails_bytes_max",
    "limits.sessions_max",
    "limits.half_open_max",
    "limits.topics_max",
];

/// Notes every broken rule.
pub(crate) fn check(loading: &mut Loading, budget_bytes: u64) {
    for (part, whole) in BELOW {
        check_order(loading, part, whole, "below", |part, whole| part < whole);
    }
    for (part, whole) in AT_MOST {
        check_order(loading, part, whole, "at most", |part, whole| part <= whole);
    }
    check_message_fits_lag(loading);
    check_open_mode(loading);
    check_metrics_listen(loading);
    check_bill(loading, budget_bytes);
}

fn check_order(
    loading: &mut Loading,
    first: &'static str,
    second: &'static str,
    relation: &str,
    holds: fn(u64, u64) -> bool,
) {
    let (Some(left), Some(right)) = (loading.sound(first), loading.sound(second)) else { return };
    let config = &mut loading.config;
    if holds(measure(left, config), measure(right, config)) {
        return;
    }
    let (left, right) = (shown(left, config), shown(right, config));
    let problem = format!(
        "{first} = {left} must be {relation} {second} = {right} ({}); lower {first} or raise {second}",
        loading.place(second)
    );
    let place = loading.first_place(&[first, second]);
    loading.errors.push(ConfigError::Conflict { place, keys: [first, second], problem });
}

fn check_message_fits_lag(loading: &mut Loading) {
    let keys = ["limits.message_bytes_max", "limits.lag_bytes_max"];
    let (Some(message), Some(lag)) = (loading.sound(keys[0]), loading.sound(keys[1])) else { return };
    if loading.config.limits.event_bytes_max() <= loading.config.limits.lag_bytes_max {
        return;
    }
    let (message, lag) = (shown(message, &mut loading.config), shown(lag, &mut loading.config));
    let problem = format!(
        "{} = {message} and {EVENT_OVERHEAD_BYTES_MAX} bytes for its names must fit into {} = {lag} ({}), or a \
         single message would end every subscription; lower {} or raise {}",
        keys[0],
        keys[1],
        loading.place(keys[1]),
        keys[0],
        keys[1]
    );
    let place = loading.first_place(&keys);
    loading.errors.push(ConfigError::Conflict { place, keys, problem });
}

fn check_open_mode(loading: &mut Loading) {
    let keys = ["server.listen", "auth.mode", "auth.allow_open"];
    if keys.iter().any(|key| loading.sound(key).is_none()) {
        return;
    }
    let listen = loading.config.server.listen;
    if loading.config.auth.lets_in_strangers(listen) {
        let place = loading.place("server.listen").clone();
        loading.errors.push(ConfigError::OpenOnNetwork { place, listen });
    }
}

fn check_metrics_listen(loading: &mut Loading) {
    let keys = ["server.metrics_listen", "server.listen"];
    if keys.iter().any(|key| loading.sound(key).is_none()) {
        return;
    }
    let (Some(metrics), listen) = (loading.config.server.metrics_listen, loading.config.server.listen) else {
        return;
    };
    let place = loading.place(keys[0]).clone();
    if is_reachable(metrics) {
        loading.errors.push(ConfigError::MetricsOnNetwork { place, listen: metrics });
    } else if metrics == listen && listen.port() != 0 {
        let problem = format!("{} = {metrics} is {} too; choose another port", keys[0], keys[1]);
        loading.errors.push(ConfigError::Conflict { place, keys, problem });
    }
}

fn check_bill(loading: &mut Loading, budget_bytes: u64) {
    if BILLED.iter().any(|key| loading.sound(key).is_none()) {
        return;
    }
    let idle_bytes = bill::bill(&loading.config.limits).idle_bytes;
    if idle_bytes > budget_bytes {
        let place = loading.first_place(BILLED);
        loading.errors.push(ConfigError::OverBudget { place, idle_bytes, budget_bytes });
    }
}
