//! What the journal is written to, and how long it takes. The hub itself writes nothing to a disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::limits::{DOCTOR_SYNC_SLOW, DOCTOR_SYNC_STALL, DOCTOR_SYNCS_MAX, DOCTOR_SYNCS_TIMEOUT};
use crate::base::order::sort_by;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;

/// The disk below `/var/log`.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    kind: Kind,
    /// Such as `mmcblk0p2`, or the filesystem where there is no device.
    name: String,
    sample: Result<Sample, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SdCard,
    Emmc,
    Other,
    /// Nothing reaches a disk.
    Memory,
    /// An overlay, a network, or no table of mounts.
    Unknown,
}

/// How long small writes took to be safe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    count: usize,
    median: Duration,
    worst: Duration,
}

/// One line of `/proc/self/mountinfo` (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR`.
    device: String,
    filesystem: String,
    source: String,
}

/// Where the journal and every other log is.
const LOGS: &str = "/var/log";
/// Anyone may write here, and it outlives a reboot: on a disk.
const SCRATCH: &str = "/var/tmp";
/// What each write adds: a page, as the journal does.
const WRITE_BYTES: usize = 4096;

pub(crate) fn read(root: &Root) -> Disk {
    let mounts = root.text("/proc/self/mountinfo").unwrap_or_default();
    let mount = mount_of(&mounts, LOGS);
    let (kind, name) =
        mount.as_ref().map_or((Kind::Unknown, "a disk not known".to_owned()), |mount| kind_of(root, mount));
    let sample = if kind == Kind::Memory {
        Err("it is memory".to_owned())
    } else if mount.is_none() {
        Err("no table of mounts".to_owned())
    } else if mount_of(&mounts, SCRATCH) != mount {
        Err(format!("{SCRATCH} is not on it"))
    } else {
        sample(&root.path(SCRATCH)).map_err(|error| format!("{SCRATCH}: {error}"))
    };
    Disk { kind, name, sample }
}

/// The mount that a path lies on: the deepest one above it, and of several at one place the last.
fn mount_of(mountinfo: &str, path: &str) -> Option<Mount> {
    let mut found: Option<(usize, Mount)> = None;
    for line in mountinfo.lines() {
        let Some((point, mount)) = mount(line) else { continue };
        let is_above = path
            .strip_prefix(point)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || point.ends_with('/'));
        if is_above && found.as_ref().is_none_or(|(length, _)| *length <= point.len()) {
            found = Some((point.len(), mount));
        }
    }
    found.map(|(_, mount)| mount)
}

/// `36 35 179:2 / /mnt rw,noatime master:1 - ext4 /dev/root rw`: the mount point and what is there.
fn mount(line: &str) -> Option<(&str, Mount)> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(2);
    let (device, point) = (place.next()?, place.nth(1)?);
    let mut what = what.split(' ');
    let (filesystem, source) = (what.next()?, what.next()?);
    let mount =
        Mount { device: device.to_owned(), filesystem: filesystem.to_owned(), source: source.to_owned() };
    Some((point, mount))
}

fn kind_of(root: &Root, mount: &Mount) -> (Kind, String) {
    if matches!(mount.filesystem.as_str(), "tmpfs" | "ramfs") {
        return (Kind::Memory, mount.filesystem.clone());
    }
    let by_number = root.link_name(&format!("/sys/dev/block/{}", mount.device));
    // Btrfs has a number of its own, and a source that is a device.
    let by_source = || mount.source.strip_prefix("/dev/").map(ToOwned::to_owned);
    let Some(name) = by_number.or_else(by_source) else {
        return (Kind::Unknown, mount.filesystem.clone());
    };
    let kind = match root.word(&format!("/sys/block/{}/device/type", card_of(&name))).as_deref() {
        Some("SD") => Kind::SdCard,
        Some("MMC") => Kind::Emmc,
        // Without sysfs the name must do; a Pi with eMMC is the rarer one.
        _ if name.starts_with("mmcblk") => Kind::SdCard,
        _ => Kind::Other,
    };
    (kind, name)
}

