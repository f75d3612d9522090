//! Looks for bytes that break `oracles::topic`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::topic(data));
