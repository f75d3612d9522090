//! Compiles the protos without a system protoc and keeps the descriptor set for server reflection. Names the build.

use std::process::Command;
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "streamward/v1/message.proto",
    "streamward/v1/reason.proto",
    "streamward/v1/session.proto",
    "streamward/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    name_the_build()?;
    link_small()?;
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("streamward_descriptor.bin");
    // Names, types and numbers are what reflection tells. The comments, and where all of it is in the files, are most
    // of the bytes.
    let mut told = descriptors.clone();
    told.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out, told.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".streamward.v1")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}

/// What makes the static program smaller and costs it nothing, where the linker is the one of `scripts/build-pi`.
fn link_small() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let linker = PathBuf::from(env::var_os("RUSTC_LINKER").unwrap_or_default());
    if linker.file_name().is_none_or(|name| name != "rust-lld") || env::var("CARGO_CFG_TARGET_ENV")? != "musl"
    {
        return Ok(());
    }
    // Functions of the same code are there once. Nothing of Rust relies on their having different addresses.
    println!("cargo:rustc-link-arg-bins=--icf=all");
    // The relocations of a static program that has no fixed address: a bit for each, not 24 bytes. From 1.93 on Rust
    // brings a musl (1.2.5) whose start code can read them.
    if rustc_minor()? >= 93 {
        println!("cargo:rustc-link-arg-bins=-zpack-relative-relocs");
    }
    Ok(())
}

/// The `95` of `rustc 1.95.0 (…)`.
fn rustc_minor() -> Result<u32, Box<dyn Error>> {
    let output = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    let version = String::from_utf8(output.stdout)?;
    let minor = version.split('.').nth(1).ok_or_else(|| format!("no version of rustc: {version}"))?;
    Ok(minor.parse()?)
}

/// What `--version` says beside the version: commit and target, or that it is no release build. Those are built often,
/// and a new commit would build them all again.
fn name_the_build() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=SOURCE_COMMIT");
    let target = env::var("TARGET")?;
    let commit = match env::var("SOURCE_COMMIT") {
        // Told from outside: there may be no git where this runs.
        Ok(commit) if !commit.is_empty() => commit,
        _ if env::var("PROFILE")? != "release" => "development".to_owned(),
        _ => commit().unwrap_or_else(|| "unknown commit".to_owned()),
    };
    // Not STREAMWARD_…: cargo gives it to what it runs, where every such variable is a key of the configuration.
    println!("cargo:rustc-env=BUILD_COMMIT_AND_TARGET={commit}, {target}");
    Ok(())
}

/// The commit, and whether the files differ from it. `None` outside a repository.
fn commit() -> Option<String> {
    for changed in ["src", "build.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={changed}");
    }
    // The reflog of HEAD grows with every commit and every checkout.
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}, modified") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
