//! A row for each step.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::lock::lock;

/// So many values may lie on a device before they are waited for.
const LATE: usize = 4096;

/// Keeps a row of each n-th training batch in the records: its step, its epoch, when it was, and
/// what the host tells of it.
#[derive(Debug)]
pub struct StepHistory {
    every: u64,
    /// The columns that come first.
    own: [Arc<str>; 4],
    fit: Mutex<Fit>,
}

/// The fit under way.
#[derive(Debug, Default)]
struct Fit {
    began: Option<Instant>,
    /// The seconds that a fit had taken from which this one goes on; known with the first row.
    before: Option<f64>,
    /// What the host told of the last row: the names and their columns, and the values.
    told: Told,
    /// The columns that come first.
    own: [usize; 4],
    /// The cells whose values are still on a device, by row and column.
    late: Vec<(usize, usize)>,
}

/// What the host tells of a row. As long as it tells of the same names, these are not looked up.
#[derive(Debug, Default)]
struct Told {
    columns: Vec<(Arc<str>, usize)>,
    values: Vec<Option<f64>>,
}

impl Told {
    fn tell(&mut self, name: &Arc<str>, value: Option<f64>) {
        let place = self.values.len();
        self.values.push(value);
        match self.columns.get_mut(place) {
            Some((known, _)) if Arc::ptr_eq(known, name) => {}
            Some(other) => *other = (Arc::clone(name), 0),
            None => self.columns.push((Arc::clone(name), 0)),
        }
    }
}

impl StepHistory {
    /// Keep each n-th row.
    #[must_use]
    pub fn new(every: u64) -> Self {
        Self {
            every: every.max(1),
            own: ["step", "epoch", "samples", "seconds"].map(Arc::from),
            fit: Mutex::default(),
        }
    }

    fn is_due(&self, ctx: &impl Context) -> bool {
        ctx.state().step_count().is_multiple_of(self.every)
    }

    #[allow(clippy::cast_precision_loss)] // no run has 2^53 steps
    fn add_row(&self, ctx: &impl Context) -> Result<()> {
        // Not under the lock, as the host may run anything.
        let mut told = std::mem::take(&mut lock(&self.fit).told);
        told.values.clear();
        ctx.step_values(&mut |name, value| told.tell(name, value))?;
        let (step, epoch) = (ctx.state().step_count(), ctx.state().epoch());
        let mut guard = lock(&self.fit);
        let fit = &mut *guard;
        let elapsed = fit.began.get_or_insert_with(Instant::now).elapsed();
        ctx.records(|records| {
            let steps = records.steps_mut();
            let last = || steps.last("seconds").unwrap_or(0.0);
            let seconds = elapsed.as_secs_f64() + *fit.before.get_or_insert_with(last);
            // The samples have their place here, and their number is told.
            for (name, column) in self.own.iter().zip(&mut fit.own) {
                *column = steps.column_near(*column, name);
            }
            for (name, column) in &mut told.columns[..told.values.len()] {
                *column = steps.column_near(*column, name);
            }
            let number = steps.begin();
            let [at_step, at_epoch, _, at_seconds] = fit.own;
            steps.set(number, at_step, step as f64);
            steps.set(number, at_epoch, epoch as f64);
            steps.set(number, at_seconds, seconds);
            for ((_, column), value) in told.columns.iter().zip(&told.values) {
                match value {
                    Some(value) => steps.set(number, *column, *value),
                    None => fit.late.push((number, *column)),
                }
            }
        });
        fit.told = told;
        let is_full = fit.late.len() >= LATE;
        drop(guard);
        if is_full { self.fetch(ctx) } else { Ok(()) }
    }

    /// Bring over what was on a device.
    fn fetch(&self, ctx: &impl Context) -> Result<()> {
        let late = std::mem::take(&mut lock(&self.fit).late);
        if late.is_empty() {
            return Ok(());
        }
        let values = ctx.late_values()?;
        ctx.records(|records| {
            for ((row, column), value) in late.into_iter().zip(values) {
                records.steps_mut().set(row, column, value);
            }
        });
        Ok(())
    }
}

