//! How fast lines become actions. Run with `cargo bench`; figures are for comparing two states of
//! the code on one machine, one right after the other.
//!
//! The streams are seeded: the same bytes on every machine.
#![allow(missing_docs, reason = "criterion's macros make items without docs")]
#![allow(clippy::allow_attributes, clippy::expect_used, reason = "a bench may end by panicking")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decode::time;
use portcullis::source::Batch;
use std::fmt::Write;
use std::hint::black_box;

/// A small generator with a fixed sequence (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn address(&mut self, of: u64) -> String {
        let n = self.roll(of) + (11 << 24);
        format!("{}.{}.{}.{}", n >> 24 & 255, n >> 16 & 255, n >> 8 & 255, n & 255)
    }
}

/// 2 % failed logins, 3 % successful, 0.5 % rate limit violations, the rest request lines.
fn mix_a(lines: u64) -> String {
    mix(lines, 20, 30, 5, 5_000, 2_000)
}

/// 90 % failed logins from 1,000,000 addresses and 100,000 accounts, the rest request lines.
fn mix_b(lines: u64) -> String {
    mix(lines, 900, 0, 0, 1_000_000, 100_000)
}

fn mix(
    lines: u64,
    failed: u64,
    successful: u64,
    limited: u64,
    addresses: u64,
    users: u64,
) -> String {
    let mut dice = Dice(42);
    let mut out = String::new();
    for n in 0..lines {
        let at = time::format(1_754_260_200_000_000 + i64::try_from(n).unwrap_or(0) * 900);
        let ip = dice.address(addresses);
        let user = dice.roll(users);
        let kind = dice.roll(1000);
        let (level, logger, message) = if kind < failed {
            (
                "WARNING",
                "security",
                format!(
                    "FAILED_LOGIN: email=user{user}@example.org, ip={ip}, reason=invalid_password"
                ),
            )
        } else if kind < failed + successful {
            ("INFO", "security", format!("SUCCESSFUL_LOGIN: user_id=u-{user}, ip={ip}"))
        } else if kind < failed + successful + limited {
            (
                "WARNING",
                "security",
                format!("RATE_LIMIT_VIOLATION: ip={ip}, endpoint=/api/v1/auth/login"),
            )
        } else {
            ("INFO", "fastapi", format!("GET /api/v1/items/{user} 200 in {} ms", dice.roll(400)))
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            r#"{{"timestamp":"{at}","level":"{level}","logger":"{logger}","message":"{message}","module":"auth","function":"handler","line":{},"request_id":"{:016x}","ip_address":"{ip}"}}"#,
            dice.roll(500),
            dice.roll(u64::MAX)
        );
    }
    out
}

fn batches(text: &str) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let want = rest.len().min(1 << 18);
        let end = memchr::memrchr(b'\n', &rest[..want]).map_or(want, |at| at + 1);
        batches.push(Batch { source: 0, bytes: rest[..end].to_vec(), oversized: false });
        rest = &rest[end..];
    }
    batches
}

fn engine(criterion: &mut Criterion) {
    let assembly = Assembly::new(&Settings::default(), &[]).expect("the built-in packs are sound");
    for (name, text) in [("mix A", mix_a(200_000)), ("mix B", mix_b(200_000))] {
        let batches = batches(&text);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("newline scan", |b| {
            b.iter(|| memchr::memchr_iter(b'\n', black_box(text.as_bytes())).count());
        });
        group.bench_function("scan", |b| {
            b.iter(|| {
                batches
                    .iter()
                    .map(|batch| assembly.scanner.scan(batch.clone()).items.len())
                    .sum::<usize>()
            });
        });
        group.bench_function("whole", |b| {
            b.iter(|| {
                let mut engine = assembly.engine();
                for batch in &batches {
                    engine.apply_batch(assembly.scanner.scan(batch.clone()), None);
                }
                engine.take_actions().len()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
