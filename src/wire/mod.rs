//! The only floor with generated types: the contract, its framing, and its status details.

pub mod bytes_codec;
pub mod codec;
pub mod convert;
pub mod ended;
pub mod status;
pub mod timeout;

/// The contract, generated from `proto/streamward/v1`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, unreachable_pub, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("streamward.v1");
}

/// The contract as an encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/streamward_descriptor.bin"));
