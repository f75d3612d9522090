//! Looks for bytes that break `oracles::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::config(data));
