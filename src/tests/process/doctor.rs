//! `streamward doctor` on machines that are directories, and on this one.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Finished, Program};

/// What a Pi 4 looks like as Raspberry Pi OS boots it, with the shipped unit installed and enabled.
const PI: [(&str, &str); 19] = [
    ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
    ("proc/cmdline", "coherent_pool=1M cgroup_disable=memory console=tty1 root=PARTUUID=1-02 rootwait\n"),
    ("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t50\t1\nmemory\t0\t50\t0\n"),
    ("proc/meminfo", "MemTotal:         931508 kB\nMemFree: 1 kB\nMemAvailable:     700000 kB\n"),
    ("proc/self/limits", "Max open files            1024                 4096                 files     \n"),
    ("proc/self/mountinfo", "27 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n"),
    ("proc/net/tcp", "  sl  local_address\n   0: 00000000:0016 00000000:0000 0A 0:0\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n"),
    ("sys/block/mmcblk0/device/type", "SD\n"),
    ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
    ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
    ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
    ("run/systemd/timesync/synchronized", ""),
    ("boot/firmware/cmdline.txt", "console=tty1 root=PARTUUID=1-02 rootwait\n"),
    ("usr/lib/systemd/system/streamward.service", include_str!("../../../systemd/streamward.service")),
    ("etc/systemd/system/multi-user.target.wants/streamward.service", ""),
    ("etc/streamward/streamward.toml", include_str!("../../../systemd/streamward.toml")),
    ("var/tmp/.keep", ""),
];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn pi() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in PI {
        write(root.path(), path, text);
    }
    fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
    fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
    let link = root.path().join("sys/dev/block/179:2");
    std::os::unix::fs::symlink("../../devices/platform/mmc/block/mmcblk0/mmcblk0p2", link).unwrap();
    root
}

async fn doctor(root: &Path) -> Finished {
    Program::run(&["doctor", "--json", "--root", root.to_str().unwrap()]).await
}

/// The check of that name.
#[track_caller]
fn check(document: &Value, id: &str) -> Value {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {document}")).clone()
}

/// Checks that were not well, but for the disk: how fast it is depends on where the tests run.
fn unwell(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap().iter();
    let not_well = checks.filter(|check| check["verdict"] != "ok" && check["id"] != "disk");
    not_well.map(|check| (text(&check["id"]), text(&check["verdict"]))).collect()
}

#[tokio::test]
async fn a_pi_as_it_is_delivered_has_one_warning_and_that_is_no_failure() {
    let root = pi();
    let document = doctor(root.path()).await.expect(0).document();
    assert_eq!(unwell(&document), [("memory_cgroup".to_owned(), "warn".to_owned())], "{document:#}");
    let cgroup = check(&document, "memory_cgroup");
    assert!(cgroup["advice"].as_str().unwrap().contains("/boot/firmware/cmdline.txt"), "{cgroup}");
    assert_eq!(check(&document, "architecture")["values"]["model"], "Raspberry Pi 4 Model B Rev 1.4");
    let disk = check(&document, "disk");
    assert!(
        disk["found"].as_str().unwrap().starts_with("/var/log is on mmcblk0p2 (SD card); fsync "),
        "{disk}"
    );
    assert!(disk["values"]["fsync_median_ms"].is_number(), "{disk}");
    assert_eq!(fs::read_dir(root.path().join("var/tmp")).unwrap().count(), 1, "nothing is left there");
}

#[tokio::test]
async fn what_an_operator_has_changed_is_judged_and_a_failure_is_the_exit_code() {
    let root = pi();
    let drop_in = "etc/systemd/system/streamward.service.d/override.conf";
    write(root.path(), drop_in, "[Service]\nTimeoutStopSec=10\nLimitNOFILE=100\nMemoryMax=\n");
    write(
        root.path(),
        "etc/streamward/streamward.toml",
        "[server]\nlisten = \"0.0.0.0:50051\"\n[auth]\nallow_open = true\n",
    );
    let taken = "  sl  local_address\n   0: 00000000:C383 00000000:0000 0A 0:0\n";
    write(root.path(), "proc/net/tcp", taken);
    write(root.path(), "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
    fs::remove_file(root.path().join("run/systemd/timesync/synchronized")).unwrap();
    let document = doctor(root.path()).await.expect(1).document();
    let expected = [
        ("memory_cgroup", "warn"),
        ("clock", "warn"),
        ("power", "warn"),
        ("descriptors", "fail"),
        ("stop_timeout", "fail"),
        ("memory_max", "warn"),
        ("exposure", "warn"),
        ("port", "fail"),
    ];
    assert_eq!(unwell(&document), expected.map(|(id, verdict)| (id.to_owned(), verdict.to_owned())));
    assert_eq!((&document["verdict"], &document["fail"]), (&"fail".into(), &3.into()));
    assert!(check(&document, "unit")["found"].as_str().unwrap().ends_with("override.conf"));

    // Repaired, it is well again; the hub that has the port is ours.
    fs::remove_file(root.path().join(drop_in)).unwrap();
    write(root.path(), "proc/77/cmdline", "/usr/bin/streamward\0serve\0");
    doctor(root.path()).await.expect(0);
}

#[tokio::test]
async fn a_socket_that_lets_the_network_in_where_the_configuration_does_not_fails() {
    let root = pi();
    write(root.path(), "usr/lib/systemd/system/streamward.socket", "[Socket]\nListenStream=50051\n");
    doctor(root.path()).await.expect(0);
    write(root.path(), "etc/systemd/system/sockets.target.wants/streamward.socket", "");
    let document = doctor(root.path()).await.expect(1).document();
    assert_eq!(check(&document, "socket_activation")["verdict"], "warn");
    assert_eq!(check(&document, "exposure")["verdict"], "fail");
}

#[tokio::test]
async fn every_mistake_of_the_configuration_is_told_and_the_rest_still_runs() {
    let root = pi();
    write(root.path(), "etc/streamward/streamward.toml", "[limits]\nleese = 1\ntopics_max = \"many\"\n");
    let run = Program::run(&["doctor", "--root", root.path().to_str().unwrap()]).await.expect(1);
    for needle in [
        "streamward.toml:2:1: there is no key limits.leese; did you mean limits.lease?",
        "streamward.toml:3:14: limits.topics_max cannot be",
        "stop_timeout       TimeoutStopSec=30s",
        " ok, 1 warn, 1 fail",
    ] {
        assert!(run.out.contains(needle), "{needle}:\n{}", run.out);
    }
    assert!(!run.out.contains('\x1b'), "no colours in a pipe");
}

#[tokio::test]
async fn on_this_machine_it_comes_to_an_end() {
    let run = Program::run(&["doctor", "--json"]).await;
    assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    assert_eq!((run.document()["checks"][0]["id"].as_str(), run.err.as_str()), (Some("architecture"), ""));
}
