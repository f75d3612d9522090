//! `grpc.reflection.v1.ServerReflection`: the contract for tools that have no proto files.
//!
//! Ours rather than tonic-reflection's service: that decodes every descriptor, for each call, in a task that nobody
//! owns. Here the encoded descriptors are searched as they are; they are 20 KB.

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use http::Request;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;
use tonic_reflection::pb::v1;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::base::limits::UNARY_BYTES_MAX;
use crate::server::ask::{Answer, answer_with, refused};
use crate::server::publish::next_message;
use crate::wire::DESCRIPTORS;
use crate::wire::codec::Deframer;

/// Encoded `FileDescriptorSet`s. What two of them have, the first one tells.
const SETS: [&[u8]; 3] = [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, v1::FILE_DESCRIPTOR_SET];

/// Answers question after question until the client has no more, or asks for what there is not.
pub(super) fn serve(request: Request<h2::RecvStream>) -> Answer {
    let state = Some((Deframer::new(UNARY_BYTES_MAX), request.into_body()));
    let answers = unfold(state, |state| async move {
        let (mut deframer, mut body) = state?;
        let answered = match next_message(&mut deframer, &mut body, &refused).await {
            Ok(message) => answer(message?),
            Err(status) => Err(*status),
        };
        let rest = answered.is_ok().then_some((deframer, body));
        Some((answered, rest))
    });
    answer_with(answers.boxed())
}

fn answer(question: Bytes) -> Result<Bytes, Status> {
    let question = v1::ServerReflectionRequest::decode(question)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let file = |file: &[u8]| {
        MessageResponse::FileDescriptorResponse(v1::FileDescriptorResponse {
            file_descriptor_proto: vec![file.to_vec()],
        })
    };
    let message = match &question.message_request {
        None => return Err(Status::invalid_argument("a question that asks for nothing")),
        Some(MessageRequest::FileByFilename(name)) => {
            file_named(name).map(file).ok_or_else(|| Status::not_found(format!("file '{name}' not found")))?
        }
        Some(MessageRequest::FileContainingSymbol(symbol)) => file_with(symbol)
            .map(file)
            .ok_or_else(|| Status::not_found(format!("symbol '{symbol}' not found")))?,
        Some(MessageRequest::FileContainingExtension(_)) => {
            return Err(Status::not_found("there are no extensions"));
        }
        // Not refused: grpcurl asks for them.
        Some(MessageRequest::AllExtensionNumbersOfType(_)) => {
            MessageResponse::AllExtensionNumbersResponse(v1::ExtensionNumberResponse::default())
        }
        Some(MessageRequest::ListServices(_)) => {
            let service = services().into_iter().map(|name| v1::ServiceResponse { name }).collect();
            MessageResponse::ListServicesResponse(v1::ListServiceResponse { service })
        }
    };
    let answer = v1::ServerReflectionResponse {
        valid_host: question.host.clone(),
        original_request: Some(question),
        message_response: Some(message),
    };
    Ok(answer.encode_to_vec().into())
}

/// What a descriptor is of, as far as names go (google/protobuf/descriptor.proto).
#[derive(Clone, Copy, Debug)]
enum Kind {
    File,
    Message,
    Enum,
    Service,
    /// A field, a oneof, a value, a method: has a name and nothing below it.
    Leaf,
}

impl Kind {
    /// What the field of this number in a descriptor of this kind describes; `None` when it is no descriptor with a
    /// name of its own.
    fn below(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::File, 4) | (Self::Message, 3) => Some(Self::Message),
            (Self::File, 5) | (Self::Message, 4) => Some(Self::Enum),
            (Self::File, 6) => Some(Self::Service),
            (Self::Message, 2 | 8) | (Self::Enum | Self::Service, 2) => Some(Self::Leaf),
            _ => None,
        }
    }
}

/// A descriptor's name, and a set's files.
const FIRST: u32 = 1;
/// A file's package.
const PACKAGE: u32 = 2;

fn files() -> impl Iterator<Item = &'static [u8]> {
    SETS.into_iter().flat_map(|set| fields(set).filter(|(field, _)| *field == FIRST).map(|(_, file)| file))
}

fn file_named(name: &str) -> Option<&'static [u8]> {
    files().find(|file| text(file, FIRST) == name)
}

fn file_with(symbol: &str) -> Option<&'static [u8]> {
    files().find(|file| {
        let package = text(file, PACKAGE);
        let rest = match symbol.strip_prefix(package) {
            Some(rest) if !package.is_empty() => rest.strip_prefix('.'),
            rest => rest,
        };
        rest.is_some_and(|rest| has(Kind::File, file, rest))
    })
}

