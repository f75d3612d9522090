//! What can go wrong for a client, so that a program can branch on it.

use std::error::Error;
use std::io;

use tonic::{Code, Status};

use crate::base::reason::EndReason;
use crate::wire::ended::{EndDetails, end_details};

/// Why a call of the client library failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The text is no address of a hub.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No connection to the hub could be made; trying again later may work.
    #[error("cannot reach the hub at {endpoint}: {why}")]
    Connect {
        /// The endpoint as text.
        endpoint: String,
        /// The innermost cause, as text.
        why: String,
        /// Set when the operating system said why.
        kind: Option<io::ErrorKind>,
    },
    /// The hub answered, and the answer is no.
    #[error("{}", .status.message())]
    Refused {
        /// The hub's answer.
        status: Box<Status>,
        /// What the answer says about why; unset for plain gRPC errors.
        details: Option<Box<EndDetails>>,
    },
    /// The connection broke during the call; whether the hub obeyed is unknown.
    #[error("the connection to the hub broke during the call: {why}")]
    Transport {
        /// The innermost cause, as text.
        why: String,
    },
    /// The stream's sending half is over, because the stream ended. Read on to learn why.
    #[error("the stream has ended; read it to its end to learn why")]
    StreamEnded,
    /// The hub's answer lacks what the contract promises.
    #[error("the hub's answer breaks the contract: {0}")]
    Contract(&'static str),
}

/// Why a text is no address of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing there.
    #[error("an address is needed: `host:port`, `http://host:port` or `unix:/path`")]
    Empty,
    /// `https://…`.
    #[error("TLS is not supported: write `http://host:port` or `unix:/path`")]
    Tls,
    /// A scheme other than `http` and `unix`.
    #[error("unknown kind of address: write `host:port`, `http://host:port` or `unix:/path`")]
    Scheme,
    /// A host without a port.
    #[error("the address has no port: write `host:port`, for example `127.0.0.1:50051`")]
    NoPort,
    /// Not a host and a port number.
    #[error("not an address: write `host:port`, `[ipv6]:port` or `unix:/path`")]
    Host,
    /// `unix:` without an absolute path.
    #[error("a Unix socket needs an absolute path: `unix:/path`")]
    UnixPath,
}

impl ClientError {
    /// The end reason the hub gave, if it gave one.
    #[must_use]
    pub fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Refused { details, .. } => details.as_ref().map(|details| details.reason),
            Self::Endpoint(_)
            | Self::Connect { .. }
            | Self::Transport { .. }
            | Self::StreamEnded
            | Self::Contract(_) => None,
        }
    }
}

impl From<Status> for ClientError {
    /// A status the server sent is a refusal; one made up on this side of the wire is a transport error.
    fn from(status: Status) -> Self {
        if let Some(reset) = stream_reset(&status) {
            return Self::Refused { status: Box::new(status_of_reset(reset)), details: None };
        }
        if is_made_here(&status) {
            return Self::Transport { why: innermost(&status) };
        }
        let details = end_details(&status).map(Box::new);
        Self::Refused { status: Box::new(status), details }
    }
}

/// Whether the status was made on this side because the connection or the stream broke.
///
/// tonic gives such a status its cause as source; one read from the wire has none.
pub(crate) fn is_made_here(status: &Status) -> bool {
    status.source().is_some()
}

/// Why the server reset this one stream, if it did; then the connection may be well.
pub(crate) fn stream_reset(status: &Status) -> Option<h2::Reason> {
    sources(status)
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .find(|error| error.is_reset())?
        .reason()
}

/// A reset as gRPC reads it (PROTOCOL-HTTP2.md, "Errors"); tonic's client does not.
pub(crate) fn status_of_reset(reason: h2::Reason) -> Status {
    let code = match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    };
    Status::new(code, format!("the hub reset the stream without a status: {reason:?}"))
}

/// The innermost cause's text: what the operating system or HTTP/2 said.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    // An io::Error that wraps another names it as source; its own text is the clearer one.
    let io = sources(error).find_map(|error| error.downcast_ref::<io::Error>());
    match io {
        Some(io) => plain_io(io),
        None => sources(error).last().map_or_else(|| error.to_string(), ToString::to_string),
    }
}

/// The first operating system error in the chain.
pub(crate) fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    sources(error).find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn plain_io(error: &io::Error) -> String {
    // "Connection refused (os error 111)" → "connection refused".
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, Some(_)) => "no such file".to_owned(),
        (kind, Some(_)) => kind.to_string(),
        (_, None) => error.to_string(),
    }
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_status_from_the_wire_is_a_refusal_and_one_made_here_is_transport() {
        let refused = ClientError::from(Status::permission_denied("not yours"));
        assert!(matches!(&refused, ClientError::Refused { details: None, .. }));
        assert_eq!(refused.to_string(), "not yours");

        let mut broken = Status::unknown("transport error");
        broken.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let broken = ClientError::from(broken);
        assert!(matches!(&broken, ClientError::Transport { why } if why == "connection reset"), "{broken}");
    }

    #[test]
    fn the_operating_systems_word_is_found_in_the_chain() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(innermost(&refused), "connection refused");
        assert_eq!(io_kind(&refused), Some(io::ErrorKind::ConnectionRefused));
        assert_eq!(io_kind(&Status::internal("x")), None);
    }
}
