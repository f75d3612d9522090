//! Mechanisms without a domain word: ownership of tasks, the phases of stopping, levels of pressure, rates, who still
//! works, what is told how often, what work costs.

pub mod backoff;
pub mod bucket;
pub mod cpu;
pub mod gauge;
pub mod heap;
pub mod ledger;
pub mod phase;
pub mod pressure;
pub mod scope;
pub mod spread;
pub mod throttle;
pub mod vitals;
