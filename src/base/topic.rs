//! Topic names: `room/<name>` for all, `user/<name>` is that user's inbox.

use std::fmt;
use std::sync::Arc;

use crate::base::limits::TOPIC_BYTES_MAX;

/// A checked topic name; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why a text is not a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No bytes at all.
    #[error("a topic must not be empty; write `room/<name>` or `user/<name>`")]
    Empty,
    /// More than [`TOPIC_BYTES_MAX`] bytes.
    #[error("a topic has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A `//`, or a `/` at either end.
    #[error("a topic has no empty segment: drop the extra `/`")]
    EmptySegment,
    /// A byte outside `[A-Za-z0-9._-]` and `/`.
    #[error("a topic is made of letters, digits, `.`, `_`, `-` and `/`; byte {0} is none of them")]
    Character(usize),
    /// The first segment is neither `room` nor `user`.
    #[error("a topic starts with `room/` or `user/`")]
    Kind,
    /// `room` or `user` alone.
    #[error("a topic needs a name after `room/` or `user/`")]
    NoName,
    /// `user/<name>/…`.
    #[error("an inbox is `user/<name>` with nothing after the name")]
    InboxDepth,
}

impl Topic {
    /// Checks a name (DESIGN: 1 to 255 bytes, segments of `[A-Za-z0-9._-]+`, first one `room` or `user`).
    ///
    /// # Errors
    /// The first rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong(text.len()));
        }
        if let Some(at) = text.bytes().position(|byte| !is_name_byte(byte) && byte != b'/') {
            return Err(TopicError::Character(at + 1));
        }
        if text.split('/').any(str::is_empty) {
            return Err(TopicError::EmptySegment);
        }
        match text.split_once('/') {
            Some(("room", _)) => Ok(Self(text.into())),
            Some(("user", name)) if name.contains('/') => Err(TopicError::InboxDepth),
            Some(("user", _)) => Ok(Self(text.into())),
            None if text == "room" || text == "user" => Err(TopicError::NoName),
            Some(_) | None => Err(TopicError::Kind),
        }
    }

    /// The name as published.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose inbox this is, if it is one.
    #[must_use]
    pub fn inbox_of(&self) -> Option<&str> {
        self.0.strip_prefix("user/")
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes allowed in topic segments and user names.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_and_inboxes_are_topics() {
        for text in ["room/a", "room/a/b.c_d-9", "user/alice"] {
            assert_eq!(Topic::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(Topic::parse("user/alice").unwrap().inbox_of(), Some("alice"));
        assert_eq!(Topic::parse("room/alice").unwrap().inbox_of(), None);
        assert!(Topic::parse(&format!("room/{}", "a".repeat(250))).is_ok());
    }

    #[test]
    fn every_other_form_is_refused_by_its_rule() {
        for (text, error) in [
            ("", TopicError::Empty),
            ("room", TopicError::NoName),
            ("user", TopicError::NoName),
            ("room/", TopicError::EmptySegment),
            ("/room/a", TopicError::EmptySegment),
            ("room//a", TopicError::EmptySegment),
            ("room/a b", TopicError::Character(7)),
            ("room/ä", TopicError::Character(6)),
            ("room/*", TopicError::Character(6)),
            ("hall/a", TopicError::Kind),
            ("a", TopicError::Kind),
            ("user/a/b", TopicError::InboxDepth),
        ] {
            assert_eq!(Topic::parse(text), Err(error), "{text:?}");
        }
        let long = format!("room/{}", "a".repeat(251));
        assert_eq!(Topic::parse(&long), Err(TopicError::TooLong(256)));
    }
}
