//! `grpc-timeout` against its rule, written down a second time.

use crate::wire::timeout::{TimeoutError, parse_timeout};

/// The bytes as the header's value.
pub fn timeout(data: &[u8]) {
    let read = parse_timeout(data).map(|timeout| timeout.as_nanos());
    assert_eq!(read, naive(data).ok_or(TimeoutError), "{}", data.escape_ascii());
}

/// 1 to 8 digits and a unit, in nanoseconds.
fn naive(data: &[u8]) -> Option<u128> {
    let text = str::from_utf8(data).ok()?;
    let units = [
        ("H", 3_600_000_000_000),
        ("M", 60_000_000_000),
        ("S", 1_000_000_000),
        ("m", 1_000_000),
        ("u", 1000),
        ("n", 1),
    ];
    let (digits, nanos) = units.iter().find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, *nanos)))?;
    let is_number = (1..=8).contains(&digits.len()) && digits.chars().all(|char| "0123456789".contains(char));
    is_number.then(|| digits.parse::<u128>().map(|number| number * nanos).ok())?
}
