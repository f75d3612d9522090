//! Streamward: a gRPC session and message hub in which every stream has an owner, a bound and a recorded end.

pub mod base;
pub mod bus;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod hub;
pub mod runtime;
pub mod server;
#[cfg(test)]
mod tests;
pub mod wire;
