//! Mechanisms without a domain word: ownership of tasks, and the phases of stopping.

pub mod phase;
pub mod scope;
