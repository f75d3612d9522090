//! The rules of the house, as a test: floors and walls, sizes, headings, and that the shipped files agree with
//! the defaults. Each check is a function from text to findings, so that it can be shown to fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::bill;
use crate::base::limits::LISTEN_BACKLOG;
use crate::config::{Config, Flags, load, reference};

/// Bottom to top: a file names only floors below its own, and its own.
const FLOORS: [&str; 11] =
    ["base", "runtime", "config", "wire", "hub", "bus", "server", "client", "load", "daemon", "cli"];
/// Below, and yet not to be seen.
const WALLS: [(&str, &[&str]); 6] = [
    ("config", &["runtime"]),
    ("hub", &["wire"]),
    ("bus", &["wire"]),
    ("client", &["config", "hub", "bus", "server"]),
    ("load", &["config", "hub", "bus", "server"]),
    ("daemon", &["wire", "client", "load"]),
];
/// Not floors: `main.rs` and `lib.rs` name everything, the rest is no production code.
const EXEMPT: [&str; 5] = ["main", "lib", "man", "tests", "bench"];
/// The one file with generated code.
const GENERATED: &str = "wire/mod.rs";
/// The one call into the C library.
const FOREIGN: &str = "runtime/heap.rs";
/// Longest production part of a file.
const LINES_MAX: usize = 500;

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 10, "no sources under {}", root.display());
    for path in files {
        let name = path.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
        findings.extend(file_findings(&name, &fs::read_to_string(&path).unwrap()));
    }
    findings.extend(unit_findings(&read(&root.join("systemd/streamward.service")), &Config::default()));
    findings.extend(socket_findings(&read(&root.join("systemd/streamward.socket")), &Config::default()));
    findings.extend(shipped_findings(&root.join("systemd/streamward.toml")));
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
#[ignore = "writes systemd/streamward.toml; run it after a change of the keys"]
fn write_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/streamward.toml");
    fs::write(path, reference()).unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every check of one source file; `name` is its path below `src`.
fn file_findings(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{name}:1: the first line says what the file is: `//! …`"));
    }
    let place = name.strip_suffix(".rs").unwrap_or(name);
    let floor = place.split('/').next().unwrap_or(place);
    // A module of tests in a file of its own.
    let is_test = place.ends_with("/tests") || place.contains("/tests/");
    if is_test || matches!(floor, "tests" | "bench" | "oracles" | "fuzz") {
        return findings;
    }
    let production = production(text);
    let lines = production.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{name}: {lines} lines of production code, {LINES_MAX} at most: split it"));
    }
    for (at, line) in production.lines().enumerate() {
        let code = code(line);
        let here = format!("{name}:{}", at + 1);
        if !EXEMPT.contains(&floor) {
            findings.extend(edge_findings(&here, floor, code));
        }
        findings.extend(line_findings(&here, name, code));
    }
    findings
}

/// The text before the inline test module.
fn production(text: &str) -> &str {
    let is_inline = |at: &usize| {
        let item = text[*at..].lines().nth(1).unwrap_or_default();
        item.contains("mod ") && item.ends_with('{')
    };
    let mut starts = text.match_indices("\n#[cfg(test)]").map(|(at, _)| at + 1);
    starts.find(is_inline).map_or(text, |end| &text[..end])
}

/// The line without its comment; `//` after a colon is an address in a text.
fn code(line: &str) -> &str {
    let mut comments = line.match_indices("//").map(|(at, _)| at);
    comments.find(|at| !line[..*at].ends_with(':')).map_or(line, |at| &line[..at])
}

/// What follows each `crate::` of a line.
fn crate_names(code: &str) -> impl Iterator<Item = &str> {
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    code.match_indices("crate::")
        .filter(move |(at, _)| !code[..*at].ends_with(is_name))
        .map(|(at, found)| &code[at + found.len()..])
        .map(move |rest| rest.split(|byte| !is_name(byte)).next().unwrap_or_default())
}

fn edge_findings(here: &str, floor: &str, code: &str) -> Vec<String> {
    let rank = |name: &str| FLOORS.iter().position(|floor| *floor == name);
    let Some(own) = rank(floor) else {
        return crate_names(code).map(|_| format!("{here}: {floor} is no floor of the house")).collect();
    };
    let walls = WALLS.iter().find(|(from, _)| *from == floor).map_or(&[][..], |(_, walls)| walls);
    let judge = |named: &str| match rank(named) {
        None if named.is_empty() => Some(format!("{here}: one `use` per floor, no `crate::{{`")),
        None => Some(format!("{here}: {named} is no floor of the house")),
        Some(other) if other > own => Some(format!("{here}: {floor} names {named}, a floor above it")),
        Some(_) if walls.contains(&named) => Some(format!("{here}: wall between {floor} and {named}")),
        Some(_) => None,
    };
    crate_names(code).filter_map(judge).collect()
}

