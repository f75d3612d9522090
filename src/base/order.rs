//! Sorting, beside the path of a message.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sorts stably. The standard library's sort is 5 KB of code for each type and comparison; here all have one together.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let mut order = places(items.len(), &|a, b| compare(&items[a], &items[b]));
    // One ring of items that take each other's places after the other.
    for start in 0..items.len() {
        let mut at = start;
        while order[at] != start {
            let from = std::mem::replace(&mut order[at], at);
            items.swap(at, from);
            at = from;
        }
        order[at] = at;
    }
}

/// A map of these; of equal keys the last counts. Not collected: that sorts first, by 5 KB of code for each type.
pub fn map_of<K: Ord, V>(items: impl Iterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(items);
    map
}

/// For each place, where the item is that belongs there.
fn places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_unstable_by(|a, b| compare(*a, *b).then(a.cmp(b)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_stable_sort() {
        // A linear congruence: as good as random, and the same each time.
        let mut state = 1_u64;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for length in (0..70).chain([1000]) {
            for values in [1, 2, 10, u64::MAX] {
                let items: Vec<(u64, usize)> = (0..length).map(|at| (number() % values, at)).collect();
                let (mut sorted, mut expected) = (items.clone(), items);
                sort_by(&mut sorted, |one, other| one.0.cmp(&other.0));
                expected.sort_by_key(|item| item.0);
                assert_eq!(sorted, expected);
            }
        }
    }
}
