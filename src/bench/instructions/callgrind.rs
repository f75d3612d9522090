//! One case in a process of its own, under callgrind.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::baseline::Cost;
use crate::cases::{Case, Fault};

/// What [`crate::cases::run`] does its work in; nothing else is counted.
const COUNTED: &str = "*steady_state*";
/// No `rep movsb` in the C library: callgrind counts each byte of it, and copies would outweigh all else.
const TUNABLES: &str = "glibc.cpu.hwcaps=-ERMS,-FSRM";

/// Counts one case. `out` is left for `callgrind_annotate`.
pub(crate) fn count(case: &Case, out: &Path) -> Result<Cost, Fault> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", &format!("--toggle-collect={COUNTED}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args(["run", case.name])
        // The environment lies on the stack: with another one everything would lie elsewhere.
        .env_clear()
        .env("GLIBC_TUNABLES", TUNABLES)
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}; install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed =
        || format!("{}: {} {said}{}", case.name, output.status, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(failed().into());
    }
    let operations = said.trim().strip_prefix("operations ").ok_or_else(failed)?.parse()?;
    let instructions = totals(&fs::read_to_string(out)?)?;
    if instructions == 0 {
        return Err(format!("{}: nothing was counted: was {COUNTED} stripped?", case.name).into());
    }
    Ok(Cost::of(instructions, operations))
}

fn totals(profile: &str) -> Result<u64, Fault> {
    let line = profile.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    Ok(line.ok_or("callgrind wrote no totals")?.trim().parse()?)
}

/// What a count depends on beside the program: the compiler, the C library, and which copies of `memcpy` there are.
pub(crate) fn made_with() -> Result<String, Fault> {
    let told = |program: &str, arguments: &[&str]| -> Result<String, Fault> {
        let output =
            Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let rustc = told("rustc", &["--version"])?;
    let libc = told("getconf", &["GNU_LIBC_VERSION"])?;
    Ok(format!("{rustc}, {libc}, {}{}", env::consts::ARCH, vectors()))
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx2") { " with AVX2" } else { "" }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_totals_of_a_profile_count() {
        assert_eq!(totals("events: Ir\nfn=(1) x\n1 5\n\ntotals: 75667368\n").unwrap(), 75_667_368);
        assert!(totals("events: Ir\n").is_err());
    }
}
