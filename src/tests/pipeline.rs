//! The pipeline against the whole server, on a paused clock over memory.

mod basics;
mod line;
mod many;
mod matrix;
mod observing;
mod publishing;
mod random;
mod reasons;
mod scripted;
