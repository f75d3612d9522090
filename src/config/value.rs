//! How values are written: durations, sizes, numbers, and the way back.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::config::keys::{Field, Key};
use crate::config::{AuthMode, Config};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
/// Longest path a Unix socket can have: `sun_path` without its final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A value as it was found.
pub(crate) enum Raw<'a> {
    /// Text in the file.
    Text(&'a str),
    /// An integer in the file; none when negative or beyond 64 bits.
    Integer(Option<u64>),
    /// A boolean in the file.
    Boolean(bool),
    /// Anything, from a variable or a flag: there everything is text.
    Bare(&'a str),
    /// Of no kind any key has: a float, a date, an array, a table.
    Other,
}

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Bare(text) => Some(text),
            Self::Integer(_) | Self::Boolean(_) | Self::Other => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => *number,
            Self::Bare(text) => text.parse().ok(),
            Self::Text(_) | Self::Boolean(_) | Self::Other => None,
        }
    }

    fn switch(&self) -> Option<bool> {
        match self {
            Self::Boolean(on) => Some(*on),
            Self::Bare(text) => text.parse().ok(),
            Self::Text(_) | Self::Integer(_) | Self::Other => None,
        }
    }
}

/// Writes `raw` into the key's field, or changes nothing and gives `None`.
pub(crate) fn assign(key: &Key, config: &mut Config, raw: &Raw<'_>) -> Option<()> {
    let within = |number: u64| (key.least..=key.most).contains(&number).then_some(number);
    match key.field {
        Field::Address(at) => *at(config) = raw.text()?.parse().ok()?,
        Field::OptionalAddress(at) => *at(config) = optional_address(raw.text()?)?,
        Field::Path(at) => *at(config) = socket_path(raw.text()?)?.to_owned(),
        Field::Mode(at) => *at(config) = (raw.text()? == "open").then_some(AuthMode::Open)?,
        Field::Level(at) => *at(config) = raw.text()?.parse().ok()?,
        Field::Switch(at) => *at(config) = raw.switch()?,
        Field::Count(at) => *at(config) = u32::try_from(within(raw.number()?)?).ok()?,
        Field::Percent(at) => *at(config) = u8::try_from(within(raw.number()?)?).ok()?,
        Field::Bytes(at) => *at(config) = usize::try_from(within(bytes(raw)?)?).ok()?,
        Field::Window(at) => *at(config) = u32::try_from(within(bytes(raw)?)?).ok()?,
        Field::Budget(at) => *at(config) = within(bytes(raw)?)?,
        Field::Time(at) => *at(config) = Duration::from_millis(within(duration_ms(raw.text()?)?)?),
    }
    Some(())
}

/// What may be written for a key, as the end of the sentence "write …".
pub(crate) fn expected(key: &Key) -> String {
    let (least, most) = (key.least, key.most);
    match key.field {
        Field::Address(_) => "an address and port such as \"127.0.0.1:50051\" or \"[::]:50051\"".to_owned(),
        Field::OptionalAddress(_) => {
            "an address and port such as \"127.0.0.1:9464\", or \"\" for none".to_owned()
        }
        Field::Path(_) => format!("an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes"),
        Field::Mode(_) => "\"open\"".to_owned(),
        Field::Level(_) => "one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"".to_owned(),
        Field::Switch(_) => "true or false".to_owned(),
        Field::Count(_) | Field::Percent(_) => format!("a whole number from {least} to {most}"),
        Field::Bytes(_) | Field::Window(_) | Field::Budget(_) => format!(
            "a size from {} to {}: bytes as an integer, or text such as \"64KiB\" or \"1MiB\"",
            bytes_text(least),
            bytes_text(most)
        ),
        Field::Time(_) => format!(
            "a duration from {} to {}: text such as \"500ms\", \"90s\", \"10m\" or \"1h\"",
            duration_text(least),
            duration_text(most)
        ),
    }
}

/// The field's value as one would write it, without quotes. Fields are reached by `&mut`, hence the argument.
pub(crate) fn shown(key: &Key, config: &mut Config) -> String {
    match key.field {
        Field::Address(at) => at(config).to_string(),
        Field::OptionalAddress(at) => at(config).map_or_else(String::new, |address| address.to_string()),
        Field::Path(at) => at(config).display().to_string(),
        Field::Mode(at) => match at(config) {
            AuthMode::Open => "open".to_owned(),
        },
        Field::Level(at) => at(config).as_str().to_ascii_lowercase(),
        Field::Switch(at) => at(config).to_string(),
        Field::Count(_) | Field::Percent(_) => measure(key, config).to_string(),
        Field::Bytes(_) | Field::Window(_) | Field::Budget(_) => bytes_text(measure(key, config)),
        Field::Time(_) => duration_text(measure(key, config)),
    }
}

