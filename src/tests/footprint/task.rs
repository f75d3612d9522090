//! A thousand idle tasks against the real hub, with an allocator that counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::ready;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streamward::base::topic::Topic;
use streamward::client::{Credentials, Message, Pipeline, PipelineConfig, Target, TaskState};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Bytes of an idle task, at most.
const TASK_BYTES_MAX: usize = 8 * 1024;
const TASKS: usize = 1000;
/// Started before anything is measured: connection, session and first growths are not a task's.
const WARM: usize = 50;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; the count beside it touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Hub {
    child: Child,
    address: String,
    _err: Lines<BufReader<ChildStderr>>,
    _directory: TempDir,
}

impl Hub {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamward"));
        command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--admin-socket"]);
        command.arg(directory.path().join("admin.sock"));
        for (key, value) in [
            ("LIMITS_STREAMS_PER_SESSION_MAX", "2000"),
            ("LIMITS_STREAMS_PER_CONNECTION_MAX", "2000"),
            ("LIMITS_STREAM_OPENS_PER_SECOND_MAX", "10000"),
            ("LIMITS_SESSIONS_MAX", "8"),
            ("LIMITS_CONNECTIONS_MAX", "32"),
            ("MEMORY_BUDGET_BYTES", "1024MiB"),
        ] {
            command.env(format!("STREAMWARD_{key}"), value);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{said:#?}")).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(',').next().unwrap().to_owned();
            }
            said.push(line);
        };
        Self { child, address, _err: lines, _directory: directory }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn rss_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Until so many tasks stream, and a moment for what is done then.
async fn until_streaming(pipeline: &Pipeline, tasks: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let count = || pipeline.list().iter().filter(|status| status.state == TaskState::Streaming).count();
    while count() < tasks {
        assert!(Instant::now() < deadline, "{} of {tasks} stream: {:?}", count(), pipeline.list().last());
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(200)).await;
}

fn start(pipeline: &Pipeline, number: usize) {
    let target = Target::new(Topic::parse("room/a").unwrap());
    pipeline.start(&format!("task {number}"), [target], |_, _| ready(Ok(()))).unwrap();
}

#[test]
fn an_idle_task_takes_less_than_eight_kibibytes() {
    let hub = Hub::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let credentials = Credentials::User { user: "anna".to_owned(), password: String::new() };
        let config = PipelineConfig::new(hub.address.parse().unwrap(), credentials);
        let pipeline = Pipeline::new(config).unwrap();
        (0..WARM).for_each(|number| start(&pipeline, number));
        until_streaming(&pipeline, WARM).await;
        pipeline.publish(Message::text("room/a", "warm")).await.unwrap();
        let (before, rss_before) = (LIVE.load(Ordering::Relaxed), rss_bytes());
        (WARM..WARM + TASKS).for_each(|number| start(&pipeline, number));
        until_streaming(&pipeline, WARM + TASKS).await;
        let measure =
            || ((LIVE.load(Ordering::Relaxed) - before) / TASKS, (rss_bytes() - rss_before) / TASKS);
        let (idle, idle_rss) = measure();
        println!("a task that has heard nothing: {idle} bytes allocated, {idle_rss} resident");
        pipeline.publish(Message::text("room/a", "to all")).await.unwrap();
        until_streaming(&pipeline, WARM + TASKS).await;
        let (heard, heard_rss) = measure();
        println!("a task that has heard something: {heard} bytes allocated, {heard_rss} resident");
        assert!(idle < TASK_BYTES_MAX, "{idle} bytes allocated for an idle task");
        assert!(heard < TASK_BYTES_MAX, "{heard} bytes allocated for a task that is idle again");
        pipeline.shutdown(Duration::from_secs(10)).await;
    });
}
