//! What the kernel says of this process, its cgroup and the machine.
//!
//! These files are made as they are read: no disk is touched. Each is opened once and read again from its start. One
//! that is missing, unreadable or of another form is a number not known; that is never an error.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::base::limits::DESCRIPTORS_COUNT_TICKS;
use crate::config::machine::number;
use crate::runtime::pressure::Permille;

/// One look; 0 is not known or no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Resident set.
    pub rss_bytes: u64,
    /// `MemAvailable` of the machine; a machine may really have none left.
    pub available_bytes: Option<u64>,
    /// The cgroup's memory (v2).
    pub cgroup: CgroupMemory,
    /// Share of the last ten seconds in which something waited for memory (PSI, some avg10).
    pub stalled: Permille,
    /// Threads.
    pub threads: u32,
    /// Open descriptors.
    pub descriptors: u64,
    /// `RLIMIT_NOFILE`.
    pub descriptors_max: u64,
}

/// What a cgroup holds and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupMemory {
    /// `memory.current`.
    pub current_bytes: u64,
    /// `memory.high`.
    pub high_bytes: u64,
    /// `memory.max`.
    pub max_bytes: u64,
}

/// The open files.
#[derive(Debug)]
pub struct Procfs {
    statm: Kernel,
    stat: Kernel,
    meminfo: Kernel,
    cgroup_current: Kernel,
    cgroup_high: Kernel,
    cgroup_max: Kernel,
    stalled: Kernel,
    page_bytes: u64,
    descriptors: u64,
    /// Until descriptors are counted again, where that is dear.
    count_in: u32,
    buffer: Vec<u8>,
}

/// One file, or none.
#[derive(Debug)]
struct Kernel(Option<File>);

/// The longest of these files is `meminfo`; what is needed of it stands in its first lines.
const BUFFER_BYTES: usize = 2048;

impl Kernel {
    fn open(path: &Path) -> Self {
        Self(File::open(path).ok())
    }

    fn in_directory(directory: Option<&PathBuf>, name: &str) -> Self {
        Self(directory.and_then(|directory| File::open(directory.join(name)).ok()))
    }

    /// The text, cut to the buffer; empty when there is none.
    fn read<'a>(&self, buffer: &'a mut [u8]) -> &'a str {
        let read = self.0.as_ref().and_then(|file| file.read_at(buffer, 0).ok()).unwrap_or(0);
        let text = buffer.get(..read).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl Procfs {
    /// Opens what there is.
    #[must_use]
    pub fn open() -> Self {
        let proc = |name: &str| Kernel::open(&Path::new("/proc").join(name));
        let text = |name: &str| fs::read_to_string(name).unwrap_or_default();
        let cgroup = cgroup_directory(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let in_cgroup = |name: &str| Kernel::in_directory(cgroup.as_ref(), name);
        let own_stalled = in_cgroup("memory.pressure");
        Self {
            statm: proc("self/statm"),
            stat: proc("self/stat"),
            meminfo: proc("meminfo"),
            cgroup_current: in_cgroup("memory.current"),
            cgroup_high: in_cgroup("memory.high"),
            cgroup_max: in_cgroup("memory.max"),
            stalled: if own_stalled.0.is_some() { own_stalled } else { proc("pressure/memory") },
            page_bytes: rustix::param::page_size() as u64,
            descriptors: 0,
            count_in: 0,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Looks at everything.
    pub fn read(&mut self) -> Reading {
        let descriptors = self.count_descriptors();
        let buffer = &mut self.buffer;
        Reading {
            rss_bytes: resident_pages(self.statm.read(buffer)).unwrap_or(0).saturating_mul(self.page_bytes),
            available_bytes: available_bytes(self.meminfo.read(buffer)),
            cgroup: CgroupMemory {
                current_bytes: cgroup_bytes(self.cgroup_current.read(buffer)),
                high_bytes: cgroup_bytes(self.cgroup_high.read(buffer)),
                max_bytes: cgroup_bytes(self.cgroup_max.read(buffer)),
            },
            stalled: stalled(self.stalled.read(buffer)).unwrap_or(0),
            threads: threads(self.stat.read(buffer)).unwrap_or(0),
            descriptors,
            descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(0),
        }
    }

    /// Since Linux 6.2 the directory's size is their number. Before, they are counted, and only now and then.
    fn count_descriptors(&mut self) -> u64 {
        let told = fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len());
        if told > 0 {
            return told;
        }
        if self.count_in == 0 {
            self.count_in = DESCRIPTORS_COUNT_TICKS;
            // One of them is the directory being read.
            let counted =
                fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
            self.descriptors = counted as u64;
        }
        self.count_in -= 1;
        self.descriptors
    }
}

/// The second field of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// The 20th field of `stat`. The second is the program's name in brackets, which may hold anything.
fn threads(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(17)?.parse().ok()
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    number(meminfo, "MemAvailable:", 0).map(|kibibytes| kibibytes.saturating_mul(1024))
}

/// A number of bytes; `max` is no limit.
fn cgroup_bytes(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// `avg10` of the line `some`, a percentage with two decimals.
fn stalled(pressure: &str) -> Option<Permille> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent = some.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, ""));
    let tenth = decimals.chars().next().map_or(Some(0), |digit| digit.to_digit(10))?;
    whole.parse::<Permille>().ok()?.checked_mul(10)?.checked_add(tenth)
}

