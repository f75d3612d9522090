//! What is not taken while memory is short or there are too many threads. Refused work costs nothing that lasts, and
//! each client is told a time of its own to come back.

use tonic::Status;

use crate::base::id::SessionKey;
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Quota};
use crate::runtime::pressure::Level;
use crate::server::{Core, Peer};
use crate::wire::status::{EndFacts, ended};

/// Calls without a session that last or cost. Login has a rule of its own; a health check is one small answer.
pub(super) fn is_anonymous_work(path: &str) -> bool {
    path == "/grpc.health.v1.Health/Watch" || path.starts_with("/grpc.reflection.")
}

/// Refuses anonymous work from ELEVATED on. The administrator is never refused.
pub(super) fn admit_anonymous(core: &Core, peer: &Peer) -> Result<(), Box<Status>> {
    if peer.admin_uid.is_none() && core.vitals().level >= Level::Elevated {
        return Err(Box::new(short_of_memory(core, peer)));
    }
    Ok(())
}

/// Refuses new sessions from ELEVATED on, and above the limit of threads. One that takes its own live session over is
/// not new; only at CRITICAL it is refused as well.
pub(super) fn admit_login(core: &Core, peer: &Peer, principal: &Principal) -> Result<(), Box<Status>> {
    let vitals = core.vitals();
    let has_too_many_threads = vitals.has_too_many_threads();
    if vitals.level < Level::Elevated && !has_too_many_threads {
        return Ok(());
    }
    if vitals.level < Level::Critical && core.hub().takes_over(principal) {
        return Ok(());
    }
    if vitals.level >= Level::Elevated {
        return Err(Box::new(short_of_memory(core, peer)));
    }
    let quota = Quota { key: "server.threads_max", value: u64::from(vitals.threads_max) };
    let retry_after = Some(core.retry_slot_of(peer.connection));
    Err(Box::new(ended(&Cause::quota(quota), &EndFacts { retry_after, ..EndFacts::default() })))
}

/// Refuses new streams at CRITICAL.
pub(super) fn admit_stream(core: &Core, session: SessionKey) -> Result<(), Box<Status>> {
    if core.vitals().level < Level::Critical {
        return Ok(());
    }
    let facts = EndFacts {
        session: Some(session),
        retry_after: Some(core.retry_slot(session)),
        ..EndFacts::default()
    };
    Err(Box::new(ended(&Cause::server(EndReason::MemoryPressure), &facts)))
}

fn short_of_memory(core: &Core, peer: &Peer) -> Status {
    let retry_after = Some(core.retry_slot_of(peer.connection));
    ended(&Cause::server(EndReason::MemoryPressure), &EndFacts { retry_after, ..EndFacts::default() })
}
