//! What systemd hears from us: one datagram per message (sd_notify(3)), no library.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::variable;

/// How long a message may wait for systemd's queue. The event loop waits with it.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// The way to the service manager; every method does nothing when there is none.
#[derive(Debug)]
pub struct Notifier {
    target: Option<Target>,
    watchdog: Option<Duration>,
    has_warned: AtomicBool,
}

#[derive(Debug)]
struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET` (a path, or `@name` for an abstract socket), `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// A socket that cannot be used is logged at WARN and counts as none.
    #[must_use]
    pub fn from_environment(environment: &[(String, String)]) -> Self {
        let target = variable(environment, "NOTIFY_SOCKET").and_then(|name| {
            let opened = open(name);
            if let Err(error) = &opened {
                log::warn!("systemd will hear nothing from us: NOTIFY_SOCKET={name} cannot be used: {error}");
            }
            opened.ok()
        });
        let watchdog =
            watchdog(variable(environment, "WATCHDOG_USEC"), variable(environment, "WATCHDOG_PID"));
        Self { target, watchdog, has_warned: AtomicBool::new(false) }
    }

    /// The listeners are bound: starting is over.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is read again; [`Self::ready`] ends that.
    pub fn reloading(&self) {
        self.send("RELOADING=1");
    }

    /// The process will end. Send it only when nothing can call it off.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The line that `systemctl status` shows.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", one_line(text)));
    }

    /// The process still works.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Asks that the running start or stop timeout last at least this much longer from now.
    pub fn extend_timeout(&self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// How often [`Self::watchdog`] is due: half of what systemd waits. `None` when it watches nobody, or another
    /// process.
    #[must_use]
    pub const fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    fn send(&self, message: &str) {
        let Some(target) = &self.target else { return };
        let sent = target.socket.send_to_addr(message.as_bytes(), &target.address);
        if let Err(error) = sent
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            log::warn!("systemd did not get {message:?}: {error}; further failures are not logged");
        }
    }
}

/// The address is kept, not connected to: a manager that makes its socket anew is found again.
fn open(name: &str) -> io::Result<Target> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name"));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(Target { socket, address })
}

fn watchdog(microseconds: Option<&str>, process: Option<&str>) -> Option<Duration> {
    let is_ours = process.is_none_or(|process| process.parse() == Ok(std::process::id()));
    let microseconds: u64 = microseconds?.parse().ok()?;
    let interval = Duration::from_micros(microseconds / 2);
    (is_ours && !interval.is_zero()).then_some(interval)
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn receive(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn every_message_is_one_datagram() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        notifier.ready("listening on\n127.0.0.1:1");
        notifier.status("draining 37/120 streams\nREADY=0");
        notifier.watchdog();
        notifier.extend_timeout(Duration::from_secs(3));
        notifier.stopping();
        notifier.reloading();
        assert_eq!(receive(&manager), "READY=1\nSTATUS=listening on 127.0.0.1:1");
        assert_eq!(receive(&manager), "STATUS=draining 37/120 streams READY=0");
        assert_eq!(receive(&manager), "WATCHDOG=1");
        assert_eq!(receive(&manager), "EXTEND_TIMEOUT_USEC=3000000");
        assert_eq!(receive(&manager), "STOPPING=1");
        assert_eq!(receive(&manager), "RELOADING=1");
    }

    #[test]
    fn an_abstract_socket_begins_with_an_at_sign() {
        let name = format!("streamward-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", &format!("@{name}"))]));
        notifier.watchdog();
        assert_eq!(receive(&manager), "WATCHDOG=1");
    }

    #[test]
    fn a_manager_that_is_gone_is_warned_about_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        assert!(!notifier.has_warned.load(Ordering::Relaxed));
        notifier.watchdog();
        assert!(notifier.has_warned.load(Ordering::Relaxed));
        let manager = UnixDatagram::bind(&path).unwrap();
        notifier.status("back");
        assert_eq!(receive(&manager), "STATUS=back");
    }

    #[test]
    fn a_full_queue_does_not_stop_us() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        // Until the first send that times out; the queue holds net.unix.max_dgram_qlen of them.
        for _ in 0..100_000 {
            notifier.watchdog();
            if notifier.has_warned.load(Ordering::Relaxed) {
                return;
            }
        }
        panic!("the queue never filled");
    }

    #[test]
    fn without_a_socket_nothing_happens() {
        for pairs in [&[][..], &[("NOTIFY_SOCKET", "")], &[("NOTIFY_SOCKET", "vsock:2:1")]] {
            let notifier = Notifier::from_environment(&environment(pairs));
            assert!(notifier.target.is_none());
            notifier.ready("x");
            notifier.stopping();
            assert!(!notifier.has_warned.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn the_watchdog_is_fed_at_half_its_time_by_the_process_it_watches() {
        let me = std::process::id().to_string();
        let half = Some(Duration::from_secs(30));
        assert_eq!(watchdog(Some("60000000"), None), half);
        assert_eq!(watchdog(Some("60000000"), Some(&me)), half);
        assert_eq!(watchdog(Some("60000000"), Some("1")), None);
        assert_eq!(watchdog(Some("60000000"), Some("me")), None);
        assert_eq!(watchdog(None, Some(&me)), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(Some("soon"), None), None);
        let notifier = Notifier::from_environment(&environment(&[("WATCHDOG_USEC", "60000000")]));
        assert_eq!(notifier.watchdog_interval(), half);
    }
}