/// Where the files of our cgroup are: its path (`0::` in `cgroup`) below the mount of cgroup v2. `None` where there
/// is no v2, or where our cgroup lies outside of what is mounted.
fn cgroup_directory(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    mountinfo.lines().find_map(|line| {
        // proc(5): the root within the filesystem and the mount point are fields 4 and 5, the type follows " - ".
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split_whitespace().next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split_whitespace().skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = if root == "/" { path } else { path.strip_prefix(root)? };
        if !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        Some(Path::new(&unescaped(point)).join(below.trim_start_matches('/')))
    })
}

/// Blanks in a mount point are written `\040`, and a backslash `\134`.
fn unescaped(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn numbers_are_read_from_what_the_kernel_writes() {
        assert_eq!(resident_pages("1270 405 366 5 0 193 0\n"), Some(405));
        let stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 300 0 0 0 1 2 0 0 20 0 3 0 99 5201920 405 1844674407\n";
        assert_eq!(threads(stat), Some(3));
        let meminfo =
            "MemTotal:         931508 kB\nMemFree:           12345 kB\nMemAvailable:     500000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(500_000 * 1024));
        assert_eq!(available_bytes("MemAvailable:       0 kB\n"), Some(0));
        assert_eq!(cgroup_bytes("268435456\n"), 268_435_456);
        let psi =
            "some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=99.00 avg60=0 avg300=0 total=9\n";
        assert_eq!(stalled(psi), Some(123));
        assert_eq!(stalled("some avg10=100.00 avg60=0.00\n"), Some(1000));
    }

    #[test]
    fn what_is_missing_or_of_another_form_is_not_known() {
        for text in ["", "\n", "x", "-1 -1", "1", "1 x", ")", "some", "some avg10=", "MemAvailable:", "\u{0}"]
        {
            assert_eq!(resident_pages(text), None, "{text:?}");
            assert_eq!(threads(text), None, "{text:?}");
            assert_eq!(available_bytes(text), None, "{text:?}");
            assert_eq!(stalled(text), None, "{text:?}");
        }
        for text in ["max\n", "", "x", "-5", "18446744073709551616"] {
            assert_eq!(cgroup_bytes(text), 0, "{text:?}");
        }
        for text in
            ["some avg10=x.00\n", "some avg10=1.x\n", "some avg10=4294967295.00\n", "full avg10=1.00\n"]
        {
            assert_eq!(stalled(text), None, "{text:?}");
        }
        // Cut in the middle of a field, as a full buffer would.
        assert_eq!(threads("1 (x) S 1 1 1 0 -1 4194560 300 0 0 0 1 2 0 0 20 0"), None);
    }

    #[test]
    fn our_cgroup_is_found_below_its_mount() {
        let directory = |cgroup: &str, mountinfo: &str| {
            cgroup_directory(cgroup, mountinfo).map(|path| path.display().to_string())
        };
        let service = "0::/system.slice/streamward.service\n";
        let expected = Some("/sys/fs/cgroup/system.slice/streamward.service".to_owned());
        assert_eq!(directory(service, MOUNTINFO), expected);
        assert_eq!(directory("0::/\n", MOUNTINFO), Some("/sys/fs/cgroup/".to_owned()));
        let hybrid = "4:memory:/x\n1:name=systemd:/\n0::/user.slice\n";
        assert_eq!(directory(hybrid, MOUNTINFO), Some("/sys/fs/cgroup/user.slice".to_owned()));
        let bound = MOUNTINFO.replace("0:28 / /sys/fs/cgroup", "0:28 /docker/1 /sys/fs/my\\040group");
        assert_eq!(directory("0::/docker/1/x\n", &bound), Some("/sys/fs/my group/x".to_owned()));
        assert_eq!(directory("0::/docker/1\n", &bound), Some("/sys/fs/my group/".to_owned()));
    }

    #[test]
    fn a_cgroup_that_cannot_be_found_is_none() {
        for cgroup in ["", "4:memory:/x\n", "0::\n", "0::/../other\n", "0::relative\n", "junk"] {
            assert_eq!(cgroup_directory(cgroup, MOUNTINFO), None, "{cgroup:?}");
        }
        for mountinfo in
            ["", "junk\n", "31 23 0:28 / - cgroup2", " - cgroup2", "1 2 3 / /x rw - cgroup v1 rw\n"]
        {
            assert_eq!(cgroup_directory("0::/a\n", mountinfo), None, "{mountinfo:?}");
        }
        let bound = MOUNTINFO.replace("0:28 / ", "0:28 /docker/1 ");
        assert_eq!(cgroup_directory("0::/docker/12/x\n", &bound), None);
    }

    #[test]
    fn this_process_is_read_again_and_again() {
        let mut procfs = Procfs::open();
        let first = procfs.read();
        assert!(first.rss_bytes > 0 && first.threads > 0 && first.descriptors > 0, "{first:?}");
        assert!(first.available_bytes.is_some_and(|bytes| bytes > 0));
        let held = File::open("/proc/self/statm").unwrap();
        let second = procfs.read();
        assert!(second.rss_bytes > 0 && second.threads > 0, "{second:?}");
        drop(held);
    }
}
