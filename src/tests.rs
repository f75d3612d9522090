//! Whole-program tests and the rules of the house.

mod abuse;
mod adversary;
mod connections;
mod crowd;
mod data;
mod drain;
mod ends;
mod ends_by_server;
mod frames;
mod health;
mod house;
mod idle;
mod invalid;
mod model;
mod peer;
mod pipeline;
mod pressure;
mod quota;
mod random;
mod resume;
mod script;
mod shortage;
mod tape;
mod tidy;
mod valve;
mod watchdog;