/// The field's value in its base unit: a count, percent, bytes or milliseconds; 0 for what is no quantity.
pub(crate) fn measure(key: &Key, config: &mut Config) -> u64 {
    match key.field {
        Field::Address(_)
        | Field::OptionalAddress(_)
        | Field::Path(_)
        | Field::Mode(_)
        | Field::Level(_)
        | Field::Switch(_) => 0,
        Field::Count(at) | Field::Window(at) => u64::from(*at(config)),
        Field::Percent(at) => u64::from(*at(config)),
        Field::Bytes(at) => u64::try_from(*at(config)).unwrap_or(u64::MAX),
        Field::Budget(at) => *at(config),
        Field::Time(at) => u64::try_from(at(config).as_millis()).unwrap_or(u64::MAX),
    }
}

/// The value as TOML: numbers and booleans bare, everything else in quotes.
pub(crate) fn literal(key: &Key, config: &mut Config) -> String {
    let text = shown(key, config);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_bare = matches!(key.field, Field::Switch(_)) || is_number;
    if is_bare { text } else { quoted(&text) }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

fn optional_address(text: &str) -> Option<Option<SocketAddr>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// The text as a path that a socket can have. U+FFFD stands for bytes that were lost on the way.
pub(crate) fn socket_path(text: &str) -> Option<&Path> {
    let path = Path::new(text);
    let is_usable = path.is_absolute()
        && text.len() <= SOCKET_PATH_BYTES_MAX
        && !text.contains(['\0', char::REPLACEMENT_CHARACTER]);
    is_usable.then_some(path)
}

fn bytes(raw: &Raw<'_>) -> Option<u64> {
    raw.number().or_else(|| scaled(raw.text()?, &[("KiB", KIB), ("MiB", MIB), ("GiB", GIB)]))
}

fn duration_ms(text: &str) -> Option<u64> {
    // "ms" before "s" and "m": the first unit that is a suffix wins.
    scaled(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)])
}

/// Digits followed by one of the units.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    // `u64::from_str` would also take a plus sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn bytes_text(bytes: u64) -> String {
    for (unit, factor) in [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Whole units only, and at least two of a bigger one: one minute reads `60s`.
fn duration_text(milliseconds: u64) -> String {
    for (unit, factor) in [("h", 3_600_000), ("m", 60_000)] {
        if milliseconds >= 2 * factor && milliseconds.is_multiple_of(factor) {
            return format!("{}{unit}", milliseconds / factor);
        }
    }
    if milliseconds.is_multiple_of(1000) {
        format!("{}s", milliseconds / 1000)
    } else {
        format!("{milliseconds}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_whole_number_and_one_unit() {
        for (text, milliseconds) in
            [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration_ms(text), Some(milliseconds), "{text}");
        }
        for text in ["", "90", "s", "-1s", "+1s", "1.5s", "1 s", "1m30s", "90S", "99999999999999999999h"] {
            assert_eq!(duration_ms(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_integers_or_have_a_binary_unit() {
        for (raw, expected) in [
            (Raw::Integer(Some(65536)), Some(65536)),
            (Raw::Bare("65536"), Some(65536)),
            (Raw::Text("64KiB"), Some(64 * KIB)),
            (Raw::Bare("1MiB"), Some(MIB)),
            (Raw::Text("1GiB"), Some(GIB)),
            (Raw::Text("65536"), None),
            (Raw::Text("64KB"), None),
            (Raw::Text("-1KiB"), None),
            (Raw::Integer(None), None),
            (Raw::Boolean(true), None),
            (Raw::Other, None),
        ] {
            assert_eq!(bytes(&raw), expected);
        }
    }

    #[test]
    fn any_path_reads_back_as_written() {
        let key = crate::config::keys::find("server.admin_socket").unwrap().1;
        for path in ["/run/x.sock", "/a \"b\" \\c", "/a\n\t\u{1}\u{7f}\u{85}", "/\u{e4}\u{1f600}'"] {
            let mut config = Config::default();
            assign(key, &mut config, &Raw::Bare(path)).unwrap();
            let line = format!("x = {}", literal(key, &mut config));
            let read = toml::de::DeTable::parse(&line).unwrap();
            assert_eq!(read.get_ref()["x"].get_ref().as_str(), Some(path), "{line}");
        }
    }

    #[test]
    fn values_read_back_as_shown() {
        for milliseconds in [0, 1, 500, 1000, 60_000, 90_000, 120_000, 3_600_000, 7_200_000, 86_400_001] {
            assert_eq!(duration_ms(&duration_text(milliseconds)), Some(milliseconds));
        }
        for size in [0, 1, 1023, 1024, 1025, MIB, 3 * GIB] {
            assert_eq!(bytes(&Raw::Bare(&bytes_text(size))), Some(size));
        }
    }
}
