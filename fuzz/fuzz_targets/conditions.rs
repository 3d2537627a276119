//! `cargo +nightly fuzz run conditions`: see `conditions` in `targets.rs`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::conditions(data));
