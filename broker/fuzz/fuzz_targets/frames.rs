//! Lets libFuzzer loose on one door: see `millrace_broker::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_broker::fuzzing::frames(bytes));
