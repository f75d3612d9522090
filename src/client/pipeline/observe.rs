//! What a task tells beside what its handler gets.

use crate::client::error::ClientError;
use crate::client::stream::{Item, StreamEnd};

/// A word to the observer of a task: [`Task::observe`](crate::client::Task::observe).
#[derive(Clone, Copy, Debug)]
pub enum Word<'a> {
    /// The hub said something that is neither event nor gap: a topic is followed, the hub is stopping.
    Said(&'a Item),
    /// Something failed that is no end by itself.
    Setback {
        /// What.
        what: Setback<'a>,
        /// Whether the task tries again; if not, its end is next.
        again: bool,
    },
}

/// Why a task has to start again.
#[derive(Clone, Copy, Debug)]
pub enum Setback<'a> {
    /// Its stream ended.
    Ended(&'a StreamEnd),
    /// An attempt to connect, or to open the stream, failed.
    Failed(&'a ClientError),
    /// The connection was given up for another.
    Left,
}

pub(super) type Observer = Box<dyn FnMut(Word<'_>) + Send>;
