//! gRPC's five-byte framing and the few protobuf fields the load looks at, read in place.

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

use crate::load::error::LoadError;
use crate::load::message::Item;

const PREFIX_BYTES: usize = 5;
const LONG: LoadError = LoadError::Malformed("a message too long for its length prefix");

/// Prefixes an encoded message as gRPC wants it, uncompressed.
pub fn framed(message: &[u8]) -> Result<Vec<u8>, LoadError> {
    let length = u32::try_from(message.len()).map_err(|_| LONG)?.to_be_bytes();
    Ok([&[0], &length[..], message].concat())
}

/// Cuts a body that arrives in arbitrary chunks into messages.
#[derive(Default)]
pub struct Deframer {
    pending: Vec<u8>,
}

impl Deframer {
    /// Hands every message that is now whole to `each`.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        if self.pending.is_empty() {
            let used = split(chunk, each)?;
            self.pending.extend_from_slice(&chunk[used..]);
        } else {
            self.pending.extend_from_slice(chunk);
            let used = split(&self.pending, each)?;
            self.pending.drain(..used);
        }
        Ok(())
    }
}

/// Hands the whole messages at the front of `bytes` to `each` and returns how many bytes they took.
fn split(bytes: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), LoadError>) -> Result<usize, LoadError> {
    let mut at = 0;
    while let Some([flag, length @ ..]) = bytes[at..].first_chunk::<PREFIX_BYTES>() {
        if *flag != 0 {
            return Err(LoadError::Malformed("a compressed gRPC message"));
        }
        let start = at + PREFIX_BYTES;
        let end = start + usize::try_from(u32::from_be_bytes(*length)).map_err(|_| LONG)?;
        let Some(message) = bytes.get(start..end) else { break };
        each(message)?;
        at = end;
    }
    Ok(at)
}

/// Hands what a `ServerFrame` says to `sink`. A gap, a refusal or a drain is an error: it makes the measurement void.
pub fn server_frame(
    frame: &[u8],
    sink: &mut impl FnMut(Item<'_>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    fields(frame, &mut |number, value| match number {
        1 => sink(Item::Payload(field(value, 5)?.unwrap_or_default())),
        2 => field(value, 3)?.map_or_else(|| sink(Item::Receipt), |error| Err(refused(error))),
        3 => Err(LoadError::Gap),
        4 if field(value, 1)?.is_some() => sink(Item::Ready),
        4 if field(value, 2)?.is_some() => Err(LoadError::Void("the server is draining".to_owned())),
        4 if field(value, 5)?.is_some() => Err(LoadError::Void("the subscription was refused".to_owned())),
        _ => Ok(()),
    })
}

/// A refused publish, as the client library tells it.
fn refused(error: &[u8]) -> LoadError {
    match tonic_types::pb::Status::decode(error) {
        Ok(status) => {
            let details = Bytes::copy_from_slice(error);
            LoadError::Refused(Status::with_details(Code::from(status.code), status.message, details).into())
        }
        Err(_) => LoadError::Malformed("a receipt with an error of another kind"),
    }
}

/// The length-delimited field with this number, if the message has it.
fn field(message: &[u8], wanted: u64) -> Result<Option<&[u8]>, LoadError> {
    let mut rest = message;
    while !rest.is_empty() {
        let (number, value) = next_field(&mut rest)?;
        if number == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn fields(
    message: &[u8],
    each: &mut impl FnMut(u64, &[u8]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut rest = message;
    while !rest.is_empty() {
        let (number, value) = next_field(&mut rest)?;
        each(number, value)?;
    }
    Ok(())
}

/// The number of the first field and its bytes; empty for a varint. Moves `rest` behind it.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, &'a [u8]), LoadError> {
    let tag = varint(rest)?;
    let bytes = match tag & 7 {
        0 => {
            varint(rest)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).map_err(|_| LONG)?,
        5 => 4,
        _ => return Err(LoadError::Malformed("a protobuf field of an unknown wire type")),
    };
    let (value, behind) =
        rest.split_at_checked(bytes).ok_or(LoadError::Malformed("a protobuf field cut short"))?;
    *rest = behind;
    Ok((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, LoadError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(LoadError::Malformed("a varint cut short"))?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(LoadError::Malformed("a varint of more than ten bytes"))
}
