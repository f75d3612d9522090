//! What the manual page says of the configuration: the table of keys, in words.

use crate::config::Config;
use crate::config::keys::{KEYS, Key, SECTIONS};
use crate::config::value::{expected, literal};

/// One section of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionManual {
    /// `limits` of `[limits]`.
    pub name: &'static str,
    /// One or more sentences about it.
    pub about: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: Vec<KeyManual>,
}

/// One key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyManual {
    /// `lease` of `limits.lease`.
    pub name: &'static str,
    /// The environment variable that wins over the file.
    pub variable: String,
    /// What it is for: one or more sentences.
    pub help: &'static str,
    /// What may be written, with unit and bounds, as the object of "takes".
    pub takes: String,
    /// The default, as TOML.
    pub default: String,
    /// Whether SIGHUP is enough for a new value.
    pub is_live: bool,
}

/// Every section with every key, in the order of the reference.
#[must_use]
pub fn manual() -> Vec<SectionManual> {
    let mut defaults = Config::default();
    let mut of_key = |key: &Key| KeyManual {
        name: key.short(),
        variable: key.variable(),
        help: key.help,
        takes: expected(key),
        default: literal(key, &mut defaults),
        is_live: key.is_live(),
    };
    let mut of_section = |(name, about): &(&'static str, &'static str)| SectionManual {
        name,
        about,
        keys: KEYS.iter().filter(|key| key.section() == *name).map(&mut of_key).collect(),
    };
    SECTIONS.iter().map(&mut of_section).collect()
}
