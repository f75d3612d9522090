//! A number that one holder keeps and that counts into a total of all holders: reading the total is no scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One holder's number. What it counted leaves the total with it.
#[derive(Debug, Default)]
pub struct Gauge {
    own: AtomicU64,
    total: Arc<AtomicU64>,
}

impl Gauge {
    /// A number of 0 that counts into `total`. It has one writer.
    #[must_use]
    pub fn of(total: &Arc<AtomicU64>) -> Self {
        Self { own: AtomicU64::new(0), total: Arc::clone(total) }
    }

    /// Changes the number, and the total with it.
    pub fn set(&self, value: u64) {
        let before = self.own.load(Ordering::Relaxed);
        if before != value {
            self.own.store(value, Ordering::Relaxed);
            // Wraps when it falls; the sum of all holders never does.
            self.total.fetch_add(value.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
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
        assert_eq!((one.get(), total.load(Ordering::Relaxed)), (3, 8));
        drop(one);
        assert_eq!(total.load(Ordering::Relaxed), 5);
    }
}