fn line_findings(here: &str, name: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if code.contains("super::") {
        findings.push(format!("{here}: `super::`: write `crate::…`"));
    }
    let is_excepted = name == GENERATED || name == FOREIGN && code.trim() == "#[allow(unsafe_code)]";
    if (code.contains("#[allow(") || code.contains("#![allow(")) && !is_excepted {
        findings
            .push(format!("{here}: `allow`: follow the lint, or change it in Cargo.toml with its reason"));
    }
    if code.contains("env::var") && !name.starts_with("config/") {
        findings.push(format!("{here}: only config reads the environment"));
    }
    findings
}

/// Where the unit file and the configuration disagree.
fn unit_findings(unit: &str, config: &Config) -> Vec<String> {
    let mut findings = Vec::new();
    let phases = config.shutdown.longest();
    match seconds(unit, "TimeoutStopSec") {
        Some(seconds) if Duration::from_secs(seconds) >= phases => {}
        found => findings.push(format!("unit: TimeoutStopSec = {found:?}, the phases take {phases:?}")),
    }
    let files = crate::daemon::descriptors::needed(&config.limits);
    match setting(unit, "LimitNOFILE").and_then(|value| value.parse::<u64>().ok()) {
        Some(limit) if limit >= files => {}
        found => findings.push(format!("unit: LimitNOFILE = {found:?}, the connections need {files}")),
    }
    let tasks = config.server.threads_max + 1;
    match setting(unit, "TasksMax").and_then(|value| value.parse::<u32>().ok()) {
        Some(limit) if limit >= tasks => {}
        found => findings.push(format!("unit: TasksMax = {found:?}, the threads and ExecReload are {tasks}")),
    }
    let budget_bytes = bill::budget_bytes(&config.memory, u64::MAX);
    match setting(unit, "MemoryMax").and_then(mebibytes) {
        Some(limit) if limit == budget_bytes => {}
        found => {
            findings
                .push(format!("unit: MemoryMax = {found:?}, the largest default budget is {budget_bytes}"));
        }
    }
    if setting(unit, "MemoryHigh").is_some() {
        findings.push("unit: MemoryHigh= stalls the process instead of ending it".to_owned());
    }
    if seconds(unit, "WatchdogSec").is_none_or(|seconds| seconds == 0) {
        findings.push("unit: no WatchdogSec: a stuck process would stay".to_owned());
    }
    for (key, value) in [("Type", "notify"), ("RuntimeDirectory", "streamward")] {
        if setting(unit, key) != Some(value) {
            findings.push(format!("unit: {key}={value} is missing"));
        }
    }
    let families = setting(unit, "RestrictAddressFamilies").unwrap_or("AF_UNIX");
    if !families.split_whitespace().any(|family| family == "AF_UNIX") {
        findings.push("unit: without AF_UNIX systemd hears nothing from us".to_owned());
    }
    findings
}

/// Where the socket unit and the configuration disagree.
fn socket_findings(unit: &str, config: &Config) -> Vec<String> {
    let mut findings = Vec::new();
    let addresses: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    if addresses != [config.server.listen.to_string()] {
        findings.push(format!("socket unit: listens on {addresses:?}, not on server.listen alone"));
    }
    match setting(unit, "Backlog").and_then(|value| value.parse::<u32>().ok()) {
        Some(backlog) if backlog >= LISTEN_BACKLOG => {}
        found => findings.push(format!("socket unit: Backlog = {found:?}, ours is {LISTEN_BACKLOG}")),
    }
    if setting(unit, "Accept").is_some_and(|accept| accept != "no") {
        findings.push("socket unit: Accept= would start a server for every connection".to_owned());
    }
    findings
}

fn setting<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// A size given in MiB, in bytes.
fn mebibytes(value: &str) -> Option<u64> {
    value.strip_suffix('M')?.parse::<u64>().ok()?.checked_mul(1024 * 1024)
}

