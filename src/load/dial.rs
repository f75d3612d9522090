//! Connections of many clients from one machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::load::error::LoadError;

/// Connections from one address of the loopback network: half of what a hub takes of one address by default.
const CLIENTS_PER_ADDRESS: u32 = 16;
/// Hosts used of each /24 of the loopback network.
const HOSTS: u32 = 250;

/// How a client's connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// As the kernel does it.
    Orderly,
    /// By a reset, as when the machine behind it went away.
    Reset,
}

/// Connects the client with this number. On the loopback network the clients come from many addresses, as they do in
/// life: a hub bounds the connections of one.
pub async fn dial_from(hub: SocketAddr, client: u32, closing: Closing) -> Result<TcpStream, LoadError> {
    let socket = if hub.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source(hub.ip(), client) {
        // Ports of closed connections are free again at once.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((source, 0)))?;
    }
    let stream = socket.connect(hub).await?;
    stream.set_nodelay(true)?;
    if closing == Closing::Reset {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(stream)
}

/// The address a client comes from; none where the kernel chooses.
fn source(hub: IpAddr, client: u32) -> Option<Ipv4Addr> {
    let IpAddr::V4(hub) = hub else { return None };
    let number = client / CLIENTS_PER_ADDRESS;
    // The first ones come from where everybody does; beyond 64,000 addresses they begin again.
    let (net, host) = (u8::try_from(number / HOSTS % HOSTS).ok()?, u8::try_from(number % HOSTS + 1).ok()?);
    hub.is_loopback().then_some(Ipv4Addr::new(127, 0, net, host))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn clients_on_this_machine_come_from_many_addresses_and_others_from_their_own() {
        let mut counts: HashMap<Ipv4Addr, u32> = HashMap::new();
        for client in 0..100_000 {
            *counts.entry(source(IpAddr::from([127, 0, 0, 1]), client).unwrap()).or_default() += 1;
        }
        assert!(counts.values().all(|count| *count == CLIENTS_PER_ADDRESS), "never more from one");
        assert!(counts.keys().all(Ipv4Addr::is_loopback));
        assert_eq!(source(IpAddr::from([192, 168, 1, 2]), 0), None);
        assert_eq!(source("::1".parse().unwrap(), 0), None);
    }
}
