//! The accept loop: permit first, errors classed, handshakes elsewhere.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::base::limits::{
    ACCEPT_BACKOFF, ACCEPT_WARN_EVERY, ADMIN_CONNECTIONS_MAX, Limits, TCP_NOTSENT_BYTES_MAX,
};
use crate::base::reason::{Cause, EndReason};
use crate::runtime::ledger::Part;
use crate::runtime::phase::Phase;
use crate::server::Core;
use crate::server::connection;

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// The network.
    Tcp(TcpListener),
    /// The admin socket: only the server's owner and root.
    Unix(UnixListener),
}

/// Held by a connection for as long as it lives.
#[derive(Debug)]
pub struct Permit {
    _connections: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
}

/// Connections per address.
#[derive(Clone, Debug, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

#[derive(Debug)]
struct AddressPermit {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    fn admit(&self, address: IpAddr, connections_max: u32) -> Option<AddressPermit> {
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

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Accepts until the server refuses (the admin socket: until it aborts); then the listener is closed. The watchdog
/// asks it from this call on.
pub fn run(core: Arc<Core>, listener: Listener) -> impl Future<Output = ()> {
    let part = core.ledger.part(match listener {
        Listener::Tcp(_) => "acceptor",
        Listener::Unix(_) => "admin acceptor",
    });
    accept_until_told(core, listener, part)
}

async fn accept_until_told(core: Arc<Core>, listener: Listener, mut part: Part) {
    let limits = core.limits();
    let (connections_max, half_open_max) = match listener {
        Listener::Tcp(_) => (limits.connections_max, limits.half_open_max),
        Listener::Unix(_) => (ADMIN_CONNECTIONS_MAX, ADMIN_CONNECTIONS_MAX),
    };
    let connections = Arc::new(Semaphore::new(connections_max as usize));
    let half_open = Arc::new(Semaphore::new(half_open_max as usize));
    let addresses = Addresses::default();
    let mut warnings = Warnings::default();
    let mut phase = core.phase.watch();
    let work = async {
        loop {
            // Permit first: what cannot be held is left in the kernel's queue.
            let Ok(permit) = part.during(Arc::clone(&connections).acquire_owned()).await else { return };
            let Ok(opening) = part.during(Arc::clone(&half_open).acquire_owned()).await else { return };
            match part.during(listener.accept()).await {
                Ok(accepted) => admit(&core, accepted, permit, opening, &addresses, &mut warnings),
                Err(error) => {
                    core.accept_errors.fetch_add(1, Ordering::Relaxed);
                    if let Some(pause) = warnings.class(&error) {
                        part.during(tokio::time::sleep(pause)).await;
                    }
                }
            }
        }
    };
    // The admin socket stays open through the drain: one wants to see and end what is stuck.
    let last = match listener {
        Listener::Tcp(_) => Phase::Running,
        Listener::Unix(_) => Phase::Draining,
    };
    tokio::select! {
        () = work => {}
        _ = phase.wait_for(|phase| *phase > last) => {}
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

fn admit(
    core: &Arc<Core>,
    accepted: Accepted,
    connections: OwnedSemaphorePermit,
    opening: OwnedSemaphorePermit,
    addresses: &Addresses,
    warnings: &mut Warnings,
) {
    let limits = core.limits();
    match accepted {
        Accepted::Tcp(stream, peer) => {
            let Some(address) = addresses.admit(peer.ip(), limits.connections_per_ip_max) else {
                return warnings.address_full(peer, limits.connections_per_ip_max);
            };
            if let Err(error) = tune(&stream, &limits) {
                log::debug!("{peer} went away: {error}");
                return;
            }
            let permit = Permit { _connections: connections, _address: Some(address) };
            connection::spawn(core, stream, &peer.to_string(), None, permit, Some(opening));
        }
        Accepted::Unix(stream) => {
            let permit = Permit { _connections: connections, _address: None };
            let Some(uid) = admitted_uid(&stream) else { return };
            connection::spawn(core, stream, &format!("uid={uid}"), Some(uid), permit, Some(opening));
        }
    }
}

/// The peer's user id, when it is root or the server's own user.
fn admitted_uid(stream: &UnixStream) -> Option<u32> {
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            log::warn!("refused a connection to the admin socket without credentials: {error}");
            return None;
        }
    };
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        log::warn!("refused uid {uid} on the admin socket: only its owner and root may use it");
        return None;
    }
    Some(uid)
}

/// A lone small message leaves at once; unsent bytes stay ours rather than the kernel's; a peer that is gone is
/// noticed even while we have nothing to read.
fn tune(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(limits.ping_interval + limits.ping_timeout))?;
    socket.set_tcp_notsent_lowat(TCP_NOTSENT_BYTES_MAX)
}

/// What went wrong since it was last told, for each kind.
#[derive(Debug, Default)]
struct Warnings {
    exhausted: Throttle,
    other: Throttle,
    address_full: Throttle,
}

/// One warning a minute and a counter, not one per error.
#[derive(Debug, Default)]
struct Throttle {
    told_at: Option<Instant>,
    count: u64,
}

impl Throttle {
    /// How often it happened since the last time, when it is time to tell.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told_at.is_some_and(|told_at| now - told_at < ACCEPT_WARN_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl Warnings {
    /// How long to sleep after an error, if at all.
    fn class(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind as Kind;
        if matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted) {
            // The peer gave up while it was queued.
            return None;
        }
        let exhausted = is_exhaustion(error);
        let throttle = if exhausted { &mut self.exhausted } else { &mut self.other };
        if let Some(count) = throttle.count(Instant::now()) {
            let advice = if exhausted { "; raise LimitNOFILE or lower limits.connections_max" } else { "" };
            log::warn!("cannot accept connections: {error} ({count} such since the last warning){advice}");
        }
        Some(ACCEPT_BACKOFF)
    }

    fn address_full(&mut self, peer: SocketAddr, connections_max: u32) {
        if let Some(count) = self.address_full.count(Instant::now()) {
            log::warn!(
                "refused a connection from {peer} ({count} such since the last warning): the address has \
                 limits.connections_per_ip_max = {connections_max} already; raise it if they are welcome"
            );
        }
    }
}

/// EMFILE, ENFILE, ENOBUFS or ENOMEM: the machine is out of something, retrying at once would spin.
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The cause of a connection that the peer or the network ended.
pub(super) fn lost() -> Cause {
    Cause::client(EndReason::ConnectionLost)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn accept_errors_are_classed() {
        let mut warnings = Warnings::default();
        let error = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert_eq!(warnings.class(&error(rustix::io::Errno::CONNABORTED)), None);
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOMEM] {
            assert_eq!(warnings.class(&error(errno)), Some(ACCEPT_BACKOFF));
        }
    }
}
