//! The only floor with generated types.

/// The contract, generated from `proto/streamward/v1`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, unreachable_pub, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("streamward.v1");
}
