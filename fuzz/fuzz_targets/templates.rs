//! `cargo +nightly fuzz run templates`: see `templates` in `targets.rs`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::templates(data));
