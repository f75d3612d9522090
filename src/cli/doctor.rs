//! `streamward doctor`: is this machine fit for the hub, and is the hub set up for this machine?
//!
//! One file per subject. Each reads its facts below a [`Root`] and judges them with a function of nothing but facts;
//! a fact that cannot be read is said so, never guessed. Nothing is changed, but for one small file that is synced,
//! timed and removed.

mod cgroup;
mod clock;
mod configuration;
mod descriptors;
mod disk;
mod exposure;
mod finding;
mod hardware;
mod memory;
mod port;
mod power;
mod root;
mod service;
#[cfg(test)]
mod tests;
mod unit;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::doctor::configuration::Configuration;
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::root::Root;
use crate::cli::doctor::service::Service;
use crate::cli::doctor::unit::UnitFile;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::text::clean;
use crate::config;

/// Check the machine, the installation and how they fit the configuration
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward doctor                       what is well, what is not, and what to do about it
  sudo streamward doctor                  the same, with what only root may read
  streamward doctor --json | jq '.checks[] | select(.verdict != \"ok\")'
  streamward doctor --config new.toml     before it is put in place

ok: nothing to do. warn: it works, but someone should look. fail: the hub will not start, or not keep its promises.
Needs no running hub. Writes nothing, but for a file of 64 KiB in /var/tmp that it times and removes.
Exit codes: 0 nothing failed (warnings may be there), 1 something failed, 64 wrong command line.")]
pub(crate) struct DoctorArgs {
    /// Judge this configuration; without it the unit's, else /etc/streamward/streamward.toml, else the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read /proc, /sys, /etc, /run, /usr and /boot below this directory, as of a mounted image; time and page size stay
    /// this machine's
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// Examines and tells.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn run(args: &DoctorArgs, output: &mut Output) -> Result<Exit, Failure> {
    if !args.root.is_dir() {
        let message = format!("--root {} is no directory.", clean(&args.root.display().to_string()));
        return Err(Failure::told(Exit::Usage, message));
    }
    let findings = examine(args, &Root::new(&args.root));
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let [ok, warn, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(count);
    if output.json {
        let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        let checks: Vec<_> = findings.iter().map(Finding::json).collect();
        output.json(&json!({
            "verdict": verdict.word(), "ok": ok, "warn": warn, "fail": fail, "checks": checks,
        }))?;
    } else {
        let paint = output.paint;
        for line in findings.iter().flat_map(|finding| finding.lines(paint)) {
            output.line(&line)?;
        }
        output.line(&format!("{ok} ok, {warn} warn, {fail} fail"))?;
    }
    Ok(if fail == 0 { Exit::Ok } else { Exit::Unwell })
}

/// Every check, in the order a person would ask: the machine, what it has to spare, the installation, the network.
fn examine(args: &DoctorArgs, root: &Root) -> Vec<Finding> {
    let hardware = hardware::read(root);
    let (memory, power) = (memory::read(root), power::read(root));
    let unit = UnitFile::read(root, "streamward.service");
    let socket = UnitFile::read(root, "streamward.socket").filter(|socket| socket.is_enabled);
    let source = configuration::Source {
        file: args.config.as_deref(),
        unit: unit.as_ref(),
        environment: config::environment(),
        mem_total_bytes: memory.total_bytes.unwrap_or_else(config::mem_total_bytes),
    };
    let configuration = configuration::read(root, source);
    let judged = configuration.or_defaults();

    let mut findings = vec![
        hardware::architecture(&hardware),
        hardware::page_size(&hardware),
        cgroup::judge(&cgroup::read(root)),
        clock::judge(&clock::read(root)),
        power::supply(&power),
        power::temperature(&power),
        disk::judge(&disk::read(root)),
        configuration.judge(),
        memory::judge(&memory, &judged),
        descriptors::judge(&descriptors::read(root), unit.as_ref(), &judged.limits),
    ];
    let service = Service {
        unit: unit.as_ref(),
        socket: socket.as_ref(),
        is_systemd: root.exists("/run/systemd/system"),
    };
    findings.extend(service.judge(&judged, &memory));
    if let Configuration::Good { config, .. } = &configuration {
        findings.extend(exposure::judge(config, socket.as_ref()));
        findings.push(port::judge(&port::read(root), config.server.listen, socket.is_some()));
    }
    findings
}
