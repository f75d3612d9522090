//! Topic names against their rule, written down a second time.

use crate::base::limits::TOPIC_BYTES_MAX;
use crate::base::topic::{Topic, TopicError};

/// The bytes as a topic.
pub fn topic(data: &[u8]) {
    check(&String::from_utf8_lossy(data));
}

pub(super) fn check(text: &str) {
    match Topic::parse(text) {
        Ok(topic) => {
            assert!(is_topic(text), "{text:?} was accepted");
            assert_eq!((topic.as_str(), topic.to_string().as_str()), (text, text));
            assert_eq!(topic.inbox_of().map(|user| format!("user/{user}")).is_some(), text.starts_with('u'));
            assert!(topic.inbox_of().is_none_or(|user| text == format!("user/{user}")));
        }
        Err(error) => {
            assert!(!is_topic(text), "{text:?} was refused: {error}");
            assert!(is_true(error, text), "{text:?} was refused for another rule: {error}");
        }
    }
}

/// 1 to 255 bytes; segments of `[A-Za-z0-9._-]+` between slashes; `room` and at least one more, or `user` and one.
fn is_topic(text: &str) -> bool {
    let segments: Vec<&str> = text.split('/').collect();
    let is_kind = match segments[0] {
        "room" => segments.len() >= 2,
        "user" => segments.len() == 2,
        _ => false,
    };
    let is_name = |segment: &&str| !segment.is_empty() && segment.chars().all(is_name_char);
    (1..=255).contains(&text.len()) && is_kind && segments.iter().all(is_name)
}

fn is_name_char(char: char) -> bool {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-".contains(char)
}

/// Whether the text breaks the rule that the error names.
fn is_true(error: TopicError, text: &str) -> bool {
    match error {
        TopicError::Empty => text.is_empty(),
        TopicError::TooLong(bytes) => bytes == text.len() && bytes > TOPIC_BYTES_MAX,
        TopicError::EmptySegment => format!("/{text}/").contains("//"),
        TopicError::Character(at) => {
            let first = text.char_indices().find(|(_, char)| !is_name_char(*char) && *char != '/');
            first.is_some_and(|(found, _)| found + 1 == at)
        }
        TopicError::Kind => !text.starts_with("room/") && !text.starts_with("user/"),
        TopicError::NoName => text == "room" || text == "user",
        TopicError::InboxDepth => text.starts_with("user/") && text.matches('/').count() > 1,
    }
}
