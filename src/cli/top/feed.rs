//! Looks at the hub, one per interval, and answers to what is asked, over a connection that comes back.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::base::limits::ENDED_KEPT_MAX;
use crate::cli::exit::end_text;
use crate::cli::top::app::{Ask, News};
use crate::cli::top::picture::Look;
use crate::client::{Admin, ClientError, StreamEnd};
use crate::wire::v1;

/// A hub that says nothing for this long beyond the interval is as good as gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Waits between attempts to connect: doubled up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What the looks are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) interval: Duration,
    /// With recent ends.
    pub(crate) ended: bool,
}

/// The hub's side of `top`.
#[derive(Debug)]
pub(crate) struct Feed {
    /// The admin socket.
    pub(crate) path: PathBuf,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) news: mpsc::Sender<News>,
}

impl Feed {
    /// Feeds until nobody listens.
    pub(crate) async fn run(mut self, admin: Admin) {
        let mut connected = Some(admin);
        let mut tries = 0;
        loop {
            let why = match connected.take() {
                Some(admin) => {
                    let why = self.follow(&admin).await;
                    tries = 0;
                    why
                }
                None => match heard(SILENCE_MAX, Admin::connect(&self.path)).await {
                    Ok(admin) => {
                        connected = Some(admin);
                        continue;
                    }
                    Err(error) => lost(error),
                },
            };
            if self.news.send(News::Lost(why, tries)).await.is_err() {
                return;
            }
            self.wait(backoff(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    /// Looks until the connection is lost; why it was.
    async fn follow(&mut self, admin: &Admin) -> String {
        loop {
            match self.watch(admin).await {
                Ok(()) => {}
                Err(error) => return lost(error),
            }
        }
    }

    /// Looks until the settings change or something was cancelled: then the next look is due at once.
    async fn watch(&mut self, admin: &Admin) -> Result<(), ClientError> {
        let settings = *self.settings.borrow_and_update();
        let mut statuses = heard(SILENCE_MAX, admin.watch(settings.interval)).await?;
        loop {
            tokio::select! {
                status = heard(settings.interval + SILENCE_MAX, statuses.next()) => {
                    let status = status?.ok_or(ClientError::StreamEnded)?;
                    let look = heard(SILENCE_MAX, look(admin, status, settings.ended)).await?;
                    let _ = self.news.send(News::Look(Box::new(look))).await;
                }
                Some(ask) = self.asks.recv() => {
                    let answer = heard(SILENCE_MAX, admin.cancel(&ask.target, &ask.note, ask.dry_run)).await;
                    let dry_run = ask.dry_run;
                    let answer = answer.map_err(lost);
                    let _ = self.news.send(News::Answer(ask, answer)).await;
                    if !dry_run {
                        return Ok(());
                    }
                }
                changed = self.settings.changed() => {
                    return changed.map_err(|_| ClientError::StreamEnded);
                }
            }
        }
    }

    /// Lets time go by; asking is answered at once.
    async fn wait(&mut self, time: Duration) {
        let waited = sleep(time);
        tokio::pin!(waited);
        loop {
            tokio::select! {
                () = &mut waited => return,
                Some(ask) = self.asks.recv() => {
                    let _ = self.news.send(News::Answer(ask, Err("no connection to the hub".to_owned()))).await;
                }
            }
        }
    }
}

fn backoff(tries: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(tries)).min(BACKOFF_MAX)
}

/// All of one moment, nearly. Sessions last: a stream opened in between has its session listed.
pub(crate) async fn look(admin: &Admin, status: v1::ServerStatus, ended: bool) -> Result<Look, ClientError> {
    let streams = admin.streams(None).await?;
    let sessions = admin.sessions().await?;
    let ended = if ended { admin.ended(2 * ENDED_KEPT_MAX).await? } else { Vec::new() };
    Ok(Look { status, sessions, streams, ended })
}

/// A hub that does not answer has gone.
async fn heard<T>(
    max: Duration,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match timeout(max, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Transport { why: "the hub does not answer".to_owned() }),
    }
}

/// Why, in a few words.
fn lost(error: ClientError) -> String {
    match error {
        ClientError::Refused { status, details } if details.is_some() => {
            end_text(&StreamEnd::from_status(*status))
        }
        ClientError::Refused { status, .. } => status.message().to_owned(),
        ClientError::Connect { why, .. } | ClientError::Transport { why } => why,
        ClientError::StreamEnded => "the hub ended the watch".to_owned(),
        error @ (ClientError::Endpoint(_) | ClientError::Contract(_)) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_between_attempts_grow_to_a_bound() {
        assert_eq!(backoff(0), Duration::from_millis(250));
        assert_eq!(backoff(3), Duration::from_secs(2));
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
