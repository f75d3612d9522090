//! Connections there is no room for: a few at a time are told why and when to come back. A client that is only
//! closed, or left in the kernel's queue, cannot know.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Connection, Handshake};
use tonic::Status;

use crate::base::limits;
use crate::base::limits::{TURNED_AWAY_CALLS_MAX, TURNED_AWAY_RETRY};
use crate::base::reason::Cause;
use crate::runtime::phase::Phase;
use crate::runtime::spread::spread;
use crate::server::Core;
use crate::server::call::refuse;
use crate::server::conn::{Conn, Transport};
use crate::server::connection::drained;
use crate::wire::status::{EndFacts, ended};

/// Answers the first calls of `io` with `cause`, then closes it; never lasts longer than
/// `limits.handshake_timeout`. `number` counts those turned away: each is told another time to come back.
pub(super) async fn run(core: &Arc<Core>, io: Box<dyn Transport>, peer: &str, cause: Cause, number: u64) {
    let limits = core.limits();
    let facts = EndFacts { retry_after: Some(spread(TURNED_AWAY_RETRY, number)), ..EndFacts::default() };
    let status = ended(&cause, &facts);
    let (conn, drain, _) = Conn::new(io);
    let mut phase = core.phase.watch();
    let told = tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase > Phase::Running) => false,
        told = tokio::time::timeout(limits.handshake_timeout, tell(conn, &status)) => told.is_ok(),
        _ = drained(&drain) => false,
    };
    let listened = if told { "" } else { " and did not listen" };
    log::debug!("{peer} was turned away: {}{listened}", cause.text());
}

async fn tell(conn: Conn, status: &Status) -> Result<(), h2::Error> {
    let handshake: Handshake<Conn, Bytes> = h2::server::Builder::new()
        .initial_window_size(limits::MAX_FRAME_SIZE)
        .max_frame_size(limits::MAX_FRAME_SIZE)
        .header_table_size(limits::HEADER_TABLE_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(TURNED_AWAY_CALLS_MAX)
        .max_concurrent_reset_streams(limits::LOCAL_RESETS_MAX)
        .max_local_error_reset_streams(Some(limits::PENDING_RESETS_MAX))
        .max_pending_accept_reset_streams(limits::PENDING_RESETS_MAX)
        .handshake(conn);
    let mut connection: Connection<Conn, Bytes> = handshake.await?;
    let mut is_told = false;
    while let Some(call) = connection.accept().await {
        let (_, mut respond) = call?;
        refuse(&mut respond, status);
        if !is_told {
            connection.graceful_shutdown();
            is_told = true;
        }
    }
    Ok(())
}
