//! Seeing who holds what on a hub, and ending any part of it. Served on the hub's admin socket only.

use std::path::Path;
use std::time::Duration;

use crate::base::id::{SessionKey, parse_stream_number};
use crate::base::limits::PAGE_SIZE_MAX;
use crate::client::call::{self, Answers, Caller};
use crate::client::connector::{Endpoint, Keepalive, channel};
use crate::client::error::ClientError;
use crate::wire::v1;

/// A connection to a hub's admin socket.
#[derive(Clone, Debug)]
pub struct Admin {
    caller: Caller,
}

/// A page holds at most 1,000 entries; their texts are bounded on the hub's side.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a cancel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelTarget {
    /// `stream/<number>`.
    Stream(String),
    /// `session/<slot>.<incarnation>`.
    Session(String),
}

/// The text names neither a stream nor a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id looks like `stream/42` or `session/3.17`")]
pub struct CancelTargetError;

impl std::str::FromStr for CancelTarget {
    type Err = CancelTargetError;

    fn from_str(text: &str) -> Result<Self, CancelTargetError> {
        if parse_stream_number(text).is_ok() {
            return Ok(Self::Stream(text.to_owned()));
        }
        if text.parse::<SessionKey>().is_ok() {
            return Ok(Self::Session(text.to_owned()));
        }
        Err(CancelTargetError)
    }
}

/// Statuses, one per interval.
#[derive(Debug)]
pub struct StatusStream {
    statuses: Answers,
}

impl StatusStream {
    /// The next status; none when the hub ended the stream with OK.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the reason when the hub ended it otherwise, [`ClientError::Transport`] when the
    /// connection was lost.
    pub async fn next(&mut self) -> Result<Option<v1::ServerStatus>, ClientError> {
        match call::next::<v1::WatchStatusResponse>(&mut self.statuses).await? {
            Some(answer) => {
                Ok(Some(answer.status.ok_or(ClientError::Contract("a status answer without status"))?))
            }
            None => Ok(None),
        }
    }
}

impl Admin {
    /// Connects to the admin socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody listens there or the caller may not.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let channel = channel(&Endpoint::Unix(path.to_owned()), Keepalive::default()).await?;
        Ok(Self { caller: Caller::new(channel, ANSWER_BYTES_MAX) })
    }

    /// The hub's status now.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::Transport`], as for every method here.
    pub async fn status(&self) -> Result<v1::ServerStatus, ClientError> {
        let answer: v1::GetStatusResponse =
            self.caller.unary("/streamward.v1.AdminService/GetStatus", &v1::GetStatusRequest {}).await?;
        answer.status.ok_or(ClientError::Contract("a status answer without status"))
    }

    /// The status now and then once per `interval` (100 ms to 1 h).
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn watch(&self, interval: Duration) -> Result<StatusStream, ClientError> {
        let interval =
            interval.try_into().map_err(|_| ClientError::Contract("an interval beyond 10,000 years"))?;
        let request = v1::WatchStatusRequest { interval: Some(interval) };
        Ok(StatusStream {
            statuses: self.caller.follow("/streamward.v1.AdminService/WatchStatus", &request).await?,
        })
    }

    /// Every live session.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn sessions(&self) -> Result<Vec<v1::SessionInfo>, ClientError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListSessionsRequest { page_size: page_size(PAGE_SIZE_MAX), page_token };
            let page: v1::ListSessionsResponse =
                self.caller.unary("/streamward.v1.AdminService/ListSessions", &request).await?;
            all.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Every live stream, or those of one session.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn streams(&self, session_id: Option<&str>) -> Result<Vec<v1::StreamInfo>, ClientError> {
        let session_id = session_id.unwrap_or_default();
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListStreamsRequest {
                page_size: page_size(PAGE_SIZE_MAX),
                page_token,
                session_id: session_id.to_owned(),
            };
            let page: v1::ListStreamsResponse =
                self.caller.unary("/streamward.v1.AdminService/ListStreams", &request).await?;
            all.extend(page.streams);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The most recent ends, newest first, at most `max` of them.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn ended(&self, max: usize) -> Result<Vec<v1::Ended>, ClientError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        while all.len() < max {
            let request = v1::ListEndedRequest { page_size: page_size(max - all.len()), page_token };
            let page: v1::ListEndedResponse =
                self.caller.unary("/streamward.v1.AdminService/ListEnded", &request).await?;
            all.extend(page.ended);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        all.truncate(max);
        Ok(all)
    }

    /// Ends one stream, or one session with its streams, with `ADMIN_CANCELLED`. The note reaches the client. With
    /// `dry_run` it only counts.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `NOT_FOUND` when there is none of that id.
    pub async fn cancel(
        &self,
        target: &CancelTarget,
        note: &str,
        dry_run: bool,
    ) -> Result<v1::CancelResponse, ClientError> {
        let (path, id) = match target {
            CancelTarget::Stream(id) => ("/streamward.v1.AdminService/CancelStream", id),
            CancelTarget::Session(id) => ("/streamward.v1.AdminService/CancelSession", id),
        };
        let request = v1::CancelRequest { id: id.clone(), note: note.to_owned(), dry_run };
        Ok(self.caller.unary(path, &request).await?)
    }

    /// Who would end if memory were short now, in order.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn plan_shed(&self) -> Result<v1::PlanShedResponse, ClientError> {
        Ok(self.caller.unary("/streamward.v1.AdminService/PlanShed", &v1::PlanShedRequest {}).await?)
    }

    /// Starts the same phased stop as SIGTERM, and returns at once.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn drain(&self, note: &str) -> Result<v1::DrainResponse, ClientError> {
        Ok(self
            .caller
            .unary("/streamward.v1.AdminService/Drain", &v1::DrainRequest { note: note.to_owned() })
            .await?)
    }
}

fn page_size(wanted: usize) -> i32 {
    i32::try_from(wanted.min(PAGE_SIZE_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_takes_stream_and_session_ids_only() {
        assert_eq!("stream/42".parse(), Ok(CancelTarget::Stream("stream/42".to_owned())));
        assert_eq!("session/3.17".parse(), Ok(CancelTarget::Session("session/3.17".to_owned())));
        for text in ["", "42", "stream/", "session/3", "connection/1"] {
            assert_eq!(text.parse::<CancelTarget>(), Err(CancelTargetError), "{text:?}");
        }
    }
}
