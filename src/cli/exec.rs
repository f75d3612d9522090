//! A command of the user's per event: the payload on its standard input, the rest in its environment.
//!
//! No thread waits for it: the system's word that a child has ended (SIGCHLD) comes as any other signal does.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::text::clean;
use crate::client::Stopping;
use crate::wire::v1;

/// A shell command and what becomes of it when its task is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exec {
    /// As `sh -c` takes it.
    pub(crate) command: String,
    /// Whether it is told to end (SIGTERM) as soon as its task is; otherwise it may finish.
    pub(crate) ends_with_task: bool,
}

/// Why an event was not handled by the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// No shell, no descriptors, no memory.
    #[error("the command for {event} could not be run: {error}")]
    System {
        /// `room/a #7`.
        event: String,
        /// What the system said.
        error: io::Error,
    },
    /// It said no.
    #[error("the command for {event} ended with {}", status_text(*.status))]
    Status {
        /// `room/a #7`.
        event: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its task was asked to stop.
    #[error("the command for {event} was told to end")]
    Stopped {
        /// `room/a #7`.
        event: String,
    },
}

fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// A running command, with all it started; killed when dropped.
struct Running {
    child: Child,
    is_over: bool,
}

impl Running {
    fn send(&self, signal: Signal) {
        // After its end the number may be another's.
        if !self.is_over {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.send(Signal::KILL);
        // Reaped if that was quick; else with this process.
        let _ = self.child.try_wait();
    }
}

impl Exec {
    /// Runs the command to its end. Dropped while it waits, it kills it.
    ///
    /// # Errors
    /// When it could not be run, or did not end with 0.
    pub(crate) async fn run(&self, event: &v1::Event, stopping: &Stopping) -> Result<(), ExecError> {
        let name = || format!("{} #{}", clean(&event.topic), event.sequence);
        let status = self.status(event, stopping).await;
        let status = status.map_err(|error| ExecError::System { event: name(), error })?;
        if status.success() {
            return Ok(());
        }
        if self.ends_with_task && stopping.is_requested() {
            return Err(ExecError::Stopped { event: name() });
        }
        Err(ExecError::Status { event: name(), status })
    }

    async fn status(&self, event: &v1::Event, stopping: &Stopping) -> io::Result<ExitStatus> {
        // Before the start: no end is missed.
        let mut ends = signal(SignalKind::child())?;
        let mut child = command(&self.command, event).spawn()?;
        let input = child.stdin.take();
        let mut running = Running { child, is_over: false };
        let mut feeding = Box::pin(feed(input, &event.payload));
        let (mut is_fed, mut is_told) = (false, false);
        loop {
            if let Some(status) = running.child.try_wait()? {
                running.is_over = true;
                return Ok(status);
            }
            tokio::select! {
                _ = ends.recv() => {}
                // What it does not read is its own affair.
                _ = &mut feeding, if !is_fed => is_fed = true,
                () = stopping.requested(), if self.ends_with_task && !is_told => {
                    running.send(Signal::TERM);
                    is_told = true;
                }
            }
        }
    }
}

/// In a process group of its own: Ctrl-C is for this program, which then ends the whole group.
fn command(text: &str, event: &v1::Event) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(text).stdin(Stdio::piped()).process_group(0);
    for (name, value) in [
        ("STREAMWARD_TOPIC", &event.topic),
        ("STREAMWARD_SENDER", &event.sender),
        ("STREAMWARD_CONTENT_TYPE", &event.content_type),
        ("STREAMWARD_MESSAGE_ID", &event.message_id),
    ] {
        // A zero byte ends a variable: who publishes must not end us with one.
        command.env(name, value.replace('\0', "\u{fffd}"));
    }
    command.env("STREAMWARD_SEQUENCE", event.sequence.to_string());
    command
}

async fn feed(input: Option<std::process::ChildStdin>, payload: &[u8]) -> io::Result<()> {
    let Some(input) = input else { return Ok(()) };
    let mut input = pipe::Sender::from_owned_fd(OwnedFd::from(input))?;
    input.write_all(payload).await
}
