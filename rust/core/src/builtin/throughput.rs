//! How fast training goes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::lock::lock;
use crate::records::Side;

/// Counts samples and batches a second, and the share of the time in which the loop waits for data,
/// of each training pass.
#[derive(Debug)]
pub struct Throughput {
    /// True if what is counted are items that the host tells of.
    counts_items: bool,
    pass: Mutex<Pass>,
}

/// The training pass under way.
#[derive(Debug, Default)]
struct Pass {
    began: Option<Instant>,
    /// When the last batch had ended, and what was waited for data by then.
    last: Duration,
    waited: Duration,
    batches: f64,
    amount: f64,
}

impl Throughput {
    /// The names under which it records.
    pub const NAMES: [&'static str; 4] = [
        "samples_per_second",
        "items_per_second",
        "batches_per_second",
        "waiting",
    ];

    /// Count samples; or items, which are told by [`Callback::count`].
    #[must_use]
    pub fn new(counts_items: bool) -> Self {
        Self {
            counts_items,
            pass: Mutex::default(),
        }
    }

    fn measured(&self) -> Vec<(&'static str, f64)> {
        let pass = lock(&self.pass);
        let seconds = pass.last.as_secs_f64();
        if seconds <= 0.0 {
            return Vec::new();
        }
        let [samples, items, batches, waiting] = Self::NAMES;
        let counted = if self.counts_items { items } else { samples };
        vec![
            (counted, pass.amount / seconds),
            (batches, pass.batches / seconds),
            (waiting, pass.waited.as_secs_f64() / seconds),
        ]
    }
}

impl<H: Host> Callback<H> for Throughput {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[Hook::TrainBegin, Hook::TrainBatchEnd, Hook::TrainEnd])
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        match hook.hook() {
            Some(Hook::TrainBegin) => {
                ctx.state().time_data();
                *lock(&self.pass) = Pass {
                    began: Some(Instant::now()),
                    ..Pass::default()
                };
            }
            Some(Hook::TrainBatchEnd) => {
                let samples = if self.counts_items {
                    0.0
                } else {
                    ctx.samples()?
                };
                let mut pass = lock(&self.pass);
                pass.amount += samples;
                pass.batches += 1.0;
                pass.waited = ctx.state().waited_for_data();
                pass.last = pass.began.get_or_insert_with(Instant::now).elapsed();
            }
            Some(Hook::TrainEnd) => {
                let (epoch, measured) = (ctx.state().epoch(), self.measured());
                ctx.records(|records| {
                    for (name, number) in measured {
                        records.log_side(Side::Speed, epoch, &Arc::from(name), number);
                    }
                });
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }

    fn count(&self, amount: f64) {
        lock(&self.pass).amount += amount;
    }

    fn rates(&self) -> Vec<(&'static str, f64)> {
        self.measured()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bare, Run};

    fn fire(throughput: &Throughput, run: &Run, hook: Hook) {
        run.state().enter(hook);
        Callback::<Bare>::on(throughput, hook.into(), run).unwrap();
    }

    #[test]
    fn rates_are_what_was_counted_over_the_time() {
        for counts_items in [false, true] {
            let (throughput, run) = (Throughput::new(counts_items), Run::new(1));
            assert!(Callback::<Bare>::rates(&throughput).is_empty());
            assert!(run.state().next_epoch());
            fire(&throughput, &run, Hook::TrainBegin);
            run.set_values(&[("samples", Some(8.0))]);
            for _ in 0..5 {
                run.state()
                    .data_is_waited_for(|| std::thread::sleep(Duration::from_millis(2)));
                run.state().next_batch();
                fire(&throughput, &run, Hook::TrainBatchBegin);
                if counts_items {
                    Callback::<Bare>::count(&throughput, 8.0);
                }
                fire(&throughput, &run, Hook::TrainBatchEnd);
            }
            fire(&throughput, &run, Hook::TrainEnd);
            let side = run.records(|records| records.side(Side::Speed));
            let rate = |name: &str| side.iter().find(|(known, _)| &**known == name).unwrap().1[0];
            let counted = if counts_items {
                "items_per_second"
            } else {
                "samples_per_second"
            };
            let (amount, batches) = (rate(counted), rate("batches_per_second"));
            assert!((amount / batches - 8.0).abs() < 1e-9);
            assert!(batches <= 500.0, "each has waited 2 ms: {batches}");
            assert!(rate("waiting") > 0.5 && rate("waiting") <= 1.0);
        }
    }
}
