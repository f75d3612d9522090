//! The process itself: the real binary, real sockets, real signals.

#[cfg(test)]
mod cli;
