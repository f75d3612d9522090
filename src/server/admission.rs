//! Who is let in: places for connections, for those of one address, and for handshakes under way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::base::limits::HANDSHAKE_GRACE;

/// Held by a connection for as long as it lives.
#[derive(Debug)]
pub struct Permit {
    pub(super) _connections: OwnedSemaphorePermit,
    pub(super) _address: Option<AddressPermit>,
}

/// Connections per address.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

#[derive(Debug)]
pub(super) struct AddressPermit {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    pub(super) fn admit(&self, address: IpAddr, connections_max: u32) -> Option<AddressPermit> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= connections_max {
            return None;
        }
        *count += 1;
        Some(AddressPermit { addresses: self.clone(), address })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The handshakes under way, by age.
#[derive(Clone, Debug, Default)]
pub(super) struct HalfOpen(Arc<Mutex<Handshakes>>);

#[derive(Debug, Default)]
struct Handshakes {
    numbers: u64,
    by_age: BTreeMap<u64, Handshake>,
    /// How many there are of each address.
    counts: HashMap<Option<IpAddr>, u32>,
}

#[derive(Debug)]
struct Handshake {
    address: Option<IpAddr>,
    began_at: Instant,
    taken_away: Arc<Notify>,
}

/// A place among the handshakes under way: given back when dropped, or taken away for somebody else.
#[derive(Debug)]
pub struct Opening {
    half_open: HalfOpen,
    number: u64,
    taken_away: Arc<Notify>,
}

impl HalfOpen {
    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, whatever it costs the others: when `half_open_max` are taken, the address that has most
    /// of them loses its oldest. So a new client gets in at once, and a flood pays for itself.
    ///
    /// Clients that all come at once are no flood, and the acceptor is faster than they are: while connections are to
    /// spare, nobody loses a handshake that has just begun. Then there are more than `half_open_max`, but never so
    /// many of one address.
    pub(super) fn admit(
        &self,
        address: Option<IpAddr>,
        half_open_max: u32,
        connections_free: usize,
        now: Instant,
    ) -> Opening {
        let half_open_max = half_open_max.max(1);
        let mut handshakes = self.lock();
        let is_roomy = connections_free >= half_open_max as usize;
        if handshakes.by_age.len() >= half_open_max as usize
            && let Some((number, most)) = handshakes.oldest_of_most(address)
            && (!is_roomy || most >= half_open_max || handshakes.is_overdue(number, now))
            && let Some(taken_away) = handshakes.remove(number)
        {
            taken_away.notify_one();
        }
        handshakes.numbers += 1;
        let (number, taken_away) = (handshakes.numbers, Arc::new(Notify::new()));
        *handshakes.counts.entry(address).or_default() += 1;
        let handshake = Handshake { address, began_at: now, taken_away: Arc::clone(&taken_away) };
        handshakes.by_age.insert(number, handshake);
        Opening { half_open: self.clone(), number, taken_away }
    }
}

impl Handshakes {
    /// The oldest of all those addresses that have most, and how many they have. With one more of `newcomer`, that
    /// alone may be the one.
    fn oldest_of_most(&self, newcomer: Option<IpAddr>) -> Option<(u64, u32)> {
        let most = self.counts.values().max()?;
        let is_newcomer = self.counts.get(&newcomer) == Some(most);
        let (number, _) = self.by_age.iter().find(|(_, Handshake { address, .. })| {
            if is_newcomer { *address == newcomer } else { self.counts.get(address) == Some(most) }
        })?;
        Some((*number, *most))
    }

    fn is_overdue(&self, number: u64, now: Instant) -> bool {
        self.by_age.get(&number).is_some_and(|handshake| now >= handshake.began_at + HANDSHAKE_GRACE)
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let handshake = self.by_age.remove(&number)?;
        if let Some(count) = self.counts.get_mut(&handshake.address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&handshake.address);
            }
        }
        Some(handshake.taken_away)
    }
}

