//! The accept loop: place first, errors classed, handshakes elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::base::limits::{
    ACCEPT_BACKOFF, ADMIN_CONNECTIONS_MAX, Limits, TCP_NOTSENT_BYTES_MAX, TURNED_AWAY_MAX,
};
use crate::base::reason::{Cause, EndReason, Quota};
use crate::runtime::ledger::Part;
use crate::runtime::phase::Phase;
use crate::runtime::pressure::Level;
use crate::runtime::throttle::Throttle;
use crate::server::admission::{Addresses, HalfOpen, Opening, Permit};
use crate::server::conn::Transport;
use crate::server::{Core, connection, turned_away};

/// The limits a connection can meet.
const CONNECTIONS: &str = "limits.connections_max";
const CONNECTIONS_PER_IP: &str = "limits.connections_per_ip_max";
/// Not configurable.
const ADMIN_CONNECTIONS: &str = "connections to the admin socket";

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// The network.
    Tcp(TcpListener),
    /// The admin socket: only the server's owner and root.
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// What one listener hands out.
struct Acceptor {
    core: Arc<Core>,
    connections: Arc<Semaphore>,
    half_open: HalfOpen,
    addresses: Addresses,
    turned_away: Arc<Semaphore>,
    warnings: Warnings,
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
    let mut phase = core.phase.watch();
    let connections_max = match listener {
        Listener::Tcp(_) => core.limits().connections_max,
        Listener::Unix(_) => ADMIN_CONNECTIONS_MAX,
    };
    let mut acceptor = Acceptor {
        connections: Arc::new(Semaphore::new(connections_max as usize)),
        half_open: HalfOpen::default(),
        addresses: Addresses::default(),
        turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        warnings: Warnings::default(),
        core,
    };
    let work = async {
        loop {
            part.during(acceptor.wait_for_a_place()).await;
            match part.during(listener.accept()).await {
                Ok(accepted) => acceptor.admit(accepted),
                Err(error) => {
                    acceptor.core.accept_errors.fetch_add(1, Ordering::Relaxed);
                    if let Some(pause) = acceptor.warnings.class(&error) {
                        part.during(tokio::time::sleep(pause)).await;
                    }
                }
            }
            // A crowd at the door does not keep those inside waiting.
            tokio::task::yield_now().await;
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

impl Acceptor {
    /// Place first: who can neither be held nor told is left in the kernel's queue. Only this task takes places, so
    /// what is free now is free after the accept.
    async fn wait_for_a_place(&self) {
        tokio::select! {
            biased;
            _ = self.connections.acquire() => {}
            _ = self.turned_away.acquire() => {}
        }
    }

    fn admit(&mut self, accepted: Accepted) {
        let limits = self.core.limits();
        match accepted {
            Accepted::Tcp(stream, peer) => {
                if let Err(error) = tune(&stream, &limits) {
                    log::debug!("{peer} went away: {error}");
                    return;
                }
                let stream = Box::new(stream);
                if self.core.vitals().level >= Level::Critical {
                    // It could not open a stream anyway, and would cost more than one.
                    let cause = Cause::server(EndReason::MemoryPressure);
                    return self.turn_away(stream, &peer.to_string(), cause);
                }
                let Ok(connections) = Arc::clone(&self.connections).try_acquire_owned() else {
                    return self.full(stream, &peer.to_string(), CONNECTIONS, limits.connections_max);
                };
                let per_ip_max = limits.connections_per_ip_max;
                let Some(address) = self.addresses.admit(peer.ip(), per_ip_max) else {
                    return self.full(stream, &peer.to_string(), CONNECTIONS_PER_IP, per_ip_max);
                };
                let permit = Permit { _connections: connections, _address: Some(address) };
                let opening = self.opening(Some(peer.ip()), limits.half_open_max);
                connection::spawn(&self.core, stream, &peer.to_string(), None, permit, Some(opening));
            }
            Accepted::Unix(stream) => {
                let Some(uid) = admitted_uid(&stream) else { return };
                let (stream, peer) = (Box::new(stream), format!("uid={uid}"));
                let Ok(connections) = Arc::clone(&self.connections).try_acquire_owned() else {
                    return self.full(stream, &peer, ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_MAX);
                };
                let permit = Permit { _connections: connections, _address: None };
                let opening = self.opening(None, ADMIN_CONNECTIONS_MAX);
                connection::spawn(&self.core, stream, &peer, Some(uid), permit, Some(opening));
            }
        }
    }

    /// A place for the handshake of one that has its place as a connection.
    fn opening(&self, address: Option<IpAddr>, half_open_max: u32) -> Opening {
        self.half_open.admit(address, half_open_max, self.connections.available_permits(), Instant::now())
    }

    /// A limit was met.
    fn full(&mut self, io: Box<dyn Transport>, peer: &str, key: &'static str, value: u32) {
        self.warnings.turned_away(peer, key, value);
        self.turn_away(io, peer, Cause::quota(Quota { key, value: u64::from(value) }));
    }

    /// Tells a client why, or, when enough others are being told, closes the connection.
    fn turn_away(&mut self, io: Box<dyn Transport>, peer: &str, cause: Cause) {
        let number = self.core.tally.count_refused();
        let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned() else { return };
        let (core, peer) = (Arc::clone(&self.core), peer.to_owned());
        self.core.service.spawn_boxed(async move {
            turned_away::run(&core, io, &peer, cause, number).await;
            drop(place);
        });
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
    full: Throttle,
    address_full: Throttle,
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

    fn turned_away(&mut self, peer: &str, key: &'static str, value: u32) {
        let throttle = if key == CONNECTIONS { &mut self.full } else { &mut self.address_full };
        if let Some(count) = throttle.count(Instant::now()) {
            let advice = if key == ADMIN_CONNECTIONS { "" } else { "; raise it if they are welcome" };
            log::warn!(
                "turned away a connection from {peer} ({count} such since the last warning): {key} = {value} was \
                 reached{advice}"
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
