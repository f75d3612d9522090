//! Who is let in: places for connections, for those of one address, and for handshakes under way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};

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
    by_age: BTreeMap<u64, (Option<IpAddr>, Arc<Notify>)>,
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

    /// A place for one more, whatever it costs the others: when all `half_open_max` are taken, the address that has
    /// most of them loses its oldest. So a new client gets in at once, and a flood pays for itself.
    pub(super) fn admit(&self, address: Option<IpAddr>, half_open_max: u32) -> Opening {
        let mut handshakes = self.lock();
        while handshakes.by_age.len() >= half_open_max.max(1) as usize {
            let Some(taken_away) = handshakes.take_from_most() else { break };
            taken_away.notify_one();
        }
        handshakes.numbers += 1;
        let (number, taken_away) = (handshakes.numbers, Arc::new(Notify::new()));
        handshakes.by_age.insert(number, (address, Arc::clone(&taken_away)));
        Opening { half_open: self.clone(), number, taken_away }
    }
}

impl Handshakes {
    fn take_from_most(&mut self) -> Option<Arc<Notify>> {
        let mut counts: HashMap<Option<IpAddr>, u32> = HashMap::new();
        for (address, _) in self.by_age.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().max()?;
        // The oldest of all those addresses.
        let (number, _) = self.by_age.iter().find(|(_, (address, _))| counts.get(address) == Some(most))?;
        let number = *number;
        self.by_age.remove(&number).map(|(_, taken_away)| taken_away)
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
        self.half_open.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_handshake_too_many_costs_the_address_with_most_its_oldest() {
        let half_open = HalfOpen::default();
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let is_out = |opening: &Opening| opening.taken_away().now_or_never().is_some();
        let honest = half_open.admit(address(1), 4);
        let flood: Vec<_> = (0..3).map(|_| half_open.admit(address(2), 4)).collect();
        let newcomer = half_open.admit(address(3), 4);
        assert!(!is_out(&honest) && is_out(&flood[0]) && !is_out(&flood[1]));
        let more = half_open.admit(address(2), 4);
        assert!(is_out(&flood[1]) && !is_out(&flood[2]) && !is_out(&honest) && !is_out(&newcomer));
        drop((flood, more));
        assert_eq!(half_open.lock().by_age.len(), 2, "a place that was taken away is not given back again");
        drop((honest, newcomer));
        assert_eq!(half_open.lock().by_age.len(), 0);
    }
}
