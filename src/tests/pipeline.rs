//! The pipeline against the whole server, on a paused clock over memory.

mod basics;
mod line;
mod observing;
