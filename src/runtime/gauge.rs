//! A number that one holder keeps and that counts into a total of all holders: reading the total is no scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all holders have together, and what they should at most.
#[derive(Debug)]
pub struct Total {
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Total {
    /// Nothing yet, and no bound.
    fn default() -> Self {
        Self { sum: AtomicU64::new(0), max: AtomicU64::new(u64::MAX) }
    }
}

impl Total {
    /// The sum of all holders' numbers.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// Changes the bound. It is for the holders to keep: a number above it is counted all the same.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Whether the holders have what they should have at most.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.get() >= self.max.load(Ordering::Relaxed)
    }
}

/// One holder's number. What it counted leaves the total with it.
#[derive(Debug, Default)]
pub struct Gauge {
    own: AtomicU64,
    total: Arc<Total>,
}

impl Gauge {
    /// A number of 0 that counts into `total`. It has one writer.
    #[must_use]
    pub fn of(total: &Arc<Total>) -> Self {
        Self { own: AtomicU64::new(0), total: Arc::clone(total) }
    }

    /// Changes the number, and the total with it.
    pub fn set(&self, value: u64) {
        let before = self.own.load(Ordering::Relaxed);
        if before != value {
            self.own.store(value, Ordering::Relaxed);
            // Wraps when it falls; the sum of all holders never does.
            self.total.sum.fetch_add(value.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// What it counts into.
    #[must_use]
    pub fn total(&self) -> &Total {
        &self.total
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_those_that_are_there() {
        let total = Arc::default();
        let (one, other) = (Gauge::of(&total), Gauge::of(&total));
        one.set(7);
        other.set(5);
        one.set(3);
        assert_eq!((one.get(), total.get()), (3, 8));
        drop(one);
        assert_eq!(total.get(), 5);
    }

    #[test]
    fn a_total_is_full_at_its_bound() {
        let total = Arc::default();
        let one = Gauge::of(&total);
        one.set(8);
        assert!(!total.is_full(), "no bound yet");
        total.set_max(8);
        assert!(one.total().is_full());
        one.set(7);
        assert!(!one.total().is_full());
    }
}
