//! The process: what it tells systemd, and when it starts and stops.

pub mod systemd;
