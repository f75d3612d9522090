//! Load on a running hub, and the check that it did what it promised: what `streamward bench` and the comparison with other
//! servers share.
//!
//! Not the client library: the load must cost less than the server it measures, so it reads frames in place and keeps
//! nothing. It speaks HTTP/2 by h2 alone and sees nothing of the server.

pub mod arrivals;
pub mod client;
pub mod comeback;
pub mod dial;
pub mod error;
pub mod framing;
pub mod guest;
pub mod latencies;
pub mod line;
pub mod message;
pub mod progress;
pub mod publisher;
pub mod schedule;
pub mod seconds;
pub mod session;
pub mod stalled;
pub mod teller;
#[cfg(test)]
mod tests;
pub mod visit;
