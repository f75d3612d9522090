//! One publisher at a fixed rate, for works in which somebody has to go on speaking.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::load::client::template;
use crate::load::error::LoadError;
use crate::load::session::{Frames, Session};
use crate::load::visit::Visitor;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 100;
/// Longest wait for the last receipts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes messages 0, 1, 2… one every `period` until `stop`, counts in `published` what the hub accepted, and logs out
/// when it has accepted all.
pub async fn publish<IO: AsyncRead + AsyncWrite + Unpin>(
    dial: impl Future<Output = Result<IO, LoadError>>,
    visitor: &Visitor,
    period: Duration,
    published: &Cell<u64>,
    stop: &CancellationToken,
) -> Result<(), LoadError> {
    let Visitor { authority, user, client_name } = visitor;
    let mut session = Session::log_in(dial.await?, authority, user, client_name).await?;
    let (mut send, mut frames) = session.connect().await?;
    let (template, mut sent) = (template(PAYLOAD_BYTES)?, 0);
    let told = session.drive(async {
        let mut ticks = interval(period);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = ticks.tick() => {
                    let mut bytes = Vec::new();
                    template.append(&mut bytes, sent);
                    send.send_data(bytes.into(), false)?;
                    sent += 1;
                }
                came = receipts(&mut frames, published) => came?,
            }
        }
        let last = async {
            while published.get() < sent {
                receipts(&mut frames, published).await?;
            }
            Ok(())
        };
        timeout(PATIENCE, last).await.unwrap_or_else(|_| {
            Err(LoadError::Void(format!("{} publishes have no receipt", sent - published.get())))
        })
    });
    told.await??;
    session.leave((send, frames)).await
}

/// Counts the receipts that come next.
async fn receipts(frames: &mut Frames, published: &Cell<u64>) -> Result<(), LoadError> {
    for frame in frames.next().await? {
        if frame.receipts.iter().any(|receipt| receipt.error.is_some()) {
            return Err(LoadError::Void("a publish was refused".to_owned()));
        }
        published.set(published.get() + frame.receipts.len() as u64);
    }
    Ok(())
}
