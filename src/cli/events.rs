//! Events, gaps and notices as lines and as JSON, the same for every command that follows topics.

use std::str;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::exit::Failure;
use crate::cli::output::{Output, Paint};
use crate::cli::text::{base64, clean, show_duration, show_payload, show_time};
use crate::client::Item;
use crate::wire::v1;

/// `time topic #sequence sender: payload`.
pub(crate) fn event_line(event: &v1::Event, paint: Paint) -> String {
    format!(
        "{} {} {} {}: {}",
        paint.dim(&show_time(event.published_at.as_ref())),
        paint.cyan(&clean(&event.topic)),
        paint.dim(&format!("#{}", event.sequence)),
        paint.bold(&clean(&event.sender)),
        show_payload(&event.payload),
    )
}

/// The event with `payload` when it is UTF-8, else with `payload_base64`.
pub(crate) fn event_json(event: &v1::Event) -> Value {
    let mut value = json!({
        "topic": event.topic,
        "sequence": event.sequence,
        "sender": event.sender,
        "published_at": show_time(event.published_at.as_ref()),
        "message_id": event.message_id,
        "content_type": event.content_type,
    });
    match str::from_utf8(&event.payload) {
        Ok(text) => value["payload"] = text.into(),
        Err(_) => value["payload_base64"] = base64(&event.payload).into(),
    }
    value
}

/// What the item says beside events, for a person; none where there is nothing to say.
pub(crate) fn notice_line(item: &Item) -> Option<String> {
    match item {
        Item::Gap(gap) => Some(gap_line(gap)),
        Item::Draining { retry_after } => Some(draining_line(*retry_after)),
        Item::DeadlineNear { remaining } => {
            Some(format!("the stream's deadline is in {}", show_duration(*remaining)))
        }
        Item::Refused { topic, status } => {
            Some(format!("{}: refused: {}", clean(topic), clean(status.message())))
        }
        // One that could not be recovered comes with a gap, which says more.
        Item::Event(_) | Item::Receipt(_) | Item::Subscribed(_) | Item::HeartbeatAck { .. } => None,
    }
}

fn draining_line(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(after) => format!("the hub is stopping; come back in {}", show_duration(after)),
        None => "the hub is stopping".to_owned(),
    }
}

fn gap_line(gap: &v1::Gap) -> String {
    let topic = clean(&gap.topic);
    let why = match v1::GapReason::try_from(gap.reason) {
        Ok(v1::GapReason::EpochChanged) => "the position is not one of the hub's present epoch",
        Ok(v1::GapReason::TailGone) => "the hub no longer keeps them",
        Ok(v1::GapReason::LagSkipped) => "this reader fell behind",
        Ok(v1::GapReason::Unspecified) | Err(_) => "the hub does not say why",
    };
    if gap.to_sequence < gap.from_sequence {
        return format!("{topic}: {why}; nothing of this epoch is missing");
    }
    format!("{topic}: gap: events from #{} to #{} were lost: {why}", gap.from_sequence, gap.to_sequence)
}

/// Gaps as `{"gap":{…}}`, all else as `{"notice":{"kind":…}}`; none for events and receipts.
pub(crate) fn notice_json(item: &Item) -> Option<Value> {
    match item {
        Item::Gap(gap) => Some(json!({"gap": {
            "topic": gap.topic,
            "from_sequence": gap.from_sequence,
            "to_sequence": gap.to_sequence,
            "reason": v1::GapReason::try_from(gap.reason).unwrap_or_default().as_str_name(),
        }})),
        Item::Subscribed(subscribed) => Some(json!({"notice": {
            "kind": "subscribed",
            "topic": subscribed.topic,
            "epoch": subscribed.position.as_ref().map(|position| &position.epoch),
            "sequence": subscribed.position.as_ref().map(|position| position.sequence),
            "recovered": subscribed.recovered,
        }})),
        Item::Draining { retry_after } => Some(json!({"notice": {
            "kind": "draining",
            "retry_after_s": retry_after.map(|after| after.as_secs_f64()),
        }})),
        Item::DeadlineNear { remaining } => {
            Some(json!({"notice": {"kind": "deadline_near", "remaining_s": remaining.as_secs_f64()}}))
        }
        Item::Refused { topic, status } => Some(json!({"notice": {
            "kind": "refused",
            "topic": topic,
            "code": format!("{:?}", status.code()),
            "message": status.message(),
        }})),
        Item::Event(_) | Item::Receipt(_) | Item::HeartbeatAck { .. } => None,
    }
}

/// Prints what the item says beside events: JSON lines among the results, or text on stderr.
pub(crate) fn tell_notice(item: &Item, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        if let Some(value) = notice_json(item) {
            output.json(&value)?;
        }
    } else if let Some(line) = notice_line(item) {
        output.notice(&line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    fn event(payload: &'static [u8]) -> v1::Event {
        v1::Event {
            topic: "room/a".to_owned(),
            sequence: 7,
            sender: "alice".to_owned(),
            published_at: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 }),
            payload: payload.into(),
            message_id: "m1".to_owned(),
            content_type: String::new(),
        }
    }

    fn gap(from_sequence: u64, to_sequence: u64) -> Item {
        Item::Gap(v1::Gap { topic: "room/a".to_owned(), from_sequence, to_sequence, reason: 3 })
    }

    #[test]
    fn one_event_is_one_line_whatever_its_payload() {
        let (output, _, _) = captured(false);
        let line = event_line(&event(b"two\nlines\x1b[2J"), output.paint);
        assert_eq!(line, "2026-01-01T00:00:00.000Z room/a #7 alice: two\\nlines\\u{1b}[2J");
        assert!(event_line(&event(b"\xff"), output.paint).ends_with("alice: hex:ff"));
    }

    #[test]
    fn json_holds_the_payload_exactly() {
        let text = event_json(&event(b"two\nlines"));
        assert_eq!(text["payload"], "two\nlines");
        assert_eq!(text["sequence"], 7);
        assert_eq!(text.get("payload_base64"), None);
        let bytes = event_json(&event(b"\xff\x00"));
        assert_eq!(bytes["payload_base64"], "/wA=");
        assert_eq!(bytes.get("payload"), None);
    }

    #[test]
    fn a_gap_is_told_with_range_and_reason() {
        let (mut output, out, err) = captured(false);
        tell_notice(&gap(5, 9), &mut output).unwrap();
        assert_eq!(out.text(), "");
        assert_eq!(err.text(), "-- room/a: gap: events from #5 to #9 were lost: this reader fell behind\n");

        let (mut output, out, err) = captured(true);
        tell_notice(&gap(5, 9), &mut output).unwrap();
        let value: Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(value["gap"]["reason"], "LAG_SKIPPED");
        assert_eq!(err.text(), "");
    }

    #[test]
    fn an_empty_gap_names_no_range() {
        assert!(notice_line(&gap(1, 0)).unwrap().contains("nothing of this epoch"));
    }
}
