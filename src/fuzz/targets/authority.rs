//! Looks for bytes that break `oracles::authority`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamward::oracles::authority(data));
