//! Values every other floor speaks in. Needs only `std`, `bytes` and the clock type.

pub mod bill;
pub mod event;
pub mod id;
pub mod limits;
pub mod order;
pub mod principal;
pub mod reason;
pub mod topic;
