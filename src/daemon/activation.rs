//! Socket activation: the listener that systemd holds over a restart (sd_listen_fds(3)).
//!
//! While the server is down or starting, connections wait in the kernel's queue instead of being refused.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use socket2::SockRef;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::daemon::StartError;

/// The unit, as messages name it.
const UNIT: &str = "streamward.socket";

/// The listener handed over, with its address; `None` when systemd hands over nothing.
///
/// The socket unit's address counts, not `server.listen`; a difference is logged at WARN.
///
/// # Errors
/// When what is handed over is not one listening TCP socket, or lets in strangers while nobody said that they may.
pub fn inherited(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let mut handed = ListenFd::from_env();
    let unusable = |problem: String| StartError::Inherited { problem };
    match handed.len() {
        0 => return Ok(None),
        1 => {}
        // Each would have its own count of connections.
        several => return Err(unusable(format!("there are {several} sockets"))),
    }
    let listener = handed.take_tcp_listener(0).map_err(|error| unusable(error.to_string()))?;
    let Some(listener) = listener else { return Ok(None) };
    let (listener, address) = usable(listener).map_err(|error| unusable(error.to_string()))?;
    if config.auth.lets_in_strangers(address) {
        return Err(StartError::InheritedOpen { listen: address });
    }
    let wanted = config.server.listen;
    if wanted != address {
        log::warn!("listening on {address}, as {UNIT} says; server.listen = {wanted} is not used");
    }
    Ok(Some((listener, address)))
}

fn usable(listener: std::net::TcpListener) -> io::Result<(TcpListener, SocketAddr)> {
    if !SockRef::from(&listener).is_listener()? {
        return Err(io::Error::other("the socket does not listen (Accept=yes?)"));
    }
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}
