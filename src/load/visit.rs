//! One visit of one client: log in, follow a topic, log out, and see that all of it ended as it must.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::base::reason::EndReason;
use crate::load::error::LoadError;
use crate::load::session::{Frames, Session};
use crate::wire::v1;

/// Who comes.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// As the request names the server.
    pub authority: String,
    /// The session's user.
    pub user: String,
    /// The session's client name.
    pub client_name: String,
}

/// How long the parts of one visit took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// From nothing, connection included, to the token.
    pub login: Duration,
    /// From there to the word that the subscription is live.
    pub stream: Duration,
    /// From there until the logout is answered, the stream has ended and the connection, if it was the visit's own, is
    /// closed by the server.
    pub logout: Duration,
}

/// A visit over a connection of its own, which the logout closes.
pub async fn alone<IO: AsyncRead + AsyncWrite + Unpin>(
    dial: impl Future<Output = Result<IO, LoadError>>,
    visitor: &Visitor,
) -> Result<Visit, LoadError> {
    let begun_at = Instant::now();
    let mut session = Session::over(dial.await?, &visitor.authority).await?;
    let mut visit = through(&mut session, visitor, begun_at).await?;
    let answered_at = Instant::now();
    session.closed().await?;
    visit.logout += answered_at.elapsed();
    Ok(visit)
}

/// A connection that stays, because another session's stream on it does.
pub struct Kept<IO> {
    session: Session<IO>,
    /// Of the session that stays.
    token: String,
    stays: Frames,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Kept<IO> {
    /// Connects, logs in the session that stays and opens its stream.
    pub async fn open(
        dial: impl Future<Output = Result<IO, LoadError>>,
        visitor: &Visitor,
    ) -> Result<Self, LoadError> {
        let name = format!("{}-stays", visitor.client_name);
        let mut session = Session::log_in(dial.await?, &visitor.authority, &visitor.user, &name).await?;
        let token = session.token().to_owned();
        match session.follow(v1::Overflow::Disconnect).await {
            Ok((stays, _)) => Ok(Self { session, token, stays }),
            Err(error) => Err(session.leave_for(error).await),
        }
    }

    /// A visit over this connection.
    pub async fn visit(&mut self, visitor: &Visitor) -> Result<Visit, LoadError> {
        self.session.act_as("");
        let visit = through(&mut self.session, visitor, Instant::now()).await;
        let token = std::mem::take(&mut self.token);
        self.session.act_as(&token);
        self.token = token;
        visit
    }

    /// Logs out the session that stayed; the server closes the connection.
    pub async fn leave(self) -> Result<(), LoadError> {
        self.session.leave(self.stays).await
    }
}

/// In, a stream, out.
async fn through<IO: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<IO>,
    visitor: &Visitor,
    begun_at: Instant,
) -> Result<Visit, LoadError> {
    session.enter(&visitor.user, &visitor.client_name).await?;
    let logged_in_at = Instant::now();
    let frames = match session.follow(v1::Overflow::Disconnect).await {
        Ok((frames, _)) => frames,
        Err(error) => return Err(session.leave_for(error).await),
    };
    let live_at = Instant::now();
    let answer: v1::LogoutResponse = session.unary("SessionService/Logout", &v1::LogoutRequest {}).await?;
    if answer.streams_ended != 1 {
        return Err(LoadError::Void(format!("a logout ended {} streams of one", answer.streams_ended)));
    }
    session.drive(logged_out(frames)).await??;
    Ok(Visit { login: logged_in_at - begun_at, stream: live_at - logged_in_at, logout: live_at.elapsed() })
}

/// The stream ends, and the reason it is told is the logout.
async fn logged_out(mut frames: Frames) -> Result<(), LoadError> {
    loop {
        match frames.next().await {
            // Somebody else may publish.
            Ok(_) => {}
            Err(LoadError::Refused(end)) if end.reason() == Some(EndReason::SessionLoggedOut) => {
                return Ok(());
            }
            Err(LoadError::Refused(end)) => {
                return Err(LoadError::Void(format!("a stream did not end by its logout: {end}")));
            }
            Err(error) => return Err(error),
        }
    }
}
