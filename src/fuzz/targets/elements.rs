//! Looks for bytes that break `oracles::elements`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::elements(data));
