//! What the tests stand on: programs as children, servers, their load, and peers that misbehave.

mod load;
mod peers;
mod program;
mod server;
mod tty;

use std::future::Future;
use std::time::Duration;

pub(crate) use load::Load;
pub(crate) use peers::{Deaf, read_to_end};
pub(crate) use program::{Finished, Program};
pub(crate) use server::{Server, follow, following, subscription};
pub(crate) use tty::Tty;

/// What any one wait may take on a machine that has much else to do. Only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const STREAMWARD: &str = env!("CARGO_BIN_EXE_streamward");

/// What the future gives; a panic that names `what` when it never comes.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}
