//! Ids as a client or an administrator sends them: what is read is written the same way.

use crate::base::id::{SessionKey, StreamKey, parse_stream_number};

/// The bytes as an id of each kind.
pub fn ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(session) = text.parse::<SessionKey>() {
        assert_eq!(session.to_string(), text);
    }
    if let Ok(number) = parse_stream_number(&text) {
        assert_eq!(StreamKey { slot: 0, number }.to_string(), text);
    }
}
