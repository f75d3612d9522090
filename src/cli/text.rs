//! How values read on a terminal and in JSON: foreign text made harmless, times, sizes, aligned tables.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use prost_types::Timestamp;

/// Text that came from others, with everything that could steer a terminal or hide a line break made visible.
///
/// Used for pipes too: what is piped often ends on a terminal, and one event stays one line. `--json` is lossless.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => cleaned.push_str("\\n"),
            '\r' => cleaned.push_str("\\r"),
            c if steers(c) => cleaned.extend(c.escape_unicode()),
            c => cleaned.push(c),
        }
    }
    Cow::Owned(cleaned)
}

/// Control characters but the tab, line separators, and those that turn the direction of the text around them.
fn steers(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON text as serde writes it, with the characters it leaves raw but a terminal would obey escaped. They stand only
/// inside strings, where `\u` is allowed.
pub(crate) fn clean_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(steers) {
        return Cow::Borrowed(json);
    }
    let mut cleaned = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if steers(c) {
            // All of them lie below U+10000: one unit each.
            let _ = write!(cleaned, "\\u{:04x}", u32::from(c));
        } else {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

/// A payload for a person: its text when it is UTF-8, else `hex:` and its bytes.
pub(crate) fn show_payload(payload: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(payload) {
        return clean(text);
    }
    let mut hex = String::with_capacity(4 + 2 * payload.len());
    hex.push_str("hex:");
    for byte in payload {
        let _ = write!(hex, "{byte:02x}");
    }
    Cow::Owned(hex)
}

/// Standard base64 with padding (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit > chunk.len() {
                text.push('=');
            } else {
                let index = (bits >> (18 - 6 * digit)) & 63;
                text.push(char::from(DIGITS[index as usize]));
            }
        }
    }
    text
}

/// RFC 3339 in UTC with milliseconds; empty when unset.
pub(crate) fn show_time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let whole = Timestamp { seconds: time.seconds, nanos: 0 }.to_string();
    let millis = time.nanos.clamp(0, 999_999_999) / 1_000_000;
    format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
}

/// A protobuf duration as one of ours; zero when unset or negative.
pub(crate) fn duration_of(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

/// `850ms`, `5.5s`, `3m12s`, `2h05m`, `4d03h`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let tenths = duration.subsec_millis() / 100;
    match seconds {
        0 => format!("{}ms", duration.subsec_millis()),
        1..10 if tenths > 0 => format!("{seconds}.{tenths}s"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        86400.. => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// The text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit: `500ms`, `90s`, `10m`, `2h` or `1d`")]
pub(crate) struct DurationError;

/// Reads `500ms`, `90s`, `10m`, `2h`, `1d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 86400 * 1000,
        _ => return Err(DurationError),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or(DurationError)
}

/// `512 B`, `1.5 KiB`, `32 MiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "";
    for next in UNITS {
        if tenths < 10240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    if tenths.is_multiple_of(10) || tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// `1 stream`, `2 streams`.
pub(crate) fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Rows under a header, columns aligned; every cell is made harmless. Empty rows: the header alone.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            let _ = write!(line, "{cell:width$}  ");
        }
        line.truncate(line.trim_end().len());
        line
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(AsRef::as_ref))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal_or_break_the_line() {
        assert_eq!(clean("plain ünï 👋\ttab"), "plain ünï 👋\ttab");
        assert_eq!(clean("a\x1b[31mb\nc\rd\x07"), "a\\u{1b}[31mb\\nc\\rd\\u{7}");
        assert_eq!(clean("\u{9b}31m\u{7f}\u{202e}x\u{2028}"), "\\u{9b}31m\\u{7f}\\u{202e}x\\u{2028}");
    }

    #[test]
    fn json_stays_the_same_value_without_raw_controls() {
        let value = serde_json::json!({"a": "\u{9b}31m\u{202e}\u{7f}\n\x1b"});
        let text = value.to_string();
        let cleaned = clean_json(&text);
        assert!(!cleaned.chars().any(steers), "{cleaned}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
    }

    #[test]
    fn payloads_show_as_text_or_hex() {
        assert_eq!(show_payload("grüß".as_bytes()), "grüß");
        assert_eq!(show_payload(b"\xff\x00a"), "hex:ff0061");
    }

    #[test]
    fn base64_matches_the_rfcs_vectors() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let time = Timestamp { seconds: 1_767_225_600, nanos: 7_900_000 };
        assert_eq!(show_time(Some(&time)), "2026-01-01T00:00:00.007Z");
        assert_eq!(show_time(None), "");
    }

    #[test]
    fn durations_read_short() {
        for (ms, text) in [
            (0, "0ms"),
            (850, "850ms"),
            (5_500, "5.5s"),
            (5_000, "5s"),
            (59_900, "59s"),
            (192_000, "3m12s"),
            (7_500_000, "2h05m"),
            (356_400_000, "4d03h"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_secs(86400)));
        for text in
            ["", "5", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d", "1 s"]
        {
            assert_eq!(parse_duration(text), Err(DurationError), "{text:?}");
        }
    }

    #[test]
    fn sizes_read_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (33_554_432, "32 MiB"),
            (150_000, "146 KiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(show_bytes(bytes), text);
        }
    }

    #[test]
    fn tables_align_and_are_harmless() {
        let rows =
            vec![vec!["a\x1b".to_owned(), String::new()], vec!["long name".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), ["NAME       N", "a\\u{1b}    -", "long name  x"]);
    }
}
