//! Where it was measured, and what.

use std::fs;

use serde_json::{Value, json};

use crate::Common;
use crate::kind::Kind;
use crate::servers::Program;

/// Where it was measured, and what.
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    memory_gib: f64,
    distribution: String,
    versions: Vec<(Kind, String)>,
}

/// What the machine says of itself.
pub(crate) fn look(common: &Common) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let memory_kib: f64 = labelled(&read("/proc/meminfo"), "MemTotal", ':').parse().unwrap_or_default();
    let programs = common.programs(&Kind::ALL);
    Machine {
        // x86 names the processor, a Pi itself.
        processor: Some(labelled(&processors, "model name", ':'))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| labelled(&processors, "Model", ':')),
        cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        memory_gib: memory_kib / 1024.0 / 1024.0,
        distribution: labelled(&read("/etc/os-release"), "PRETTY_NAME", '='),
        versions: programs.iter().map(|program| (program.kind, version(program))).collect(),
    }
}

impl Machine {
    /// For people.
    pub(crate) fn sentence(&self) -> String {
        let Self { processor, cores, kernel, memory_gib, distribution, versions } = self;
        let versions: Vec<&str> = versions.iter().map(|(_, version)| version.as_str()).collect();
        format!(
            "{processor}, {cores} cores, {memory_gib:.1} GiB of memory, {distribution}, Linux {kernel}; {}.",
            versions.join("; ")
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Self { processor, cores, kernel, memory_gib, distribution, versions } = self;
        let versions = versions.iter().map(|(kind, version)| (kind.name().to_owned(), json!(version)));
        json!({
            "processor": processor, "cores": cores, "kernel": kernel, "memory_gib": memory_gib,
            "distribution": distribution, "versions": versions.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// What follows the label at the start of a line, without a unit or quotes.
fn labelled(text: &str, label: &str, mark: char) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(label)?.trim_start().strip_prefix(mark));
    value.unwrap_or_default().trim().trim_end_matches(" kB").trim_matches('"').to_owned()
}

fn version(program: &Program) -> String {
    let (arguments, prefix): (&[&str], &str) = match program.kind {
        Kind::Streamward | Kind::NatsServer => (&["--version"], ""),
        Kind::Mosquitto => (&["-h"], ""),
        Kind::PlainTonic => return format!("plain tonic {}", locked("tonic")),
        Kind::GrpcJs => {
            (&["-p", "require('@grpc/grpc-js/package').version + ', Node ' + process.version"], "grpc-js ")
        }
        Kind::Grpcio => (
            &[
                "-c",
                "import grpc, platform; print(grpc.__version__ + ', Python ' + platform.python_version())",
            ],
            "grpcio ",
        ),
    };
    let output = program.interpreter().args(arguments).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // The words that are names and numbers: no "version", no commit in brackets.
    let line = said.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default();
    format!("{prefix}{}", line.replace(": v", " ").replace(" version ", " "))
}

/// The version of the crate that the hand-written server is locked to.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("peers/tonic/Cargo.lock");
    let after = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1).unwrap_or_default();
    after.split('"').next().unwrap_or_default()
}
