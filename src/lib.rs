//! Streamward: a gRPC session and message hub for a Raspberry Pi, in which **every stream has an owner, a bound and a
//! recorded end**.
//!
//! A *session* is one login. It owns *streams*, each one streaming call carried by one *connection*. Logout, deadline,
//! a slow reader, an administrator or a shutdown each end exactly the right subtree, tell the client why and whether
//! to come back, and leave every other client alone.
//!
//! # The house
//!
//! Floors, bottom to top. A file names only floors below its own; the `tidy` test holds that.
//!
//! | floor | what it is | look first at |
//! |---|---|---|
//! | [`base`] | values: ids, topics, reasons, limits and their bill | [`base::reason::EndReason`], [`base::limits`] |
//! | [`runtime`] | mechanisms without a domain word | [`runtime::scope::Scope`], [`runtime::phase::Phase`] |
//! | [`config`] | file and environment become a [`config::Config`], or all mistakes at once | [`config::load`] |
//! | [`wire`] | the contract: generated types, framing, status details | [`wire::convert`], [`wire::status`] |
//! | [`hub`] | registry and fan-out, synchronous, no I/O | [`hub::Hub`], [`hub::tail::Tail`] |
//! | [`bus`] | what carries a published event to the hub | [`bus::Bus`] |
//! | [`server`] | one file per step in the order a packet meets it | [`server::connection`] |
//! | [`client`] | the library behind the commands; sees nothing of the server | [`client::Pipeline`], [`client::Session`] |
//! | [`load`] | load on a running hub and what it measures; sees nothing of the server | [`load::publisher`] |
//! | [`daemon`] | the process: listeners, reaper, monitor, signals, systemd, stopping | [`daemon::run`] |
//! | [`cli`] | the commands | [`cli::main`] |
//!
//! # The life of a message
//!
//! One direction, one kind of queue. A `Publish` frame arrives in the connection's task; `server::inbound` checks it
//! and hands it to the [`bus::Bus`]. The hub gives it the next sequence, and the event is encoded once, straight into
//! its topic's [`hub::tail::Tail`], as an element of the repeated field `ServerFrame.events`. The streams that wait
//! for this topic are woken. Each holds only a cursor: `server::outbound` reserves window first, then takes the
//! longest run of whole elements that fits. Because elements of a repeated field may be concatenated, that run *is* a
//! `ServerFrame`; nothing is encoded again. All frames that one turn made leave in one write ([`server::conn`]).
//!
//! # Invariants
//!
//! - The hub never awaits, and its mutex is never held across an await.
//! - First cause wins: the reason of an end is written once, before anyone is woken ([`runtime::scope::Scope`]).
//! - Each kind of node has one removal path, keyed so that a stale key does nothing ([`base::id`]).
//! - An accepted event is delivered to every live cursor in order, or its loss is told: a gap, or the end's reason.
//! - Every queue, map, buffer and wait has a bound from [`base::limits`].
//! - Nothing of ours waits inside h2, so a status can leave while the peer's window is full.
//! - One thread. Time in tests is paused; `now` is an argument of everything that decides.
//!
//! # Words
//!
//! *Topic*: a named filter on the hub's one order of events. *Sequence*: a place in that order. *Epoch*: the order's
//! identity; with a new one old positions mean nothing. *Cursor*: a stream's place in a topic. *Lag*: bytes between it
//! and the topic's end. *Slow consumer*: a cursor whose lag passed its bound. *Scope*: a node of the cancellation
//! tree. *Refuse, drain, abort*: the phases of stopping. *Lease*: how long a session lives without a sign of life.

pub mod base;
pub mod bus;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod hub;
pub mod load;
#[cfg(any(test, fuzzing))]
pub mod oracles;
pub mod runtime;
pub mod server;
pub mod wire;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
