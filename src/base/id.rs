//! Names of the nodes of the tree. Every key carries what makes it unrepeatable, so that a stale one finds nothing.

use std::fmt;
use std::str::FromStr;

/// One login. `slot` is reused after the session has ended, `incarnation` never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Place in the registry.
    pub slot: u32,
    /// Counts every session of this process, from 1.
    pub incarnation: u64,
}

/// One streaming RPC. `slot` is reused, `number` never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// Place in the registry.
    pub slot: u32,
    /// Counts every stream of this process, from 1.
    pub number: u64,
}

/// One transport, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session/{}.{}", self.slot, self.incarnation)
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream/{}", self.number)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection/{}", self.0)
    }
}

/// The text is not `session/<slot>.<incarnation>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id looks like `session/3.17`")]
pub struct SessionIdError;

/// The text is not `stream/<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream id looks like `stream/42`")]
pub struct StreamIdError;

impl FromStr for SessionKey {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("session/").ok_or(SessionIdError)?;
        let (slot, incarnation) = rest.split_once('.').ok_or(SessionIdError)?;
        let slot = slot.parse().map_err(|_| SessionIdError)?;
        let incarnation = incarnation.parse().map_err(|_| SessionIdError)?;
        let key = Self { slot, incarnation };
        // One spelling each: `parse` would also take a plus sign and leading zeros.
        if key.to_string() == text { Ok(key) } else { Err(SessionIdError) }
    }
}

/// The number in `stream/<number>`; the registry finds the slot.
///
/// # Errors
/// When the text has another form.
pub fn parse_stream_number(text: &str) -> Result<u64, StreamIdError> {
    let number = text.strip_prefix("stream/").and_then(|number| number.parse().ok()).ok_or(StreamIdError)?;
    if format!("stream/{number}") == text { Ok(number) } else { Err(StreamIdError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        let session = SessionKey { slot: 3, incarnation: 17 };
        assert_eq!(session.to_string().parse(), Ok(session));
        let stream = StreamKey { slot: 0, number: 42 };
        assert_eq!(parse_stream_number(&stream.to_string()), Ok(42));
    }

    #[test]
    fn ids_of_another_form_are_refused() {
        for text in ["", "session/", "session/3", "session/x.1", "stream/3", "3.1", "session/3.1 "] {
            assert_eq!(text.parse::<SessionKey>(), Err(SessionIdError), "{text:?}");
        }
        for text in ["session/+3.1", "session/3.+1", "session/03.1", "session/3.01"] {
            assert_eq!(text.parse::<SessionKey>(), Err(SessionIdError), "{text:?}");
        }
        for text in ["", "stream/", "stream/-1", "stream/+1", "stream/01", "session/1.1", "42"] {
            assert_eq!(parse_stream_number(text), Err(StreamIdError), "{text:?}");
        }
    }
}