/// A time setting in whole seconds, with or without its `s`.
fn seconds(unit: &str, key: &str) -> Option<u64> {
    setting(unit, key)?.trim_end_matches('s').parse().ok()
}

/// Where the shipped configuration is not the annotated defaults.
fn shipped_findings(path: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    let shipped = fs::read_to_string(path).unwrap_or_default();
    if shipped != reference() {
        findings.push(format!(
            "{}: not the reference: cargo test write_the_reference -- --ignored",
            path.display()
        ));
    }
    match load(Some(path), [], &Flags::default()) {
        Ok(config) if config == Config::default() => {}
        Ok(_) => findings.push(format!("{}: other values than the defaults", path.display())),
        Err(errors) => findings.push(errors.to_string()),
    }
    findings
}

fn sole(name: &str, text: &str) -> String {
    let findings = file_findings(name, text);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings[0].clone()
}

#[test]
fn an_upward_edge_is_found() {
    for (name, line) in [
        ("base/x.rs", "use crate::runtime::scope;"),
        ("runtime/x.rs", "use crate::hub::Hub;"),
        ("hub/x.rs", "    let bus = crate::bus::Bus::Local;"),
        ("bus.rs", "use crate::server::x;"),
        ("server/conn.rs", "pub use crate::daemon::x;"),
        ("client/x.rs", "use crate::daemon::x;"),
        ("daemon/x.rs", "use crate::cli::x;"),
    ] {
        assert!(sole(name, &format!("//! X.\n{line}\n")).contains("a floor above it"), "{name}");
    }
}

#[test]
fn a_broken_wall_is_found() {
    for (name, line) in [
        ("config/x.rs", "use crate::runtime::x;"),
        ("hub/x.rs", "use crate::wire::v1::Event;"),
        ("bus/mod.rs", "fn f(_: crate::wire::v1::Event) {}"),
        ("client/x.rs", "use crate::hub::x;"),
        ("client/x.rs", "use crate::bus::x;"),
        ("client/x.rs", "use crate::server::x;"),
        ("client/x.rs", "use crate::config::x;"),
        ("daemon/x.rs", "use crate::wire::x;"),
        ("daemon/x.rs", "use crate::client::x;"),
    ] {
        assert!(sole(name, &format!("//! X.\n\n{line}\n")).starts_with(&format!("{name}:3: wall between")));
    }
}

#[test]
fn what_is_below_or_exempt_is_not_found() {
    for (name, text) in [
        ("base/x.rs", "//! Seen by [`crate::hub`].\nuse crate::base::id; // as crate::hub is\n"),
        ("server/x.rs", "//! X.\nuse crate::bus::x;\nuse crate::wire::x;\nuse crate::config::x;\n"),
        ("daemon/x.rs", "//! X.\nuse crate::server::x;\nuse crate::hub::x;\nuse crate::runtime::x;\n"),
        ("client/x.rs", "//! X.\nuse crate::wire::x;\nuse crate::runtime::x;\nuse crate::base::x;\n"),
        ("lib.rs", "//! X.\nuse crate::cli::run;\n"),
        ("main.rs", "//! X.\nuse streamward::cli;\nuse other_crate::x;\n"),
        ("tests/x.rs", "//! X.\nuse crate::daemon::x;\nuse super::*;\n"),
        ("hub/tests.rs", "//! X.\nuse super::*;\n"),
        ("hub/x.rs", "//! X.\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::wire::x;\n}\n"),
        ("wire/mod.rs", "//! X.\n#[allow(missing_docs)]\n"),
        ("runtime/heap.rs", "//! X.\n#[allow(unsafe_code)]\n"),
        ("config/x.rs", "//! X.\nlet all = std::env::vars_os();\n"),
    ] {
        assert_eq!(file_findings(name, text), [""; 0], "{name}");
    }
}

