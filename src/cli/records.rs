//! What the admin service tells, as JSON. Field names carry their units; times are RFC 3339.

use serde_json::{Value, json};

use crate::cli::text::{duration_of, show_time};
use crate::wire::v1;

/// The reason's name; none while unset.
pub(crate) fn reason_name(number: i32) -> Option<String> {
    match v1::EndReason::try_from(number) {
        Ok(v1::EndReason::Unspecified) => None,
        Ok(reason) => Some(reason.as_str_name().to_owned()),
        // From a later version of the hub.
        Err(_) => Some(format!("REASON_{number}")),
    }
}

/// The phase's name.
pub(crate) fn phase_name(number: i32) -> &'static str {
    v1::Phase::try_from(number).unwrap_or_default().as_str_name()
}

/// The pressure level's name.
pub(crate) fn pressure_name(number: i32) -> &'static str {
    v1::Pressure::try_from(number).unwrap_or_default().as_str_name()
}

pub(crate) fn session_json(session: &v1::SessionInfo) -> Value {
    json!({
        "id": session.id,
        "user": session.user,
        "client_name": session.client_name,
        "started_at": show_time(session.started_at.as_ref()),
        "lease_left_s": duration_of(session.lease_left).as_secs_f64(),
        "streams": session.streams,
        "connection_ids": session.connection_ids,
        "ending": reason_name(session.ending),
    })
}

pub(crate) fn stream_json(stream: &v1::StreamInfo) -> Value {
    let subscription = |subscription: &v1::SubscriptionInfo| json!({"topic": subscription.topic, "lag_bytes": subscription.lag_bytes});
    json!({
        "id": stream.id,
        "session_id": stream.session_id,
        "user": stream.user,
        "client_name": stream.client_name,
        "connection_id": stream.connection_id,
        "rpc": stream.rpc,
        "peer": stream.peer,
        "started_at": show_time(stream.started_at.as_ref()),
        "subscriptions": stream.subscriptions.iter().map(subscription).collect::<Vec<_>>(),
        "events_delivered": stream.events_delivered,
        "bytes_delivered": stream.bytes_delivered,
        "last_sequence": stream.last_sequence,
        "lag_bytes": stream.lag_bytes,
        "deadline_left_s": stream.deadline_left.map(|left| duration_of(Some(left)).as_secs_f64()),
        "ending": reason_name(stream.ending),
    })
}

pub(crate) fn ended_json(ended: &v1::Ended) -> Value {
    json!({
        "id": ended.id,
        "kind": v1::EndedKind::try_from(ended.kind).unwrap_or_default().as_str_name(),
        "session_id": ended.session_id,
        "user": ended.user,
        "client_name": ended.client_name,
        "reason": reason_name(ended.reason),
        "note": ended.note,
        "asked_by": ended.asked_by,
        "started_at": show_time(ended.started_at.as_ref()),
        "ended_at": show_time(ended.ended_at.as_ref()),
        "events_delivered": ended.events_delivered,
        "bytes_delivered": ended.bytes_delivered,
        "lag_bytes_left": ended.lag_bytes_left,
        "last_sequence": ended.last_sequence,
        "rpc": ended.rpc,
        "connection_id": ended.connection_id,
    })
}

pub(crate) fn status_json(status: &v1::ServerStatus) -> Value {
    let account = |account: &v1::Account| json!({"holder": account.holder, "count": account.count, "bytes": account.bytes});
    let ended = |count: &v1::ReasonCount| json!({"reason": reason_name(count.reason), "streams": count.streams, "sessions": count.sessions});
    json!({
        "version": status.version,
        "epoch": status.epoch,
        "phase": phase_name(status.phase),
        "started_at": show_time(status.started_at.as_ref()),
        "uptime_s": duration_of(status.uptime).as_secs_f64(),
        "connections": status.connections,
        "sessions": status.sessions,
        "streams": status.streams,
        "subscriptions": status.subscriptions,
        "topics": status.topics,
        "last_sequence": status.last_sequence,
        "events_delivered": status.events_delivered,
        "bytes_delivered": status.bytes_delivered,
        "publishes_refused": status.publishes_refused,
        "publishes_duplicate": status.publishes_duplicate,
        "tails_bytes": status.tails_bytes,
        "tails_bytes_max": status.tails_bytes_max,
        "rss_bytes": status.rss_bytes,
        "cpu_time_s": duration_of(status.cpu_time).as_secs_f64(),
        "threads": status.threads,
        "descriptors": status.descriptors,
        "pressure": pressure_name(status.pressure),
        "memory": memory_json(&status.memory.unwrap_or_default()),
        "accounts": status.accounts.iter().map(account).collect::<Vec<_>>(),
        "threads_max": status.threads_max,
        "descriptors_max": status.descriptors_max,
        "loop_lag_s": duration_of(status.loop_lag).as_secs_f64(),
        "loop_lag_max_s": duration_of(status.loop_lag_max).as_secs_f64(),
        "logins": status.logins,
        "accept_errors": status.accept_errors,
        "logins_refused": status.logins_refused,
        "streams_refused": status.streams_refused,
        "connections_refused": status.connections_refused,
        "connections_abusive": status.connections_abusive,
        "ended": status.ended.iter().map(ended).collect::<Vec<_>>(),
    })
}

