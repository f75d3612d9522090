//! A client that stays: one session and one stream on a connection, kept alive.

use std::future::Future;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::load::error::LoadError;
use crate::load::session::{Frames, Session};
use crate::load::visit::Visitor;
use crate::wire::v1;

/// A session with a stream that is live.
pub struct Guest<IO> {
    session: Session<IO>,
    frames: Frames,
    /// Identity of the hub's order.
    pub epoch: String,
}

enum Turn {
    Left,
    BeatDue,
    Came(Vec<v1::ServerFrame>),
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guest<IO> {
    /// Connects, logs in and follows the topic from now on.
    pub async fn come(
        dial: impl Future<Output = Result<IO, LoadError>>,
        visitor: &Visitor,
    ) -> Result<Self, LoadError> {
        let Visitor { authority, user, client_name } = visitor;
        let mut session = Session::log_in(dial.await?, authority, user, client_name).await?;
        match session.follow(v1::Overflow::Disconnect).await {
            Ok((frames, epoch)) => Ok(Self { session, frames, epoch }),
            Err(error) => Err(session.leave_for(error).await),
        }
    }

    /// Stays, with signs of life, until `leave`; what comes meanwhile is not looked at.
    pub async fn stay(&mut self, leave: impl Future<Output = ()>) -> Result<(), LoadError> {
        stay(&mut self.session, &mut self.frames, leave, &mut |_| Ok(())).await
    }

    /// Logs out; the server closes the connection.
    pub async fn leave(self) -> Result<(), LoadError> {
        self.session.leave(self.frames).await
    }
}

/// Hands what comes to `sink`, with signs of life between, until `leave`. A fault ends it sooner, and so does the
/// stream's end.
pub(crate) async fn stay<IO: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<IO>,
    frames: &mut Frames,
    leave: impl Future<Output = ()>,
    sink: &mut impl FnMut(v1::ServerFrame) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut leave = pin!(leave);
    let every = session.heartbeat_interval;
    let mut due = Instant::now() + every;
    loop {
        let turn = session.drive(async {
            tokio::select! {
                () = &mut leave => Ok(Turn::Left),
                () = sleep_until(due) => Ok(Turn::BeatDue),
                came = frames.next() => came.map(Turn::Came),
            }
        });
        match turn.await?? {
            Turn::Left => return Ok(()),
            Turn::BeatDue => {
                let beat = session.heartbeat()?;
                session.drive(beat).await??;
                due = Instant::now() + every;
            }
            Turn::Came(came) => {
                for frame in came {
                    sink(frame)?;
                }
            }
        }
    }
}
