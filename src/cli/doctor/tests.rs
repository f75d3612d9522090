//! The command as a whole: every check answers on any machine, and what comes out is the same for people and programs.

use std::fs;
use std::path::Path;

use clap::Parser as _;
use serde_json::Value;

use crate::cli::doctor::{DoctorArgs, run};
use crate::cli::exit::Exit;
use crate::cli::tests::captured;
use crate::cli::{Cli, Command};

/// Scripts rely on these names: they may become more, not others.
const IDS: [&str; 17] = [
    "architecture",
    "page_size",
    "memory_cgroup",
    "clock",
    "power",
    "temperature",
    "disk",
    "configuration",
    "memory",
    "descriptors",
    "unit",
    "stop_timeout",
    "memory_max",
    "watchdog",
    "socket_activation",
    "exposure",
    "port",
];

fn args(line: &[&str]) -> DoctorArgs {
    let line = ["streamward", "doctor"].iter().chain(line);
    let Command::Doctor(args) = Cli::try_parse_from(line).unwrap().command else {
        unreachable!("it is `doctor`")
    };
    args
}

/// The exit and what was printed.
fn examined(root: &Path, json: bool) -> (Exit, String) {
    let (mut output, out, err) = captured(json);
    let exit = run(&args(&["--root", root.to_str().unwrap()]), &mut output).unwrap();
    assert_eq!(err.text(), "");
    (exit, out.text())
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine with the shipped unit, enabled.
fn installed(root: &Path) {
    let unit = include_str!("../../../systemd/streamward.service");
    write(root, "usr/lib/systemd/system/streamward.service", unit);
    write(root, "etc/systemd/system/multi-user.target.wants/streamward.service", "");
    write(root, "etc/streamward/streamward.toml", &crate::config::reference());
    write(root, "proc/meminfo", "MemTotal: 948000 kB\nMemAvailable: 700000 kB\n");
}

#[test]
fn on_a_machine_that_tells_nothing_every_check_still_answers() {
    let directory = tempfile::tempdir().unwrap();
    let (exit, out) = examined(directory.path(), true);
    assert_eq!(exit, Exit::Ok, "not to know is no failure: {out}");
    let document: Value = serde_json::from_str(&out).unwrap();
    let ids: Vec<&str> =
        document["checks"].as_array().unwrap().iter().map(|check| check["id"].as_str().unwrap()).collect();
    let without_unit = IDS.iter().filter(|id| !matches!(**id, "stop_timeout" | "memory_max" | "watchdog"));
    assert_eq!(ids, without_unit.copied().collect::<Vec<_>>());
    for check in document["checks"].as_array().unwrap() {
        let is_ok = check["verdict"] == "ok";
        assert!(
            check["found"].as_str().is_some_and(|text| !text.is_empty() && !text.ends_with('.')),
            "{check}"
        );
        assert!(check["meaning"].as_str().is_some_and(|text| text.ends_with('.')), "{check}");
        assert!(
            is_ok || check["advice"].as_str().is_some_and(|text| !text.is_empty()),
            "what to do? {check}"
        );
    }
}

#[test]
fn an_installed_hub_is_judged_in_every_respect_and_the_counts_agree() {
    let directory = tempfile::tempdir().unwrap();
    installed(directory.path());
    let (exit, out) = examined(directory.path(), true);
    let document: Value = serde_json::from_str(&out).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert_eq!(ids, IDS);
    let count = |verdict: &str| checks.iter().filter(|check| check["verdict"] == verdict).count();
    for verdict in ["ok", "warn", "fail"] {
        assert_eq!(document[verdict], count(verdict), "{out}");
    }
    assert_eq!((exit, &document["verdict"]), (Exit::Ok, &Value::from("warn")));

    let (_, text) = examined(directory.path(), false);
    let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(heads.len(), IDS.len() + 1, "{text}");
    for (head, id) in heads.iter().zip(IDS) {
        assert_eq!(head.get(6..).and_then(|rest| rest.split(' ').next()), Some(id), "{head}");
        assert!(head.is_char_boundary(25) && head[..25].ends_with("  "), "aligned: {head}");
    }
    let summary = format!("{} ok, {} warn, {} fail", count("ok"), count("warn"), count("fail"));
    assert_eq!(heads.last(), Some(&summary.as_str()));
}

#[test]
fn a_broken_configuration_fails_with_every_mistake_and_the_rest_still_runs() {
    let directory = tempfile::tempdir().unwrap();
    installed(directory.path());
    write(directory.path(), "etc/streamward/streamward.toml", "[server]\nlisten = 5\n[limits]\nleese = 1\n");
    let (exit, out) = examined(directory.path(), true);
    assert_eq!(exit, Exit::Unwell);
    let document: Value = serde_json::from_str(&out).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let check = |id: &str| checks.iter().find(|check| check["id"] == id);
    let configuration = check("configuration").unwrap();
    assert_eq!(configuration["details"].as_array().unwrap().len(), 2, "{configuration}");
    assert!(check("stop_timeout").is_some() && check("memory").is_some());
    assert!(check("exposure").is_none() && check("port").is_none(), "nobody knows where it would listen");
    let (_, text) = examined(directory.path(), false);
    assert!(text.contains("streamward.toml:4:1: there is no key limits.leese"), "{text}");
}

#[test]
fn what_a_file_says_cannot_steer_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "proc/device-tree/model", "Pi\x1b[2J\nok    all  well\0");
    let (_, text) = examined(directory.path(), false);
    assert!(text.contains("Pi\\u{1b}[2J\\nok"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_root_that_is_none_is_a_wrong_command_line() {
    let (mut output, _, _) = captured(false);
    let failure = run(&args(&["--root", "/nonexistent"]), &mut output).unwrap_err();
    assert_eq!(failure.exit(), Exit::Usage);
}
