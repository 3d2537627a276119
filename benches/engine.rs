//! How fast lines become actions inside one process. Run with `cargo bench --bench engine`; figures
//! are for comparing two states of the code on one machine, one right after the other.
#![allow(missing_docs, reason = "criterion's macros make items without docs")]
#![allow(clippy::allow_attributes, clippy::expect_used, reason = "a bench may end by panicking")]

mod mix;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mix::Mix;
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::source::Batch;
use std::hint::black_box;

const LINES: u64 = 200_000;

fn batches(text: &[u8]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let want = rest.len().min(1 << 18);
        let end = memchr::memrchr(b'\n', &rest[..want]).map_or(want, |at| at + 1);
        batches.push(Batch { source: 0, bytes: rest[..end].to_vec(), ..Batch::default() });
        rest = &rest[end..];
    }
    batches
}

fn engine(criterion: &mut Criterion) {
    let assembly = Assembly::new(&Settings::default(), &[]).expect("the built-in packs are sound");
    for (name, mix) in [("mix A", Mix::A), ("mix B", Mix::B)] {
        let text = mix.text(LINES);
        let batches = batches(&text);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
        // A generator that is slower than what it feeds would be what is measured.
        group.bench_function("generate", |b| b.iter(|| mix.text(LINES).len()));
        group.bench_function("newline scan", |b| {
            b.iter(|| memchr::memchr_iter(b'\n', black_box(&text)).count());
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
