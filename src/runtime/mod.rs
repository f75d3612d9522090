//! Mechanisms without a domain word: ownership of tasks, the phases of stopping, levels of pressure, rates.

pub mod bucket;
pub mod gauge;
pub mod phase;
pub mod pressure;
pub mod scope;
pub mod vitals;
