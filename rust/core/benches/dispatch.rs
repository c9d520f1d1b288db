//! What a breakpoint costs in the core, with 0 to 100 callbacks written in Rust.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lumbre_core::callback::{Callback, Context};
use lumbre_core::filter::Filter;
use lumbre_core::flow::{Flow, State};
use lumbre_core::hook::{Hook, HookId, HookSet};
use lumbre_core::order::{Item, order};
use lumbre_core::schedule::{Entry, Part, Schedule};
use lumbre_core::{Result, callback, error, flow, records};
use std::hint::black_box;

// The host of the core's own tests, which has no language around it: the core's own cost.
#[allow(dead_code)]
#[path = "../src/testing.rs"]
mod testing;

use testing::{Bare, Run};

const COUNTS: [usize; 4] = [0, 1, 10, 100];
const HOOK: Hook = Hook::TrainBatchEnd;

/// Looks at the run and asks for nothing.
struct Idle;

impl Callback<Bare> for Idle {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[HOOK])
    }
    fn on(&self, _: HookId, run: &Run) -> Result<Flow> {
        black_box(run.state().step_count());
        Ok(Flow::Continue)
    }
}

/// Callbacks whose weights are in the worst order, with as many ties as different ones.
fn items(count: usize) -> Vec<Item> {
    (0..count)
        .map(|i| Item {
            name: format!("Callback_{i}"),
            weight: -((i / 2) as f64),
            ..Item::default()
        })
        .collect()
}

fn entries(count: usize, filter: Option<Filter>) -> Vec<Entry<Bare>> {
    items(count)
        .into_iter()
        .map(|item| Entry {
            item,
            parts: vec![Part {
                kind: "Rust".into(),
                callback: Arc::new(Idle),
                filters: filter
                    .map(|filter| (HOOK.into(), filter))
                    .into_iter()
                    .collect(),
            }],
        })
        .collect()
}

fn fire(c: &mut Criterion) {
    let never = Filter::every(u64::MAX).unwrap();
    for (title, filter) in [("fire", None), ("fire, filtered out", Some(never))] {
        let mut group = c.benchmark_group(title);
        for count in COUNTS {
            let schedule = Schedule::compile(entries(count, filter), Hook::names()).unwrap();
            let run = Run::new(1);
            run.state().next_epoch();
            run.state().enter(Hook::TrainBegin);
            run.state().next_batch();
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| schedule.fire(black_box(HOOK.into()), run.state(), &run));
            });
        }
    }
}

fn put_in_order(c: &mut Criterion) {
    let mut group = c.benchmark_group("order");
    for count in COUNTS {
        let free = items(count);
        group.bench_function(BenchmarkId::new("by weight", count), |b| {
            b.iter(|| order(black_box(&free)));
        });
        let mut chained = items(count);
        for i in 1..count {
            chained[i].after = vec![chained[i - 1].name.clone()];
        }
        group.bench_function(BenchmarkId::new("in a chain", count), |b| {
            b.iter(|| order(black_box(&chained)));
        });
    }
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("Schedule::compile");
    for count in COUNTS {
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_batched(
                || (entries(count, None), Hook::names()),
                |(entries, names)| Schedule::compile(entries, names),
                criterion::BatchSize::SmallInput,
            );
        });
    }
}

fn hooks(c: &mut Criterion) {
    let state = State::new(1);
    c.bench_function("a batch's scope opens and closes", |b| {
        b.iter(|| {
            state.enter(black_box(Hook::TrainBatchBegin));
            state.enter(black_box(Hook::TrainBatchEnd));
        });
    });
    c.bench_function("Hook::from_name", |b| {
        b.iter(|| Hook::from_name(black_box(HOOK.name())));
    });
}

criterion_group!(benches, fire, put_in_order, compile, hooks);
criterion_main!(benches);
