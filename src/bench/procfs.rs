//! What the kernel says about a process.

use std::error::Error;
use std::fs;

type BenchError = Box<dyn Error>;

/// CPU time of all threads so far, in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64, BenchError> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            total += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(total)
}

/// What a process holds.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    /// Resident set, bytes.
    pub(crate) rss: u64,
    /// What of it is heap and stack: no page of a file.
    pub(crate) anonymous: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
}

/// What the process holds now.
pub(crate) fn held(pid: u32) -> Result<Held, BenchError> {
    // Counted page by page; the counters behind statm may be some hundred KiB late.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Held {
        rss: status_number(&rollup, "Rss")? * 1024,
        anonymous: status_number(&rollup, "Anonymous")? * 1024,
        threads: status_number(&status, "Threads")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

/// The number behind `name:` at the start of a line.
pub(crate) fn status_number(text: &str, name: &str) -> Result<u64, BenchError> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = value.and_then(|value| value.split_ascii_whitespace().next());
    Ok(word.ok_or_else(|| format!("{name} is missing"))?.parse()?)
}
