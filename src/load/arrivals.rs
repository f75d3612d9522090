//! What the subscribers of one measurement have received: how far each is, how late it came, and the first fault.

use std::cell::{Cell, RefCell};

use tokio::time::Instant;

use crate::load::error::LoadError;
use crate::load::latencies::Latencies;
use crate::load::progress::Progress;
use crate::load::schedule::Schedule;
use crate::load::seconds::Seconds;

/// Shared by the subscribers and the publishers; all on one thread.
pub struct Arrivals {
    /// How far all subscribers are, of each publisher.
    flights: Vec<Progress>,
    /// Since [`begin`](Self::begin).
    delivered: Cell<u64>,
    per_second: RefCell<Seconds>,
    began: Cell<Instant>,
    /// Of an open loop: when messages are due.
    due: Cell<Option<Schedule>>,
    latencies: RefCell<Latencies>,
    fault: RefCell<Option<(String, LoadError)>>,
}

impl Arrivals {
    /// Nothing came yet.
    #[must_use]
    pub fn new(publishers: u16, subscribers: usize) -> Self {
        Self {
            flights: (0..publishers).map(|_| Progress::new(subscribers)).collect(),
            delivered: Cell::new(0),
            per_second: RefCell::default(),
            began: Cell::new(Instant::now()),
            due: Cell::new(None),
            latencies: RefCell::default(),
            fault: RefCell::default(),
        }
    }

    /// Counts from here on.
    pub fn begin(&self, now: Instant) {
        self.delivered.set(0);
        self.per_second.borrow_mut().clear();
        self.began.set(now);
        self.due.set(None);
        self.latencies.borrow_mut().clear();
    }

    /// The same for an open loop.
    pub fn begin_open(&self, schedule: Schedule) {
        self.begin(schedule.begin());
        self.due.set(Some(schedule));
    }

    /// Message `count` of some publisher came.
    pub fn came(&self, count: u64, now: Instant) {
        if let Some(schedule) = self.due.get() {
            let latency = now.saturating_duration_since(schedule.intended(count));
            self.latencies.borrow_mut().record(latency);
        }
        self.delivered.set(self.delivered.get() + 1);
        self.per_second.borrow_mut().count(now.saturating_duration_since(self.began.get()));
    }

    /// A subscriber has this many messages of each publisher.
    pub fn advance(&self, subscriber: usize, counts: impl Iterator<Item = u64>) {
        for (flight, count) in self.flights.iter().zip(counts) {
            flight.advance(subscriber, count);
        }
    }

    /// How far all subscribers are with one publisher.
    pub(crate) fn flight(&self, publisher: u16) -> &Progress {
        &self.flights[usize::from(publisher)]
    }

    /// Something happened that makes every further number void; the first such thing is kept.
    pub fn fail(&self, who: &str, error: LoadError) {
        for flight in &self.flights {
            flight.fail(format!("{who}: {error}"));
        }
        self.fault.borrow_mut().get_or_insert((who.to_owned(), error));
    }

    /// Takes that first thing: who it happened to, and what.
    #[must_use]
    pub fn take_fault(&self) -> Option<(String, LoadError)> {
        self.fault.take()
    }

    /// Deliveries since the beginning.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.get()
    }

    /// The same by seconds.
    #[must_use]
    pub fn per_second(&self) -> Vec<u64> {
        self.per_second.borrow().counts().to_vec()
    }

    /// How late they came.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.latencies.borrow().clone()
    }
}
