//! The servers under test: found, started on one core, stopped.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::BenchError;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// Where Debian puts servers, often outside a user's PATH.
const MORE_PATHS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const LOG_FILE: &str = "server.log";
const READY: &str = "listening on ";

/// Counts that a load of thousands of clients of one address needs.
const ROOM_FOR_MANY: [(&str, &str); 8] = [
    ("STREAMWARD_LIMITS_CONNECTIONS_MAX", "4096"),
    ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "4096"),
    ("STREAMWARD_LIMITS_SESSIONS_MAX", "4096"),
    ("STREAMWARD_LIMITS_SESSIONS_PER_USER_MAX", "4096"),
    ("STREAMWARD_LIMITS_LEASE", "3600s"),
    // A window of 1,024 messages must fit the lag bound.
    ("STREAMWARD_LIMITS_LAG_BYTES_MAX", "512KiB"),
    ("STREAMWARD_LIMITS_TAIL_BYTES_MAX", "1MiB"),
    ("STREAMWARD_MEMORY_BUDGET_BYTES", "2GiB"),
];

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This project's.
    Streamward,
    /// Eclipse Mosquitto (MQTT).
    Mosquitto,
    /// nats-server.
    NatsServer,
}

impl Kind {
    /// The program's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Streamward => "streamward",
            Self::Mosquitto => "mosquitto",
            Self::NatsServer => "nats-server",
        }
    }
}

/// A running server. Dropped without [`stop`], it is killed.
pub(crate) struct Server {
    /// Which.
    pub(crate) kind: Kind,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    child: Child,
    /// Configuration, log, admin socket.
    dir: TempDir,
}

impl Server {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program of a server, if it is here. `streamward` is the path the user gave.
pub(crate) fn find(kind: Kind, streamward: &Path) -> Option<PathBuf> {
    if kind == Kind::Streamward {
        return streamward.is_file().then(|| streamward.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(MORE_PATHS.map(PathBuf::from));
    places.map(|place| place.join(kind.name())).find(|program| program.is_file())
}

/// Starts the server on this core and returns when it accepts connections.
pub(crate) async fn start(kind: Kind, program: &Path, core: usize) -> Result<Server, BenchError> {
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    match kind {
        Kind::Streamward => {
            let admin_socket = dir.path().join("admin.sock");
            command.args(["serve", "--listen", "127.0.0.1:0", "--admin-socket"]).arg(admin_socket);
            command.envs(ROOM_FOR_MANY);
        }
        Kind::Mosquitto => {
            let config = dir.path().join("mosquitto.conf");
            fs::write(&config, mosquitto_config(port))?;
            command.arg("-c").arg(config);
        }
        Kind::NatsServer => {
            command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        }
    }
    let log = File::create(dir.path().join(LOG_FILE))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn()?;
    let mut server = Server { kind, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), child, dir };
    let ready = timeout(START_TIMEOUT, wait_ready(&mut server)).await;
    ready.unwrap_or_else(|_| Err(not_ready(&server, "did not become ready")))?;
    Ok(server)
}

/// Asks the server to stop; kills it when it does not.
pub(crate) async fn stop(mut server: Server) -> Result<(), BenchError> {
    kill_process(Pid::from_child(&server.child), Signal::TERM)?;
    let stopped = async {
        while server.child.try_wait()?.is_none() {
            sleep(POLL).await;
        }
        Ok(())
    };
    timeout(STOP_TIMEOUT, stopped).await.unwrap_or_else(|_| Err("had to be killed".into()))
}

async fn wait_ready(server: &mut Server) -> Result<(), BenchError> {
    loop {
        if let Some(status) = server.child.try_wait()? {
            return Err(not_ready(server, &format!("ended with {status}")));
        }
        if server.kind == Kind::Streamward {
            if let Some(addr) = logged_addr(&log(server)) {
                server.addr = addr;
                return Ok(());
            }
        } else if TcpStream::connect(server.addr).await.is_ok() {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

/// The address in a log line `… listening on 127.0.0.1:4711`.
fn logged_addr(log: &str) -> Option<SocketAddr> {
    log.split(READY)
        .skip(1)
        .find_map(|rest| rest.split_ascii_whitespace().next()?.trim_end_matches(',').parse().ok())
}

fn log(server: &Server) -> String {
    fs::read_to_string(server.dir.path().join(LOG_FILE)).unwrap_or_default()
}

fn not_ready(server: &Server, what: &str) -> BenchError {
    let log = log(server);
    let tail: Vec<&str> = log.lines().rev().take(5).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    format!("{} {what}: {}", server.kind.name(), tail.join(" | ")).into()
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, BenchError> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Nothing is stored, nothing is dropped, nothing waits for Nagle.
fn mosquitto_config(port: u16) -> String {
    format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
         max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\nsys_interval 0\nlog_dest none\n"
    )
}