/// `mmcblk0` of `mmcblk0p2`.
fn card_of(name: &str) -> &str {
    match name.rsplit_once('p') {
        Some((card, part)) if card.starts_with("mmcblk") && part.parse::<u32>().is_ok() => card,
        Some(_) | None => name,
    }
}

/// Removed with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in a directory that is cleaned.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a little and waits for the disk, again and again. A single wait cannot be cut short: it is the disk's.
fn sample(directory: &Path) -> io::Result<Sample> {
    let scratch = Scratch(directory.join(format!(".streamward-doctor-{}", std::process::id())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch.0)?;
    let start = Instant::now();
    let mut took = Vec::with_capacity(DOCTOR_SYNCS_MAX);
    while took.len() < DOCTOR_SYNCS_MAX && (took.is_empty() || start.elapsed() < DOCTOR_SYNCS_TIMEOUT) {
        let begun = Instant::now();
        file.write_all(&[0; WRITE_BYTES])?;
        file.sync_all()?;
        took.push(begun.elapsed());
    }
    Ok(summed_up(took))
}

fn summed_up(mut took: Vec<Duration>) -> Sample {
    sort_by(&mut took, Ord::cmp);
    let at = |index: usize| took.get(index).copied().unwrap_or_default();
    Sample { count: took.len(), median: at(took.len() / 2), worst: took.last().copied().unwrap_or_default() }
}

/// Milliseconds with one decimal.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

pub(crate) fn judge(disk: &Disk) -> Finding {
    const ID: &str = "disk";
    const QUIET: &str = "The hub writes nothing to it; the journal does.";
    let kind = match disk.kind {
        Kind::SdCard => "SD card",
        Kind::Emmc => "eMMC",
        Kind::Other => "disk, no SD card",
        Kind::Memory => "memory, no disk",
        Kind::Unknown => "not known what",
    };
    let found = format!("{LOGS} is on {} ({kind})", disk.name);
    let sample = match &disk.sample {
        Ok(sample) => sample,
        Err(_) if disk.kind == Kind::Memory => {
            return Finding::ok(ID, found, "Nothing wears out; the log is gone after a reboot.");
        }
        Err(why) => return Finding::ok(ID, format!("{found}; fsync not timed: {why}"), QUIET),
    };
    let (median, worst) = (milliseconds(sample.median), milliseconds(sample.worst));
    let found = format!("{found}; fsync {median} ms, worst of {} {worst} ms", sample.count);
    let finding = if sample.median >= DOCTOR_SYNC_SLOW || sample.worst >= DOCTOR_SYNC_STALL {
        Finding::warn(
            ID,
            found,
            "Slow: 5 to 50 ms are usual. The hub writes nothing to it, but waits with its log while the journal waits.",
            "Keep the journal in memory (Storage=volatile in /etc/systemd/journald.conf), see what else writes, or take \
             another card.",
        )
    } else if disk.kind == Kind::SdCard {
        Finding::ok(ID, found, format!("{QUIET} Storage=volatile in journald.conf spares the card."))
    } else {
        Finding::ok(ID, found, QUIET)
    };
    finding.value("fsync_median_ms", median).value("fsync_worst_ms", worst).value("fsyncs", sample.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    const MOUNTINFO: &str = "\
21 27 0:20 / /proc rw shared:12 - proc proc rw
27 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw
30 27 0:28 / /var rw - overlay overlay rw
31 27 0:29 / /var/lo rw - tmpfs tmpfs rw
40 27 8:1 / /var/log rw - ext4 /dev/sda1 rw
41 27 8:2 / /var/log rw - ext4 /dev/sda2 rw
";

    fn disk(kind: Kind, sample: Result<(u64, u64), &str>) -> Disk {
        let sample = sample.map(|(median, worst)| Sample {
            count: 16,
            median: Duration::from_millis(median),
            worst: Duration::from_millis(worst),
        });
        Disk { kind, name: "mmcblk0p2".to_owned(), sample: sample.map_err(ToOwned::to_owned) }
    }

    #[test]
    fn a_card_of_usual_speed_is_well_and_a_slow_one_a_warning() {
        for (sample, verdict) in [
            (Ok((12, 60)), Verdict::Ok),
            (Ok((99, 999)), Verdict::Ok),
            (Ok((100, 100)), Verdict::Warn),
            (Ok((5, 1000)), Verdict::Warn),
            (Err("no space left"), Verdict::Ok),
        ] {
            for kind in [Kind::SdCard, Kind::Emmc, Kind::Other, Kind::Unknown] {
                assert_eq!(judge(&disk(kind, sample)).verdict, verdict, "{sample:?}");
            }
        }
        let finding = judge(&disk(Kind::SdCard, Ok((12, 60))));
        assert_eq!(finding.found, "/var/log is on mmcblk0p2 (SD card); fsync 12 ms, worst of 16 60 ms");
        let finding = judge(&disk(Kind::SdCard, Err("no space left")));
        assert!(finding.found.ends_with("fsync not timed: no space left"), "{finding:?}");
    }

    #[test]
    fn the_deepest_and_last_mount_above_a_path_holds_it() {
        let device = |mountinfo: &str, path| mount_of(mountinfo, path).map(|mount| mount.device);
        assert_eq!(device(MOUNTINFO, "/var/log").as_deref(), Some("8:2"));
        assert_eq!(device(MOUNTINFO, "/var/tmp").as_deref(), Some("0:28"));
        assert_eq!(device(MOUNTINFO, "/home").as_deref(), Some("179:2"));
        for junk in ["", "\n", "1 2 3", "27 1 179:2 / / rw", "27 1 179:2 - ext4", " - "] {
            assert_eq!(mount_of(junk, "/var/log"), None, "{junk:?}");
        }
    }

    #[test]
    fn a_card_an_emmc_and_a_disk_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        fs::create_dir_all(root.path("/sys/dev/block")).unwrap();
        for (number, name) in [("179:2", "mmcblk0p2"), ("179:34", "mmcblk1p2"), ("8:1", "sda1")] {
            std::os::unix::fs::symlink(
                format!("../../x/{name}"),
                root.path(&format!("/sys/dev/block/{number}")),
            )
            .unwrap();
        }
        for (card, kind) in [("mmcblk0", "SD\n"), ("mmcblk1", "MMC\n")] {
            fs::create_dir_all(root.path(&format!("/sys/block/{card}/device"))).unwrap();
            fs::write(root.path(&format!("/sys/block/{card}/device/type")), kind).unwrap();
        }
        let kind = |device: &str, filesystem: &str, source: &str| {
            kind_of(
                &root,
                &Mount { device: device.into(), filesystem: filesystem.into(), source: source.into() },
            )
        };
        assert_eq!(kind("179:2", "ext4", "/dev/root"), (Kind::SdCard, "mmcblk0p2".to_owned()));
        assert_eq!(kind("179:34", "ext4", "/dev/root"), (Kind::Emmc, "mmcblk1p2".to_owned()));
        assert_eq!(kind("8:1", "ext4", "/dev/root"), (Kind::Other, "sda1".to_owned()));
        assert_eq!(kind("0:30", "btrfs", "/dev/mmcblk9p1"), (Kind::SdCard, "mmcblk9p1".to_owned()));
        assert_eq!(kind("0:30", "overlay", "overlay"), (Kind::Unknown, "overlay".to_owned()));
        assert_eq!(kind("0:30", "tmpfs", "tmpfs"), (Kind::Memory, "tmpfs".to_owned()));
    }

    #[test]
    fn the_file_is_gone_after_the_sample_and_one_in_the_way_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let taken = sample(directory.path()).unwrap();
        assert!((1..=DOCTOR_SYNCS_MAX).contains(&taken.count) && taken.median <= taken.worst, "{taken:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(sample(&directory.path().join("none")).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let ms = |numbers: &[u64]| summed_up(numbers.iter().copied().map(Duration::from_millis).collect());
        let expected = Sample { count: 3, median: Duration::from_millis(5), worst: Duration::from_millis(9) };
        assert_eq!(ms(&[9, 1, 5]), expected);
        assert_eq!(ms(&[]).worst, Duration::ZERO);
        assert!((milliseconds(Duration::from_micros(1_250)) - 1.3).abs() < 0.01);
    }
}
