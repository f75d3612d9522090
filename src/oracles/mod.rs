//! What must hold for any bytes, as functions that fail when it does not. The fuzz targets in `src/fuzz` look for
//! bytes that break one; the inputs in `seeds` are tried in every test run.

mod authority;
mod config;
mod elements;
mod frames;
mod ids;
mod input;
mod timeout;
mod topic;

pub use crate::oracles::authority::authority;
pub use crate::oracles::config::config;
pub use crate::oracles::elements::elements;
pub use crate::oracles::frames::frames;
pub use crate::oracles::ids::ids;
pub use crate::oracles::timeout::timeout;
pub use crate::oracles::topic::topic;

/// One fuzz target: its name, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("authority", authority),
    ("config", config),
    ("elements", elements),
    ("frames", frames),
    ("ids", ids),
    ("timeout", timeout),
    ("topic", topic),
];

#[cfg(test)]
mod tests;
