//! The `streamward` program.

fn main() {}
