//! Looks for bytes that break `oracles::timeout`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::timeout(data));
