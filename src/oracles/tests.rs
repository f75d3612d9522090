//! The seeds of every fuzz target, as regression tests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::keys::KEYS;
use crate::oracles::TARGETS;

/// What all seeds together may take in the repository.
const SEEDS_BYTES_MAX: u64 = 100 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn seeds(target: &str) -> Vec<PathBuf> {
    let directory = root().join("src/oracles/seeds").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_seed_of_every_target_holds() {
    for (target, holds) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
        for path in seeds {
            let data = fs::read(&path).unwrap();
            // The file is named when it fails; the panic itself has said what.
            let result = std::panic::catch_unwind(|| holds(&data));
            assert!(result.is_ok(), "{} fails; see above", path.display());
        }
    }
}

#[test]
fn short_inputs_hold_for_every_target() {
    for (_, holds) in TARGETS {
        holds(b"");
        for first in 0..=255 {
            holds(&[first]);
            holds(&[first; 7]);
        }
    }
}

#[test]
fn every_target_can_be_fuzzed_and_its_seeds_stay_small() {
    let manifest = fs::read_to_string(root().join("src/fuzz/Cargo.toml")).unwrap();
    let mut bytes = 0;
    for (target, _) in TARGETS {
        let path = format!("targets/{target}.rs");
        assert!(manifest.contains(&format!("name = \"{target}\"\npath = \"{path}\"")), "{target}");
        let text = fs::read_to_string(root().join("src/fuzz").join(path)).unwrap();
        assert!(text.contains(&format!("streamward::oracles::{target}(data)")), "{target}");
        bytes += seeds(target).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    assert!(bytes <= SEEDS_BYTES_MAX, "{bytes} bytes of seeds, {SEEDS_BYTES_MAX} at most");
}

#[test]
fn the_fuzzer_s_dictionary_knows_every_key() {
    let dictionary = fs::read_to_string(root().join("src/fuzz/config.dict")).unwrap();
    for key in KEYS {
        for word in [key.short().to_owned(), key.variable()] {
            assert!(dictionary.contains(&format!("\"{word}\"")), "{word} is missing");
        }
    }
}