pub(crate) fn memory_json(memory: &v1::MemoryStatus) -> Value {
    json!({
        "budget_bytes": memory.budget_bytes,
        "ceiling_bytes": memory.ceiling_bytes,
        "used_bytes": memory.used_bytes,
        "accounts_bytes": memory.accounts_bytes,
        "available_bytes": memory.available_bytes,
        "cgroup_current_bytes": memory.cgroup_current_bytes,
        "cgroup_high_bytes": memory.cgroup_high_bytes,
        "cgroup_max_bytes": memory.cgroup_max_bytes,
        "stalled_permille": memory.stalled_permille,
        "elevated_percent": memory.elevated_percent,
        "high_percent": memory.high_percent,
        "critical_percent": memory.critical_percent,
        "idle_scale_permille": memory.idle_scale_permille,
        "tails_scale_permille": memory.tails_scale_permille,
    })
}

pub(crate) fn plan_json(plan: &v1::PlanShedResponse) -> Value {
    let step = |(at, step): (usize, &v1::ShedStep)| {
        json!({
            "id": step.id,
            "user": step.user,
            "client_name": step.client_name,
            "rung": rung_name(step.rung),
            "bytes": step.bytes,
            "lag_bytes": step.lag_bytes,
            "silent_for_s": duration_of(step.silent_for).as_secs_f64(),
            "streams": step.streams,
            "next_tick": at < plan.ends_next_tick as usize,
        })
    };
    json!({
        "pressure": pressure_name(plan.pressure),
        "needed_bytes": plan.needed_bytes,
        "ends_per_tick_max": plan.ends_per_tick_max,
        "ends_next_tick": plan.ends_next_tick,
        "memory": plan.memory.as_ref().map(memory_json),
        "steps": plan.steps.iter().enumerate().map(step).collect::<Vec<_>>(),
    })
}

/// The rung's name.
fn rung_name(number: i32) -> &'static str {
    v1::ShedRung::try_from(number).unwrap_or_default().as_str_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_status_is_in_its_document() {
        let account = v1::Account { holder: "tails".to_owned(), count: 1, bytes: 2 };
        let document = status_json(&v1::ServerStatus { accounts: vec![account], ..Default::default() });
        let proto = include_str!("../../proto/streamward/v1/admin.proto");
        for (message, found) in [
            ("ServerStatus", &document),
            ("MemoryStatus", &document["memory"]),
            ("Account", &document["accounts"][0]),
        ] {
            let (_, rest) = proto.split_once(&format!("message {message} {{\n")).unwrap();
            let fields = rest.split_once("\n}").unwrap().0.lines().filter_map(|line| line.split_once(" = "));
            let names: Vec<&str> = fields.filter_map(|(field, _)| field.split(' ').next_back()).collect();
            assert!(names.len() >= 3, "{message}: {names:?}");
            for name in names {
                let is_there = found.get(name).or_else(|| found.get(format!("{name}_s")));
                assert!(is_there.is_some(), "{message}.{name} is not in {found}");
            }
        }
    }

    #[test]
    fn reasons_have_names_even_those_of_a_later_version() {
        assert_eq!(reason_name(0), None);
        assert_eq!(reason_name(9).as_deref(), Some("SLOW_CONSUMER"));
        assert_eq!(reason_name(99).as_deref(), Some("REASON_99"));
    }

    #[test]
    fn an_unset_deadline_is_null_and_units_are_seconds() {
        let stream = stream_json(&v1::StreamInfo::default());
        assert_eq!(stream["deadline_left_s"], Value::Null);
        let session = v1::SessionInfo {
            lease_left: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..Default::default()
        };
        assert_eq!(session_json(&session)["lease_left_s"], 1.5);
    }
}
