//! Who still works: every part is asked at the same time, answers from its own loop, and whoever has not is named.
//!
//! Nobody answers on a timer, so an idle part sleeps until it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The parts of a process and which question each has answered last. Clones are the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The number of the last question.
    asked: watch::Sender<u64>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    numbers: u64,
    /// In the order they registered.
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    answered: u64,
}

/// One part's way to answer. Dropping it signs the part off; dropped by a panic, the part stays and is stale from
/// the next question on.
#[derive(Debug)]
pub struct Part {
    ledger: Ledger,
    number: u64,
    asked: watch::Receiver<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self(Arc::new(Inner { asked: watch::Sender::new(0), parts: Mutex::default() }))
    }
}

impl Ledger {
    /// Adds a part. It is asked from the next question on.
    #[must_use]
    pub fn part(&self, name: &'static str) -> Part {
        let mut asked = self.0.asked.subscribe();
        let answered = *asked.borrow_and_update();
        let mut parts = self.parts();
        parts.numbers += 1;
        let number = parts.numbers;
        parts.entries.insert(number, Entry { name, answered });
        Part { ledger: self.clone(), number, asked }
    }

    /// Asks every part.
    pub fn ask(&self) {
        self.0.asked.send_modify(|question| *question += 1);
    }

    /// The parts that have not answered the last question, in the order they registered.
    #[must_use]
    pub fn stale(&self) -> Vec<&'static str> {
        let question = *self.0.asked.borrow();
        let parts = self.parts();
        parts.entries.values().filter(|entry| entry.answered < question).map(|entry| entry.name).collect()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Resolves when there is a question to answer. May be dropped and asked for again at any time.
    pub async fn asked(&mut self) {
        // The sender lives in the ledger that this part holds.
        if self.asked.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Answers the last question.
    pub fn stamp(&mut self) {
        let question = *self.asked.borrow_and_update();
        if let Some(entry) = self.ledger.parts().entries.get_mut(&self.number) {
            entry.answered = question;
        }
    }

    /// Carries out a step that may take long, answering meanwhile. The step is never dropped half done.
    pub async fn during<F: Future>(&mut self, step: F) -> F::Output {
        tokio::pin!(step);
        loop {
            tokio::select! {
                biased;
                // First, or a part whose steps never wait would never answer.
                () = self.asked() => self.stamp(),
                output = &mut step => return output,
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ledger.parts().entries.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    #[test]
    fn whoever_has_not_answered_the_last_question_is_named() {
        let ledger = Ledger::default();
        let (mut one, mut other) = (ledger.part("one"), ledger.part("other"));
        assert!(ledger.stale().is_empty(), "nobody was asked yet");
        ledger.ask();
        assert_eq!(ledger.stale(), ["one", "other"]);
        other.stamp();
        assert_eq!(ledger.stale(), ["one"]);
        one.stamp();
        assert!(ledger.stale().is_empty());
        ledger.ask();
        assert_eq!(ledger.stale(), ["one", "other"], "an old answer does not count");
    }

    #[test]
    fn a_part_is_asked_from_the_next_question_on_and_signs_off_when_dropped() {
        let ledger = Ledger::default();
        ledger.ask();
        let late = ledger.part("late");
        assert!(ledger.stale().is_empty());
        ledger.ask();
        assert_eq!(ledger.stale(), ["late"]);
        drop(late);
        assert!(ledger.stale().is_empty());
    }

    #[test]
    fn two_parts_of_one_name_answer_each_for_itself() {
        let ledger = Ledger::default();
        let (mut one, twin) = (ledger.part("same"), ledger.part("same"));
        ledger.ask();
        one.stamp();
        assert_eq!(ledger.stale(), ["same"]);
        drop(twin);
        assert!(ledger.stale().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_goes_on_while_it_answers_and_an_idle_part_is_woken_only_by_questions() {
        let ledger = Ledger::default();
        let mut part = ledger.part("slow");
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut step = std::pin::pin!(sleep(Duration::from_secs(60)));
            let step = std::future::poll_fn(|context| {
                counted.fetch_add(1, Ordering::Relaxed);
                step.as_mut().poll(context)
            });
            part.during(step).await;
        });
        for _ in 0..3 {
            sleep(Duration::from_secs(10)).await;
            ledger.ask();
            sleep(Duration::from_secs(1)).await;
            assert!(ledger.stale().is_empty());
        }
        tasks.join_next().await.unwrap().unwrap();
        assert_eq!(polls.load(Ordering::Relaxed), 5, "to begin, once per question, at its end");
    }

    #[tokio::test]
    async fn a_part_whose_steps_never_wait_answers_too() {
        let ledger = Ledger::default();
        let mut busy = ledger.part("busy");
        for _ in 0..100 {
            ledger.ask();
            busy.during(std::future::ready(())).await;
            // A task that never gives way is stopped by the runtime: not the subject here.
            tokio::task::yield_now().await;
            assert!(ledger.stale().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panicked_has_not_signed_off() {
        let ledger = Ledger::default();
        let mut part = ledger.part("broken");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            part.asked().await;
            panic!("on purpose");
        });
        ledger.ask();
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        assert_eq!(ledger.stale(), ["broken"]);
        ledger.ask();
        assert_eq!(ledger.stale(), ["broken"]);
    }
}
