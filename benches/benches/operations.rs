//! Every operation on every backend at a size that fits the second-level cache and one that fits no cache, and beside
//! each the copy it is compared with: `operation/backend/size`, where the backend `copy` is memcpy.
//!
//!     cargo bench -p qat-benches --bench operations [-- FILTER]
//!
//! Answers are checked before anything is timed. On a machine that does other things too, ratios of these times mean
//! little: `cargo run --release -p qat-benches --bin quantisers` takes turns instead.

use anyhow::{Context as _, Result};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use qat_benches::cases::{Backend, Case, Copy, Operation, Shape};
use std::time::Duration;

const SHAPES: [(&str, Shape); 2] = [
    ("64x1024", Shape { rows: 64, columns: 1024, threads: 1 }),
    ("4096x4096", Shape { rows: 4096, columns: 4096, threads: 1 }),
];

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for operation in Operation::ALL {
        let mut group = criterion.benchmark_group(operation.name);
        group.sample_size(20).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(1500));
        for (size, shape) in SHAPES {
            group.throughput(Throughput::Elements(shape.len() as u64));
            bench(&mut group, operation, size, shape)
                .with_context(|| format!("{} {size}", operation.name))?;
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    operation: Operation,
    size: &str,
    shape: Shape,
) -> Result<()> {
    let mut result = Ok(());
    for backend in operation.backends() {
        let isa = backend.isa().name();
        // Called more than once, but only if the filter lets it pass.
        let mut ready = None;
        group.bench_function(BenchmarkId::new(isa, size), |bencher| {
            if ready.is_none() {
                match checked(operation, shape, backend) {
                    Ok(case) => ready = Some(case),
                    Err(error) => result = Err(error.context(isa)),
                }
            }
            if let Some(case) = &mut ready {
                bencher.iter(|| case.run(backend));
            }
        });
    }
    let mut ready = None;
    group.bench_function(BenchmarkId::new("copy", size), |bencher| {
        if ready.is_none() {
            match operation.on(shape) {
                Ok(case) => ready = Some(Copy::new(case.copied(), shape.threads)),
                Err(error) => result = Err(error),
            }
        }
        if let Some(copy) = &mut ready {
            bencher.iter(|| copy.run());
        }
    });
    result
}

/// A case that has run once and given the right answer.
fn checked(operation: Operation, shape: Shape, backend: Backend) -> Result<Box<dyn Case>> {
    let mut case = operation.on(shape)?;
    case.run(backend)?;
    case.check()?;
    Ok(case)
}
