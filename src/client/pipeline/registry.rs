//! The tasks there are: each is known by its name from before it starts until it has ended, whatever the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::client::pipeline::end::{EndWhy, TaskEnd, TaskState, TaskStatus};
use crate::client::pipeline::places::Places;
use crate::runtime::scope::Scope;

/// One task as others see it.
pub(super) struct Entry {
    pub(super) id: Arc<str>,
    pub(super) scope: Scope,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    status: TaskStatus,
    forced: bool,
}

impl Entry {
    pub(super) fn new(id: &str, scope: Scope, places: &Places) -> Self {
        let positions = places.positions();
        let status = TaskStatus { id: id.to_owned(), positions, ..TaskStatus::default() };
        Self { id: id.into(), scope, standing: Mutex::new(Standing { status, forced: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> TaskStatus {
        self.lock().status.clone()
    }

    pub(super) fn set_state(&self, state: TaskState) {
        self.lock().status.state = state;
    }

    /// The stream is live: failures are no longer in a row.
    pub(super) fn lives(&self) {
        let status = &mut self.lock().status;
        status.state = TaskState::Streaming;
        status.failures = 0;
    }

    /// The handler begins with so many events.
    pub(super) fn begins(&self, events: usize, age: Option<Duration>) {
        let status = &mut self.lock().status;
        status.state = TaskState::InHandler;
        status.lag_events = events;
        status.lag_time = age;
    }

    /// So many events are handled, up to these places.
    pub(super) fn moved(&self, places: &Places, events: usize) {
        let status = &mut self.lock().status;
        status.positions = places.positions();
        status.handled += events as u64;
        status.lag_events = 0;
    }

    /// Counts failures; how many there are in a row.
    pub(super) fn failed(&self, more: u32, text: &str) -> u32 {
        let status = &mut self.lock().status;
        status.failures = status.failures.saturating_add(more);
        status.retries = status.retries.saturating_add(u64::from(more));
        status.last_error = Some(text.into());
        status.failures
    }

    pub(super) fn exhausted(&self) -> EndWhy {
        let status = &self.lock().status;
        let last = status.last_error.clone().unwrap_or_default();
        EndWhy::RetriesExhausted { failures: status.failures, last }
    }

    /// The handler had to be dropped.
    pub(super) fn force(&self) {
        self.lock().forced = true;
    }

    pub(super) fn was_forced(&self) -> bool {
        self.lock().forced
    }
}

/// All tasks of a pipeline.
#[derive(Default)]
pub(super) struct Registry {
    tasks: Mutex<BTreeMap<Arc<str>, Arc<Entry>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Entry>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task, if its name is free and there are fewer than that many.
    pub(super) fn add(&self, entry: &Arc<Entry>, tasks_max: usize) -> Result<(), Taken> {
        let mut tasks = self.lock();
        if tasks.contains_key(&entry.id) {
            return Err(Taken::Name);
        }
        if tasks.len() >= tasks_max {
            return Err(Taken::Places);
        }
        tasks.insert(Arc::clone(&entry.id), Arc::clone(entry));
        Ok(())
    }

    fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }
}

/// Why a task was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Name,
    Places,
}

/// Removes a task and tells its end, when dropped at the latest.
pub(super) struct Registered {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    ended: watch::Sender<Option<Arc<TaskEnd>>>,
}

impl Registered {
    pub(super) fn new(
        registry: Arc<Registry>,
        entry: Arc<Entry>,
        ended: watch::Sender<Option<Arc<TaskEnd>>>,
    ) -> Self {
        Self { registry, entry, ended }
    }

    /// The task has ended.
    pub(super) fn end(&self, why: EndWhy) {
        let Standing { status, forced } = &*self.entry.lock();
        let end = TaskEnd {
            id: status.id.clone(),
            why,
            positions: status.positions.clone(),
            handled: status.handled,
            retries: status.retries,
            forced: *forced,
        };
        log::debug!("task {} ended: {}", end.id, end.why);
        // The name is free before anybody hears of the end.
        self.registry.remove(&self.entry.id);
        self.ended.send_replace(Some(Arc::new(end)));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.ended.borrow().is_none() {
            // Only a panic, or a runtime that is gone, gets here without an end.
            self.end(EndWhy::HandlerPanicked);
        }
    }
}
