//! A child process with its lines and its end, without a thread and without the `process` feature of the runtime.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{STREAMWARD, within};

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    /// What it has printed so far.
    pub(crate) out: Lines,
    /// What it has said on stderr so far.
    pub(crate) err: Lines,
    input: Option<pipe::Sender>,
    _readers: JoinSet<()>,
}

/// Lines as they come.
#[derive(Clone, Debug)]
pub(crate) struct Lines(watch::Receiver<Vec<String>>);

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Everything it printed.
    pub(crate) out: String,
    /// Everything it said on stderr.
    pub(crate) err: String,
}

impl Lines {
    /// All there are now.
    pub(crate) fn now(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// The first line at or after `from` that contains `needle`, and its place.
    pub(crate) async fn from(&mut self, from: usize, needle: &str) -> (usize, String) {
        let find = |lines: &[String]| {
            lines.iter().enumerate().skip(from).find(|(_, line)| line.contains(needle)).map(|(at, _)| at)
        };
        let waited = tokio::time::timeout(super::PATIENCE, self.0.wait_for(|lines| find(lines).is_some()));
        let found = matches!(waited.await, Ok(Ok(_)));
        let lines = self.now();
        match find(&lines) {
            Some(at) => (at, lines[at].clone()),
            None if found => unreachable!("lines are only added"),
            None => panic!("no line with {needle:?} in:\n{}", lines.join("\n")),
        }
    }

    /// The first line that contains `needle`.
    pub(crate) async fn with(&mut self, needle: &str) -> String {
        self.from(0, needle).await.1
    }

    async fn ended(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Program {
    /// `streamward` with these arguments and an environment that says nothing.
    pub(crate) fn streamward<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(STREAMWARD);
        command.env_clear().args(args);
        command
    }

    /// Starts it. Its stdin is a pipe that [`write`](Self::write) and [`close_input`](Self::close_input) serve.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_reading(command, Stdio::piped())
    }

    /// Starts it on this stdin.
    pub(crate) fn spawn_reading(mut command: Command, stdin: Stdio) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut readers = JoinSet::new();
        let out = read(&mut readers, child.stdout.take().unwrap().into());
        let err = read(&mut readers, child.stderr.take().unwrap().into());
        let input = child.stdin.take().map(|pipe| pipe::Sender::from_owned_fd(OwnedFd::from(pipe)).unwrap());
        Self { child, out, err, input, _readers: readers }
    }

    /// Runs `streamward` with these arguments and without input, to its end.
    pub(crate) async fn run(args: &[&str]) -> Finished {
        Self::run_with(args, "").await
    }

    /// Runs `streamward` with these arguments and this input, to its end.
    pub(crate) async fn run_with(args: &[&str], input: &str) -> Finished {
        let mut program = Self::spawn(Self::streamward(args.iter().copied()));
        program.write(input).await;
        program.exited().await
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Writes to its stdin.
    pub(crate) async fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("stdin is open");
        match within("a child to read", input.write_all(text.as_bytes())).await {
            // It ended before it had read all: its exit code tells.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
    }

    /// Ends its stdin.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Closes its stdin and waits for its end.
    pub(crate) async fn exited(mut self) -> Finished {
        self.close_input();
        let both = async {
            self.out.ended().await;
            self.err.ended().await;
        };
        if tokio::time::timeout(super::PATIENCE, both).await.is_err() {
            panic!("pid {} does not exit; stderr:\n{}", self.id(), self.err.now().join("\n"));
        }
        // Nobody writes any more: it is ending.
        let status = self.child.wait().unwrap();
        let text = |lines: &Lines| lines.now().iter().map(|line| format!("{line}\n")).collect();
        Finished { code: status.code(), signal: status.signal(), out: text(&self.out), err: text(&self.err) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Itself, when it ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "signal {:?}\nout: {}\nerr: {}", self.signal, self.out, self.err);
        self
    }

    /// What it printed, as JSON documents, one per line.
    #[track_caller]
    pub(crate) fn documents(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// What it printed: one JSON document.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        let mut documents = self.documents();
        assert_eq!(documents.len(), 1, "{}", self.out);
        documents.remove(0)
    }
}

fn read(readers: &mut JoinSet<()>, pipe: OwnedFd) -> Lines {
    let (sender, receiver) = watch::channel(Vec::new());
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(pipe).unwrap()).lines();
    readers.spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all| all.push(line));
        }
    });
    Lines(receiver)
}
