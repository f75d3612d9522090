//! How far every subscriber is: a message is in flight until the last of them has it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::load::error::LoadError;

/// Without a delivery for this long, a measurement is given up.
const STALL: Duration = Duration::from_secs(10);

/// Shared by the publisher and the subscribers of one server; all on one thread.
#[derive(Debug)]
pub struct Progress {
    state: RefCell<State>,
    arrived: RefCell<Option<Arrived>>,
    receipts: Cell<u64>,
    fault: RefCell<Option<String>>,
    changed: Notify,
}

/// Called with the numbers of the messages that one subscriber has just received.
struct Arrived(Box<dyn FnMut(Range<u64>)>);

impl fmt::Debug for Arrived {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Arrived")
    }
}

#[derive(Debug)]
struct State {
    received: Vec<u64>,
    /// The lowest of `received`, and how many subscribers are there.
    low: u64,
    at_low: usize,
}

impl Progress {
    /// Nothing received by anyone.
    pub fn new(subscribers: usize) -> Self {
        Self {
            state: RefCell::new(State { received: vec![0; subscribers], low: 0, at_low: subscribers }),
            arrived: RefCell::new(None),
            receipts: Cell::new(0),
            fault: RefCell::new(None),
            changed: Notify::new(),
        }
    }

    /// Calls this with the numbers of the messages that a subscriber has just received, from now on.
    pub fn on_arrival(&self, arrived: impl FnMut(Range<u64>) + 'static) {
        *self.arrived.borrow_mut() = Some(Arrived(Box::new(arrived)));
    }

    /// Subscriber `index` has received `count` messages in all.
    pub fn advance(&self, index: usize, count: u64) {
        let mut state = self.state.borrow_mut();
        let before = std::mem::replace(&mut state.received[index], count);
        if let Some(Arrived(arrived)) = self.arrived.borrow_mut().as_mut() {
            arrived(before..count);
        }
        if before != state.low || count == before {
            return;
        }
        state.at_low -= 1;
        if state.at_low == 0 {
            let low = state.received.iter().copied().min().unwrap_or(count);
            state.at_low = state.received.iter().filter(|received| **received == low).count();
            state.low = low;
            self.changed.notify_one();
        }
    }

    /// The server has accepted that many publishes in all.
    pub fn receipts(&self, count: u64) {
        self.receipts.set(count);
        self.changed.notify_one();
    }

    /// Something happened that makes every further number void; the first such thing is kept.
    pub fn fail(&self, what: String) {
        self.fault.borrow_mut().get_or_insert(what);
        self.changed.notify_one();
    }

    /// Messages that every subscriber has.
    pub fn low(&self) -> u64 {
        self.state.borrow().low
    }

    /// Receipts the publisher has.
    pub fn receipts_seen(&self) -> u64 {
        self.receipts.get()
    }

    /// Returns after a change, or with the fault.
    pub async fn changed(&self) -> Result<(), LoadError> {
        let stalled = timeout(STALL, self.changed.notified()).await.is_err();
        if let Some(fault) = self.fault.borrow().as_ref() {
            return Err(LoadError::Void(fault.clone()));
        }
        if stalled {
            let state = self.state.borrow();
            let (low, high) = (state.low, state.received.iter().max());
            let stall = format!("nothing moved for {STALL:?}: subscribers have {low} to {high:?} messages");
            return Err(LoadError::Void(stall));
        }
        Ok(())
    }
}