impl<H: Host> Callback<H> for StepHistory {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[
            Hook::FitBegin,
            Hook::TrainBatchBegin,
            Hook::TrainBatchEnd,
            Hook::TrainEnd,
        ])
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        match hook.hook() {
            Some(Hook::TrainBatchBegin) if self.is_due(ctx) => ctx.note_rates()?,
            Some(Hook::TrainBatchEnd) if self.is_due(ctx) => self.add_row(ctx)?,
            Some(Hook::TrainEnd) => self.fetch(ctx)?,
            Some(Hook::FitBegin) => {
                *lock(&self.fit) = Fit {
                    began: Some(Instant::now()),
                    ..Fit::default()
                };
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bare, Run};

    fn fire(history: &StepHistory, run: &Run, hook: Hook) {
        Callback::<Bare>::on(history, hook.into(), run).unwrap();
    }

    fn begin(history: &StepHistory, run: &Run) {
        run.state().enter(Hook::FitBegin);
        fire(history, run, Hook::FitBegin);
        assert!(run.state().next_epoch());
        run.state().enter(Hook::EpochBegin);
        assert!(run.state().next_pass(true));
        run.state().enter(Hook::TrainBegin);
    }

    fn batch(history: &StepHistory, run: &Run) {
        run.state().next_batch();
        for hook in [Hook::TrainBatchBegin, Hook::TrainBatchEnd] {
            run.state().enter(hook);
            fire(history, run, hook);
        }
    }

    fn column(run: &Run, name: &str) -> Vec<f64> {
        run.records(|records| {
            let mut columns = records.steps_mut().columns();
            let found = columns.find(|(known, _)| &***known == name);
            found.map_or_else(Vec::new, |(_, chunks)| chunks.concat())
        })
    }

    #[test]
    fn each_nth_batch_has_a_row_with_its_rates_as_they_were_at_its_begin() {
        let (history, run) = (StepHistory::new(3), Run::new(1));
        begin(&history, &run);
        for step in 1..=7 {
            run.set_values(&[("samples", Some(4.0)), ("loss", Some(f64::from(step)))]);
            batch(&history, &run);
        }
        assert_eq!(column(&run, "step"), [3.0, 6.0]);
        assert_eq!(column(&run, "epoch"), [1.0, 1.0]);
        assert_eq!(column(&run, "samples"), [4.0, 4.0]);
        assert_eq!(column(&run, "loss"), [3.0, 6.0]);
        assert_eq!(run.noted(), 2);
        let names = run.records(|records| records.steps().names().join(" "));
        assert_eq!(names, "step epoch samples seconds loss");
    }

    #[test]
    fn values_of_a_device_are_fetched_when_the_pass_ends() {
        let (history, run) = (StepHistory::new(1), Run::new(1));
        begin(&history, &run);
        for late in [0.5, 0.25] {
            run.set_values(&[("loss", None), ("kl", Some(1.0))]);
            run.arrives(late);
            batch(&history, &run);
        }
        assert!(column(&run, "loss").iter().all(|loss| loss.is_nan()));
        fire(&history, &run, Hook::TrainEnd);
        assert_eq!(column(&run, "loss"), [0.5, 0.25]);
        assert_eq!(column(&run, "kl"), [1.0, 1.0]);
    }

    #[test]
    fn many_values_of_a_device_are_fetched_before_the_pass_ends() {
        let (history, run) = (StepHistory::new(1), Run::new(1));
        begin(&history, &run);
        run.set_values(&[("loss", None)]);
        for _ in 0..LATE {
            run.arrives(2.0);
            batch(&history, &run);
        }
        assert_eq!(column(&run, "loss"), vec![2.0; LATE]);
    }

    #[test]
    fn the_seconds_go_on_where_another_run_has_stopped() {
        let (history, run) = (StepHistory::new(1), Run::new(1));
        begin(&history, &run);
        run.records(|records| {
            let steps = records.steps_mut();
            let column = steps.column(&"seconds".into());
            let row = steps.begin();
            steps.set(row, column, 100.0);
        });
        batch(&history, &run);
        let seconds = column(&run, "seconds");
        assert!(seconds[1] >= 100.0 && seconds[1] < 160.0, "{seconds:?}");
    }
}
