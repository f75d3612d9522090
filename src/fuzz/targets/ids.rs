//! Looks for bytes that break `oracles::ids`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::ids(data));
