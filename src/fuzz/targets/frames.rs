//! Looks for bytes that break `oracles::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::frames(data));
