//! What can go wrong under load.

use std::io;

use crate::client::ClientError;

/// Why a measurement failed. What it would have said is void.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection could not be made, or broke.
    #[error("the connection: {0}")]
    Socket(#[from] io::Error),
    /// The connection broke, or the server broke HTTP/2's rules.
    #[error("the connection: {0}")]
    Http2(#[from] h2::Error),
    /// The server closed a connection that was in use.
    #[error("the connection: closed by the server")]
    Closed,
    /// The server answered, and the answer is no.
    #[error("{0}")]
    Refused(#[from] ClientError),
    /// The server told that events are lost.
    #[error("the server told a gap")]
    Gap,
    /// A message was lost, doubled, spoiled or out of order, or nothing moved any more.
    #[error("{0}")]
    Void(String),
    /// Bytes that no server of this contract sends.
    #[error("the server's bytes cannot be read: {0}")]
    Malformed(&'static str),
}
