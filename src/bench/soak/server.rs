//! The server under test, alone in its directory, with the limits a run needs.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use streamward::client::Admin;
use streamward::wire::v1;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::SoakError;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const READY: &str = "listening on ";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Configuration as environment variables, `limits.lease` written as `LIMITS_LEASE`.
pub(crate) type Settings = Vec<(&'static str, String)>;

/// A running server. Dropped without [`Server::stop`], it is killed.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: Admin,
    child: Child,
    cgroup: Option<Cgroup>,
    /// Admin socket and log.
    dir: TempDir,
}

/// A control group of the server's own.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// A group with this much memory, or why there can be none.
    pub(crate) fn new(memory_max_bytes: u64) -> Result<Self, String> {
        let controllers = Path::new(CGROUPS).join("cgroup.controllers");
        let names = fs::read_to_string(&controllers).map_err(|_| format!("{CGROUPS} is no cgroup v2"))?;
        if !names.split_ascii_whitespace().any(|name| name == "memory") {
            return Err("no memory controller".to_owned());
        }
        let path = Path::new(CGROUPS).join(format!("streamward-soak-{}", std::process::id()));
        let make = || {
            // Refused where it is on already, or where only the system's manager may.
            fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), "+memory").ok();
            fs::create_dir(&path)?;
            fs::write(path.join("memory.max"), memory_max_bytes.to_string())
        };
        make().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Possible once the server is gone.
        fs::remove_dir(&self.0).ok();
    }
}

fn command(program: &Path, settings: &Settings, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("serve").args(arguments).stdin(Stdio::null());
    command.envs(settings.iter().map(|(key, value)| (format!("STREAMWARD_{key}"), value)));
    command
}

/// Whether the server itself would start with these settings.
pub(crate) fn admits(program: &Path, settings: &Settings) -> Result<bool, SoakError> {
    let mut command = command(program, settings, &["--check-config"]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

impl Server {
    /// Starts it and returns when it accepts connections.
    pub(crate) async fn start(
        program: &Path,
        settings: &Settings,
        cgroup: Option<Cgroup>,
    ) -> Result<Self, SoakError> {
        let dir = tempfile::tempdir()?;
        let (socket, log) = (dir.path().join("admin.sock"), dir.path().join("server.log"));
        let arguments =
            ["--listen", "127.0.0.1:0", "--admin-socket", socket.to_str().ok_or("a path that is no text")?];
        let mut command = command(program, settings, &arguments);
        let file = File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn()?;
        if let Some(Cgroup(path)) = &cgroup {
            fs::write(path.join("cgroup.procs"), child.id().to_string())?;
        }
        let ready = timeout(START_TIMEOUT, ready(&mut child, &log)).await;
        let addr = ready.unwrap_or_else(|_| Err("the server did not become ready".into()));
        if addr.is_err() {
            child.kill().ok();
            child.wait().ok();
        }
        let (addr, admin) = (addr?, Admin::connect(&socket).await?);
        Ok(Self { addr, admin, child, cgroup, dir })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs under a limit of the kernel's.
    pub(crate) fn is_confined(&self) -> bool {
        self.cgroup.is_some()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, SoakError> {
        Ok(self.child.try_wait()?)
    }

    /// The last status of which this holds, or the last seen when none did in time.
    pub(crate) async fn until(
        &self,
        patience: Duration,
        holds: impl Fn(&v1::ServerStatus) -> bool,
    ) -> Result<v1::ServerStatus, SoakError> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let status = self.admin.status().await?;
            if holds(&status) || tokio::time::Instant::now() >= until {
                return Ok(status);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lines of its log that call for a human.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked"));
        lines.map(ToOwned::to_owned).collect()
    }

    /// Asks it to stop; says how it ended, nothing when it had to be killed.
    pub(crate) async fn stop(mut self) -> Result<Option<ExitStatus>, SoakError> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let stopped = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Ok(Some(status));
                }
                sleep(POLL).await;
            }
        };
        timeout(STOP_TIMEOUT, stopped).await.unwrap_or(Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn ready(child: &mut Child, log: &Path) -> Result<SocketAddr, SoakError> {
    loop {
        let text = fs::read_to_string(log)?;
        if let Some(status) = child.try_wait()? {
            return Err(format!("the server ended with {status}: {}", text.trim()).into());
        }
        let mut rests = text.split(READY).skip(1);
        let addr = rests.find_map(|rest| rest.split(',').next()?.trim().parse().ok());
        if let Some(addr) = addr {
            return Ok(addr);
        }
        sleep(POLL).await;
    }
}