impl Opening {
    /// Resolves when the place went to somebody else.
    pub(super) async fn taken_away(&self) {
        self.taken_away.notified().await;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.half_open.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn connections_of_one_address_are_bounded_and_come_back() {
        let addresses = Addresses::default();
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = addresses.admit(one, 2);
        let _second = addresses.admit(one, 2).unwrap();
        assert!(first.is_some() && addresses.admit(one, 2).is_none());
        assert!(addresses.admit(other, 2).is_some());
        drop(first);
        assert!(addresses.admit(one, 2).is_some());
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// Whether each was told, since it was last asked, that its place is somebody else's.
    fn are_out<'a>(openings: impl IntoIterator<Item = &'a Opening>) -> Vec<bool> {
        openings.into_iter().map(|opening| opening.taken_away().now_or_never().is_some()).collect()
    }

    #[test]
    fn a_handshake_too_many_costs_the_address_with_most_its_oldest() {
        // With and without connections to spare: one address had all places, or all are long overdue.
        for connections_free in [0, 100] {
            let half_open = HalfOpen::default();
            let begun = Instant::now();
            let later = begun + HANDSHAKE_GRACE;
            let admit = |last, now| half_open.admit(address(last), 4, connections_free, now);
            let honest = admit(1, begun);
            let flood: Vec<_> = (0..3).map(|_| admit(2, begun)).collect();
            let newcomer = admit(3, later);
            assert_eq!(are_out([&honest]), [false]);
            assert_eq!(are_out(&flood), [true, false, false]);
            let more = admit(2, later);
            assert_eq!(are_out([&honest, &newcomer, &more]), [false; 3]);
            assert_eq!(are_out(&flood), [false, true, false]);
            drop((flood, more));
            assert_eq!(
                half_open.lock().by_age.len(),
                2,
                "a place that was taken away is not given back again"
            );
            drop((honest, newcomer));
            assert!(half_open.lock().by_age.is_empty() && half_open.lock().counts.is_empty());
        }
    }

    #[test]
    fn a_crowd_that_comes_at_once_loses_no_handshake_while_connections_are_to_spare() {
        let half_open = HalfOpen::default();
        let begun = Instant::now();
        // From one address or from many, but fewer than the bound from each.
        let crowd: Vec<_> = (0..200).map(|n| half_open.admit(address(n / 3), 4, 4, begun)).collect();
        let almost = begun + HANDSHAKE_GRACE - Duration::from_millis(1);
        let late = half_open.admit(address(200), 4, 4, almost);
        assert!(!are_out(crowd.iter().chain([&late])).contains(&true));
        // From then on there are no more: each newcomer costs the oldest.
        let more: Vec<_> =
            (201..211).map(|n| half_open.admit(address(n), 4, 4, begun + HANDSHAKE_GRACE)).collect();
        assert_eq!(half_open.lock().by_age.len(), 201);
        assert_eq!(are_out(&crowd), (0..200).map(|n| n % 3 == 0 && n < 30).collect::<Vec<_>>());
        assert!(!are_out(more.iter().chain([&late])).contains(&true));
    }

    #[test]
    fn when_connections_run_short_each_newcomer_costs_a_handshake_however_young() {
        let half_open = HalfOpen::default();
        let now = Instant::now();
        let crowd: Vec<_> = (0..100).map(|n| half_open.admit(address(n), 4, 4, now)).collect();
        assert!(!are_out(&crowd).contains(&true));
        let late: Vec<_> = (100..110).map(|n| half_open.admit(address(n), 4, 3, now)).collect();
        assert_eq!(half_open.lock().by_age.len(), 100);
        assert_eq!(are_out(&crowd), (0..100).map(|n| n < 10).collect::<Vec<_>>(), "the oldest");
        assert!(!are_out(&late).contains(&true));
    }

    #[test]
    fn no_address_has_more_handshakes_than_the_bound_however_many_do() {
        let half_open = HalfOpen::default();
        let now = Instant::now();
        let mut flood = Vec::new();
        for number in 0..100 {
            flood.push(half_open.admit(address(number % 2), 8, 100, now));
            assert!(half_open.lock().counts.values().all(|count| *count <= 8), "{number}");
        }
        let kept: Vec<_> = are_out(&flood).into_iter().map(|is_out| !is_out).collect();
        assert_eq!(kept.iter().position(|is_kept| *is_kept), Some(85), "the newest");
        assert!(kept[85..].iter().all(|is_kept| *is_kept));
    }
}
