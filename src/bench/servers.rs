//! The servers under test: found, started on one core, stopped.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::kind::Kind;
use crate::{BenchError, Common};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// Where Debian puts servers, often outside a user's PATH.
const MORE_PATHS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const LOG_FILE: &str = "server.log";
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/peers");

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

/// How a server is run.
#[derive(Clone)]
pub(crate) struct Program {
    /// Which.
    pub(crate) kind: Kind,
    /// What is executed.
    pub(crate) path: PathBuf,
    /// The script, where the program is an interpreter, and the directory its packages are found in.
    pub(crate) script: Option<(PathBuf, &'static str, OsString)>,
}

impl Program {
    /// A command that runs the server's program, or its interpreter without the script.
    pub(crate) fn interpreter(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some((_, variable, packages)) = &self.script {
            command.env(variable, packages);
        }
        command
    }
}

/// The server's program, if it is here with all it needs.
pub(crate) fn find(kind: Kind, common: &Common) -> Option<Program> {
    let beside = |file: &str| common.peers.join(file);
    let (path, script) = match kind {
        Kind::Streamward => (common.server.clone(), None),
        Kind::Mosquitto | Kind::NatsServer => (in_path(kind.name())?, None),
        Kind::PlainTonic => (beside("peers/release/plain-tonic"), None),
        Kind::GrpcJs => {
            let packages = beside("clients-node/node_modules");
            packages.join("@grpc/grpc-js").is_dir().then_some(())?;
            let script = Path::new(SOURCES).join("grpcjs/server.js");
            (in_path("node")?, Some((script, "NODE_PATH", packages.into())))
        }
        Kind::Grpcio => {
            let stubs = beside("peers/python");
            stubs.join("streamward").is_dir().then_some(())?;
            let script = Path::new(SOURCES).join("grpcio/server.py");
            (beside("clients-venv/bin/python"), Some((script, "PYTHONPATH", stubs.into())))
        }
    };
    path.is_file().then_some(Program { kind, path, script })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(MORE_PATHS.map(PathBuf::from));
    places.map(|place| place.join(name)).find(|program| program.is_file())
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

/// Starts the server on its core and returns when it accepts connections.
pub(crate) async fn start(program: &Program, common: &Common) -> Result<Server, BenchError> {
    let mut server = launch(program, common)?;
    wait_ready(&mut server, POLL).await?;
    Ok(server)
}

/// Starts the server on its core.
pub(crate) fn launch(program: &Program, common: &Common) -> Result<Server, BenchError> {
    let dir = tempfile::tempdir()?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut command = Command::new("taskset");
    command.args(["-c", &common.server_core.to_string()]).arg(&program.path);
    if let Some((script, variable, packages)) = &program.script {
        command.env(variable, packages).arg(script);
    }
    match program.kind {
        Kind::Streamward => {
            let admin_socket = dir.path().join("admin.sock");
            command.args(["serve", "--listen", &addr.to_string(), "--admin-socket"]).arg(admin_socket);
            command.envs(ROOM_FOR_MANY);
        }
        Kind::Mosquitto => {
            let config = dir.path().join("mosquitto.conf");
            fs::write(&config, mosquitto_config(addr.port()))?;
            command.arg("-c").arg(config);
        }
        Kind::NatsServer => {
            command.args(["-a", "127.0.0.1", "-p", &addr.port().to_string()]);
        }
        Kind::PlainTonic | Kind::GrpcJs | Kind::Grpcio => {
            command.arg(addr.to_string());
        }
    }
    let log = File::create(dir.path().join(LOG_FILE))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Server { kind: program.kind, addr, child: command.spawn()?, dir })
}

/// Returns when the server accepts connections; asks that often.
pub(crate) async fn wait_ready(server: &mut Server, poll: Duration) -> Result<(), BenchError> {
    let accepting = async {
        while TcpStream::connect(server.addr).await.is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(not_ready(server, &format!("ended with {status}")));
            }
            sleep(poll).await;
        }
        Ok(())
    };
    let ready = timeout(START_TIMEOUT, accepting).await;
    ready.unwrap_or_else(|_| Err(not_ready(server, "did not become ready")))
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

fn not_ready(server: &Server, what: &str) -> BenchError {
    let log = fs::read_to_string(server.dir.path().join(LOG_FILE)).unwrap_or_default();
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
