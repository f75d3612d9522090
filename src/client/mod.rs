//! The client library: log in, publish, follow topics, learn why a stream ended.
//!
//! - [`connector`] turns an address into a [`Client`]: TCP, a Unix socket, any IO.
//! - [`session`] is a login: it heartbeats by itself and makes calls in its user's name.
//! - [`stream`] hands out typed items and, at the end, why it ended.
//! - [`pipeline`] supervises named tasks that come back by themselves, and publishes what must not be lost;
//!   [`guide`] has an example of each pattern.
//! - [`admin`] lists and ends what a hub holds, over its admin socket.
//! - [`error`] is what a program branches on.
//!
//! ```no_run
//! use streamward::client::{self, Item};
//! use streamward::wire::v1;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), client::ClientError> {
//! let client = client::connect(&"127.0.0.1:50051".parse()?).await?;
//! let session = client.login("alice", "", "example").await?;
//!
//! // Follow a room, say something in it, and read until it came back.
//! let topic = "room/kitchen";
//! let subscription = v1::Subscription { topic: topic.to_owned(), ..Default::default() };
//! let mut stream = session.subscribe(vec![subscription]).await?;
//! let position = session.publish(topic, "the kettle is on", "", "text/plain").await?;
//! let end = loop {
//!     match stream.next().await {
//!         Ok(Item::Event(event)) => {
//!             println!("#{} {}: {:?}", event.sequence, event.sender, event.payload);
//!             if event.sequence == position.sequence {
//!                 break None;
//!             }
//!         }
//!         Ok(Item::Gap(gap)) => println!("{} to {} are lost", gap.from_sequence, gap.to_sequence),
//!         Ok(_) => {}
//!         Err(end) => break Some(end),
//!     }
//! };
//! if let Some(end) = end {
//!     println!("the hub ended the stream: {:?} {}", end.reason, end.status.message());
//! }
//! session.logout().await?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod call;
pub mod connector;
pub mod error;
pub mod guide;
pub mod pipeline;
pub mod session;
pub mod stream;

#[cfg(test)]
mod tests;

pub use crate::client::admin::Admin;
pub use crate::client::connector::{Endpoint, connect, connect_io};
pub use crate::client::error::ClientError;
pub use crate::client::pipeline::config::{ConfigError, ConfigProblem, Credentials, PipelineConfig};
pub use crate::client::pipeline::end::{EndWhy, HandlerError, TaskEnd, TaskState, TaskStatus};
pub use crate::client::pipeline::halt::{Group, Stopping};
pub use crate::client::pipeline::observe::{Setback, Word};
pub use crate::client::pipeline::places::{Delivery, Target};
pub use crate::client::pipeline::publisher::{Message, PendingReceipt, PublishError, Publisher};
pub use crate::client::pipeline::run::Batch;
pub use crate::client::pipeline::{Pipeline, ShutdownReport, StartError, Task, TaskHandle, Welcome};
pub use crate::client::session::{Client, Session};
pub use crate::client::stream::{Item, MessageStream, Receipt, Sender, StreamEnd};
