//! The process itself: the real binary, real sockets, real signals.
//!
//! Every test starts a server of its own on a free port with its admin socket in a directory of its own, so all may
//! run at once. A wait is for an event (a log line, a datagram, a socket's end, an exit), never for a time.

#[cfg(test)]
mod activation;
mod admin_socket;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod benching;
#[cfg(test)]
mod chatting;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod dead_peer;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod overflow;
#[cfg(test)]
mod piping;
#[cfg(test)]
mod pressure;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod sending;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod tailing;
#[cfg(test)]
mod top;
