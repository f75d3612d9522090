//! An ordered set of deadlines: whoever waits sleeps until its head; nothing is scanned.
//!
//! A deadline that is moved later is not touched here: when its old place comes up, the owner says when it is really
//! due. So renewing a lease costs nothing.

use std::collections::BTreeSet;

use tokio::time::Instant;

/// Deadlines of nodes named by `Key`.
#[derive(Debug)]
pub struct Deadlines<Key>(BTreeSet<(Instant, Key)>);

impl<Key: Ord> Default for Deadlines<Key> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<Key: Ord + Copy> Deadlines<Key> {
    /// Adds a deadline.
    pub fn insert(&mut self, at: Instant, key: Key) {
        self.0.insert((at, key));
    }

    /// Takes one out.
    pub fn remove(&mut self, at: Instant, key: Key) {
        self.0.remove(&(at, key));
    }

    /// The nearest one.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out the nearest one that has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<Key> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, key)| key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
