//! Whole-program tests and the rules of the house.

mod crowd;
mod data;
mod ends;
mod ends_by_server;
mod house;
mod invalid;
mod peer;
mod quota;
mod resume;
mod tape;
mod tidy;
mod valve;
