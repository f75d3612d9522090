//! Whole-program tests and the rules of the house.

mod tidy;
