//! The server as its administrator sees it, in the words of the contract: the status, and the plan of who would be shed.

use tokio::time::Instant;

use crate::base::limits::SHED_STEPS_MAX;
use crate::hub::accounts::Account;
use crate::hub::shed::{Rung, Shortage, Step, Victim};
use crate::runtime::phase::Phase;
use crate::server::Core;
use crate::server::status::{EndCount, ServerFacts};
use crate::wire::{convert, v1};

pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The facts as the contract tells them.
pub(super) fn server_status(core: &Core) -> v1::ServerStatus {
    let facts = core.facts();
    let vitals = facts.vitals;
    let ended = facts.ended.iter().filter(|ended| ended.streams > 0 || ended.sessions > 0);
    v1::ServerStatus {
        version: facts.version.to_owned(),
        epoch: facts.epoch.0.to_string(),
        phase: phase(facts.phase).into(),
        started_at: Some(convert::timestamp(facts.started_at)),
        uptime: Some(convert::duration(facts.uptime)),
        connections: facts.connections,
        sessions: facts.sessions,
        streams: facts.streams,
        subscriptions: facts.subscriptions,
        topics: facts.topics,
        last_sequence: facts.last_sequence,
        events_delivered: facts.events_delivered,
        bytes_delivered: facts.bytes_delivered,
        tails_bytes: facts.tails_bytes,
        tails_bytes_max: facts.tails_bytes_max,
        rss_bytes: vitals.memory.rss_bytes,
        threads: vitals.threads,
        descriptors: u32::try_from(vitals.descriptors).unwrap_or(u32::MAX),
        pressure: convert::pressure(vitals.level).into(),
        ended: ended.map(reason_count).collect(),
        logins: facts.logins,
        accept_errors: facts.accept_errors,
        publishes_refused: facts.refused.publishes,
        publishes_duplicate: facts.publishes_duplicate,
        memory: Some(memory_status(&facts)),
        accounts: facts.accounts.iter().map(account).collect(),
        threads_max: vitals.threads_max,
        descriptors_max: vitals.descriptors_max,
        loop_lag: Some(convert::duration(vitals.loop_lag)),
        loop_lag_max: Some(convert::duration(vitals.loop_lag_max)),
        logins_refused: facts.refused.logins,
        streams_refused: facts.refused.streams,
        connections_refused: facts.refused.connections,
        connections_abusive: facts.refused.connections_abusive,
        cpu_time: Some(convert::duration(facts.cpu_time)),
    }
}

fn phase(phase: Phase) -> v1::Phase {
    match phase {
        Phase::Running => v1::Phase::Running,
        Phase::Refusing => v1::Phase::Refusing,
        Phase::Draining => v1::Phase::Draining,
        Phase::Aborting => v1::Phase::Aborting,
    }
}

fn reason_count(ended: &EndCount) -> v1::ReasonCount {
    v1::ReasonCount {
        reason: convert::reason(ended.reason).into(),
        streams: ended.streams,
        sessions: ended.sessions,
    }
}

fn account(account: &Account) -> v1::Account {
    v1::Account { holder: account.holder.to_owned(), count: account.count, bytes: account.bytes }
}

fn memory_status(facts: &ServerFacts) -> v1::MemoryStatus {
    let memory = facts.vitals.memory;
    let thresholds = facts.thresholds;
    v1::MemoryStatus {
        budget_bytes: memory.budget_bytes,
        ceiling_bytes: memory.ceiling_bytes,
        used_bytes: memory.used_bytes,
        accounts_bytes: facts.accounts.iter().map(|account| account.bytes).sum(),
        available_bytes: memory.available_bytes,
        cgroup_current_bytes: memory.cgroup_current_bytes,
        cgroup_high_bytes: memory.cgroup_high_bytes,
        cgroup_max_bytes: memory.cgroup_max_bytes,
        stalled_permille: memory.stalled,
        elevated_percent: thresholds.elevated / 10,
        high_percent: thresholds.high / 10,
        critical_percent: thresholds.critical / 10,
        idle_scale_permille: facts.vitals.idle_scale,
        tails_scale_permille: facts.vitals.tails_scale,
    }
}

/// Who would end if memory were short, in order: the plan that the monitor's next tick carries out as far as needed.
pub(super) fn shed_plan(core: &Core) -> v1::PlanShedResponse {
    let (facts, memory) = (core.facts(), core.memory());
    let shortage = Shortage {
        level: facts.vitals.level,
        memory: facts.vitals.memory,
        thresholds: facts.thresholds,
        ends_max: memory.ends_per_tick_max,
    };
    let plan = core.hub().plan_shed(&shortage, Instant::now());
    v1::PlanShedResponse {
        steps: plan.steps.iter().take(SHED_STEPS_MAX).map(shed_step).collect(),
        pressure: convert::pressure(facts.vitals.level).into(),
        needed_bytes: plan.needed_bytes,
        ends_per_tick_max: memory.ends_per_tick_max,
        ends_next_tick: count(plan.ends),
        memory: Some(memory_status(&facts)),
    }
}

fn shed_step(step: &Step) -> v1::ShedStep {
    let rung = match step.rung {
        Rung::StaleSession => v1::ShedRung::StaleSession,
        Rung::LaggingStream => v1::ShedRung::LaggingStream,
        Rung::CostlyStream => v1::ShedRung::CostlyStream,
    };
    v1::ShedStep {
        id: match step.victim {
            Victim::Session(key) => key.to_string(),
            Victim::Stream(key) => key.to_string(),
        },
        user: step.principal.user.to_string(),
        client_name: step.principal.client_name.to_string(),
        rung: rung.into(),
        bytes: step.bytes,
        lag_bytes: step.lag_bytes,
        silent_for: Some(convert::duration(step.silent_for)),
        streams: step.streams,
    }
}
