//! What a batch costs in the core, without Python.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lumbre_core::metrics::{Data, Mean, Metric, Native, Options, View};
use std::hint::black_box;

/// Numbers without a pattern that a branch predictor could learn, the same in every run.
fn noise(len: usize) -> impl Iterator<Item = u32> {
    let mut state = 2_463_534_242_u32;
    (0..len).map(move |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    })
}

fn scores(len: usize) -> Vec<f32> {
    noise(len)
        .map(|x| (x >> 8) as f32 / (1 << 24) as f32)
        .collect()
}

fn accuracy(c: &mut Criterion) {
    let mut group = c.benchmark_group("Accuracy");
    // The last shape is one of segmentation: a class for each pixel.
    let shapes: [&[i64]; 3] = [&[32, 4], &[256, 100], &[2, 21, 128, 128]];
    for shape in shapes {
        let strides = contiguous(shape);
        let target_shape = [&shape[..1], &shape[2..]].concat();
        let target_strides = contiguous(&target_shape);
        let preds = scores(numel(shape));
        let target: Vec<i64> = noise(numel(&target_shape))
            .map(|x| i64::from(x >> 1) % shape[1])
            .collect();
        let mut metric = Native::new("Accuracy", Options::default()).unwrap();
        group.throughput(Throughput::Elements(preds.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{shape:?}")), |b| {
            b.iter(|| {
                let preds = View::new(Data::F32(black_box(&preds)), shape, &strides).unwrap();
                let target = View::new(
                    Data::I64(black_box(&target)),
                    &target_shape,
                    &target_strides,
                );
                metric.update(&preds, &target.unwrap()).unwrap()
            });
        });
    }
}

fn elementwise(c: &mut Criterion) {
    for name in ["MSE", "BinaryAccuracy"] {
        let mut group = c.benchmark_group(name);
        for shape in [[32, 1], [64, 784]] {
            let strides = contiguous(&shape);
            let preds = scores(numel(&shape));
            let target: Vec<f32> = preds.iter().rev().map(|x| x.round()).collect();
            let mut metric = Native::new(name, Options::default()).unwrap();
            group.throughput(Throughput::Elements(preds.len() as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{shape:?}")), |b| {
                b.iter(|| {
                    let preds = View::new(Data::F32(black_box(&preds)), &shape, &strides).unwrap();
                    let target = View::new(Data::F32(black_box(&target)), &shape, &strides);
                    metric.update(&preds, &target.unwrap()).unwrap()
                });
            });
        }
    }
}

fn mean(c: &mut Criterion) {
    let mut mean = Mean::default();
    c.bench_function("Mean", |b| {
        b.iter(|| mean.add(black_box(0.25), black_box(32.0)));
    });
}

fn contiguous(shape: &[i64]) -> Vec<i64> {
    (0..shape.len())
        .map(|dim| shape[dim + 1..].iter().product())
        .collect()
}

fn numel(shape: &[i64]) -> usize {
    shape.iter().product::<i64>().try_into().unwrap()
}

criterion_group!(benches, accuracy, elementwise, mean);
criterion_main!(benches);
