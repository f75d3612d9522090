//! Binding the listeners, with errors a person can act on.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::base::limits::LISTEN_BACKLOG;
use crate::daemon::StartError;

/// Listens on the network. Returns the address too, for when the port was left to the system.
///
/// # Errors
/// When the address cannot be had.
pub fn tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    bind(address).map_err(|source| StartError::Listen { listen: address.to_string(), source })
}

/// Listens for whoever scrapes the metrics; returns the address too.
///
/// # Errors
/// When the address cannot be had.
pub fn metrics(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    bind(address).map_err(|source| StartError::MetricsListen { listen: address.to_string(), source })
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart does not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(LISTEN_BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The socket's file; removed when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::debug!("{} was gone: {error}", self.0.display());
        }
    }
}

/// Listens on the admin socket: made for its owner alone, in a directory made for its owner alone where there was
/// none. A socket left behind by a server that died is replaced; one that answers is not.
///
/// # Errors
/// When the socket cannot be made.
pub fn unix(path: &Path) -> Result<(UnixListener, SocketFile), StartError> {
    let refuse = |problem: String, in_use| StartError::AdminSocket { path: path.to_owned(), problem, in_use };
    let failed = |error: io::Error| refuse(error.to_string(), false);
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(directory).map_err(failed)?;
    }
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(refuse("a file that is no socket is in the way".to_owned(), false));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(refuse("another server answers there".to_owned(), true)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                log::info!("replacing {}, left behind by a server that died", path.display());
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    // Others may connect nowhere, and who may is checked again by peer credentials.
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("admin.sock");
        let (listener, file) = unix(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(matches!(unix(&path), Err(StartError::AdminSocket { in_use: true, .. })));
        drop(listener);
        assert!(path.exists());
        let (_listener, _file) = unix(&path).unwrap();
        std::mem::drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(unix(&path), Err(StartError::AdminSocket { in_use: false, .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_port_in_use_is_said() {
        let (_listener, address) = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = tcp(address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