#[test]
fn untidy_lines_are_found() {
    assert!(sole("hub/x.rs", "\nfn f() {}\n").contains("the first line"));
    assert!(sole("hub/x.rs", "//! X.\nuse super::topic;\n").contains("`super::`"));
    assert!(sole("hub/x.rs", "//! X.\n#[allow(dead_code)]\n").contains("`allow`"));
    assert!(sole("hub/x.rs", "//! X.\n#[allow(unsafe_code)]\n").contains("`allow`"));
    assert!(sole("runtime/heap.rs", "//! X.\n#[allow(dead_code)]\n").contains("`allow`"));
    assert!(sole("lib.rs", "//! X.\n#![allow(dead_code)]\n").contains("`allow`"));
    assert!(sole("hub/x.rs", "//! X.\nuse crate::{base::id, hub::x};\n").contains("one `use` per floor"));
    assert!(sole("hub/x.rs", "//! X.\nuse crate::util::x;\n").contains("util is no floor"));
    assert!(sole("util/x.rs", "//! X.\nuse crate::base::x;\n").contains("util is no floor"));
    assert!(sole("cli/x.rs", "//! X.\nstd::env::var(\"A\")\n").contains("reads the environment"));
    // A `#[cfg(test)]` item in the middle does not end the production part.
    let middle = "//! X.\n#[cfg(test)]\nuse std::fmt;\n#[cfg(test)]\nmod tests;\nuse super::x;\n";
    assert!(sole("hub/x.rs", middle).starts_with("hub/x.rs:6: "));
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let long = format!("//! X.\n{}", "fn f() {}\n".repeat(LINES_MAX));
    assert!(sole("hub/x.rs", &long).contains("501 lines"));
    let tests = format!("//! X.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(LINES_MAX));
    assert_eq!(file_findings("hub/x.rs", &tests), [""; 0]);
}

#[test]
fn a_unit_file_that_disagrees_is_found() {
    let good = "Type=notify\nRuntimeDirectory=streamward\nTimeoutStopSec=29s\nLimitNOFILE=592\nWatchdogSec=60\n\
                TasksMax=3\nMemoryMax=256M\nRestrictAddressFamilies=AF_INET AF_UNIX\n";
    let config = Config::default();
    assert_eq!(unit_findings(good, &config), [""; 0]);
    for (from, to, needle) in [
        ("TimeoutStopSec=29s", "TimeoutStopSec=28", "TimeoutStopSec = Some(28)"),
        ("TimeoutStopSec=29s", "#TimeoutStopSec=29s", "TimeoutStopSec = None"),
        ("LimitNOFILE=592", "LimitNOFILE=591", "the connections need 592"),
        ("TasksMax=3", "TasksMax=2", "TasksMax = Some(2)"),
        ("TasksMax=3", "", "TasksMax = None"),
        ("MemoryMax=256M", "MemoryMax=255M", "MemoryMax = Some(267386880)"),
        ("MemoryMax=256M", "MemoryMax=infinity", "MemoryMax = None"),
        ("MemoryMax", "MemoryHigh=200M\nMemoryMax", "MemoryHigh="),
        ("WatchdogSec=60", "", "WatchdogSec"),
        ("WatchdogSec=60", "WatchdogSec=0", "WatchdogSec"),
        ("Type=notify", "Type=simple", "Type=notify"),
        ("AF_INET AF_UNIX", "AF_INET", "AF_UNIX"),
    ] {
        let findings = unit_findings(&good.replace(from, to), &config);
        assert!(findings.len() == 1 && findings[0].contains(needle), "{to}: {findings:?}");
    }
}

#[test]
fn a_socket_unit_that_contradicts_the_configuration_is_found() {
    let config = Config::default();
    let good = "ListenStream=127.0.0.1:50051\nBacklog=4096\n";
    assert_eq!(socket_findings(good, &config), [""; 0]);
    for (from, to, needle) in [
        ("50051", "50052", "listens on"),
        ("127.0.0.1", "0.0.0.0", "listens on"),
        ("Backlog", "ListenStream=[::1]:50051\nBacklog", "listens on"),
        ("4096", "4095", "Backlog = Some(4095)"),
        ("Backlog=4096", "", "Backlog = None"),
        ("Backlog", "Accept=yes\nBacklog", "Accept="),
    ] {
        let findings = socket_findings(&good.replace(from, to), &config);
        assert!(findings.len() == 1 && findings[0].contains(needle), "{to}: {findings:?}");
    }
}

#[test]
fn a_shipped_file_that_differs_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("streamward.toml");
    assert_eq!(shipped_findings(&path).len(), 2, "missing");
    fs::write(&path, reference().replace("sessions_max = 256", "sessions_max = 255")).unwrap();
    assert_eq!(shipped_findings(&path).len(), 2);
    fs::write(&path, reference().replace("# ", "# # ")).unwrap();
    assert_eq!(shipped_findings(&path).len(), 1);
    fs::write(&path, reference()).unwrap();
    assert_eq!(shipped_findings(&path), [""; 0]);
}