/// Whether this descriptor has that name below it.
fn has(kind: Kind, descriptor: &[u8], name: &str) -> bool {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    fields(descriptor).any(|(field, below)| {
        kind.below(field)
            .is_some_and(|kind| text(below, FIRST) == first && rest.is_none_or(|rest| has(kind, below, rest)))
    })
}

fn services() -> Vec<String> {
    let mut names = Vec::new();
    for file in files() {
        for (_, service) in
            fields(file).filter(|(field, _)| matches!(Kind::File.below(*field), Some(Kind::Service)))
        {
            let name = format!("{}.{}", text(file, PACKAGE), text(service, FIRST));
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn text(descriptor: &[u8], number: u32) -> &str {
    let found = fields(descriptor).find(|(field, _)| *field == number);
    found.and_then(|(_, text)| std::str::from_utf8(text).ok()).unwrap_or_default()
}

/// The fields of an encoded message that are texts, bytes or messages, with their numbers; up to the first that is
/// broken.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        while message.has_remaining() {
            let (field, kind) = decode_key(&mut message).ok()?;
            let bytes = match kind {
                WireType::Varint => decode_varint(&mut message).map(|_| 0).ok()?,
                WireType::LengthDelimited => usize::try_from(decode_varint(&mut message).ok()?).ok()?,
                WireType::ThirtyTwoBit => 4,
                WireType::SixtyFourBit => 8,
                WireType::StartGroup | WireType::EndGroup => return None,
            };
            let (value, rest) = message.split_at_checked(bytes)?;
            message = rest;
            if kind == WireType::LengthDelimited {
                return Some((field, value));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

    fn decoded() -> Vec<FileDescriptorProto> {
        SETS.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file).collect()
    }

    fn enum_names(prefix: &str, descriptor: &EnumDescriptorProto, out: &mut Vec<String>) {
        let name = format!("{prefix}.{}", descriptor.name());
        out.extend(descriptor.value.iter().map(|value| format!("{name}.{}", value.name())));
        out.push(name);
    }

    fn message_names(prefix: &str, descriptor: &DescriptorProto, out: &mut Vec<String>) {
        let name = format!("{prefix}.{}", descriptor.name());
        descriptor.nested_type.iter().for_each(|nested| message_names(&name, nested, out));
        descriptor.enum_type.iter().for_each(|nested| enum_names(&name, nested, out));
        out.extend(descriptor.field.iter().map(|field| format!("{name}.{}", field.name())));
        out.extend(descriptor.oneof_decl.iter().map(|oneof| format!("{name}.{}", oneof.name())));
        out.push(name);
    }

    #[test]
    fn every_file_and_every_name_in_it_is_found_and_no_other() {
        let mut count = 0;
        for file in decoded() {
            assert_eq!(FileDescriptorProto::decode(file_named(file.name()).unwrap()).unwrap(), file);
            let mut names = Vec::new();
            file.message_type.iter().for_each(|message| message_names(file.package(), message, &mut names));
            file.enum_type.iter().for_each(|values| enum_names(file.package(), values, &mut names));
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                names.extend(service.method.iter().map(|method| format!("{name}.{}", method.name())));
                assert!(services().contains(&name), "{name}");
                names.push(name);
            }
            for name in &names {
                let found = FileDescriptorProto::decode(file_with(name).expect(name)).unwrap();
                assert_eq!(found.name(), file.name(), "{name}");
                for other in [format!("{name}x"), format!("{name}."), format!(".{name}"), format!("x{name}")]
                {
                    assert!(file_with(&other).is_none(), "{other}");
                }
            }
            count += names.len();
        }
        assert!(count > 300, "{count}");
        for none in ["", ".", "streamward", "streamward.v1", "streamward.v1.", "LoginRequest"] {
            assert!(file_with(none).is_none() && file_named(none).is_none(), "{none:?}");
        }
    }

    #[test]
    fn no_comments_are_told() {
        assert!(decoded().iter().take(4).all(|file| file.source_code_info.is_none()));
    }

    #[test]
    fn broken_bytes_end_the_search() {
        for broken in [&[0x0a][..], &[0x0a, 5, b'a'], &[0xff; 12], &[0x0b], &[0x0d, 1]] {
            assert_eq!(fields(broken).count(), 0, "{broken:?}");
        }
        assert_eq!(fields(&[0x08, 1, 0x0d, 1, 2, 3, 4, 0x12, 1, b'x']).collect::<Vec<_>>(), [(2, &b"x"[..])]);
    }
}
