//! Metrics that read tensors where they lie, and the mean of the loss.
//!
//! The host makes a [`Native`] by name, feeds it [`View`]s of predictions and targets, and asks for
//! the value. The last batch can be taken back. All that a metric knows is numbers, a few or many:
//! they can be saved, and merged with those of another device or process.

mod accuracy;
mod argmax;
mod auroc;
mod binary;
mod classes;
mod confusion;
mod form;
mod kept;
mod mean;
mod native;
mod options;
mod per_class;
mod r2;
mod regression;
#[cfg(test)]
pub(crate) mod testing;
mod top_k;
mod view;

pub use accuracy::Accuracy;
pub use auroc::{Auroc, MOST_THRESHOLDS};
pub use binary::BinaryAccuracy;
pub use confusion::{ConfusionMatrix, Normalize};
pub use form::{Batch, Form};
pub use mean::{Mean, Sum};
pub use native::Native;
pub use options::{Average, Options, Setting};
pub use per_class::{PerClass, Share};
pub use r2::R2;
pub use regression::{Deviation, Measure};
pub use view::{Data, Reach, View};

use crate::error::{Error, Result};
use crate::records::Value;
use kept::Kept;

/// How many elements are converted at a time where memory cannot be read as it is.
const BLOCK: usize = 128;

/// Makes a list that long. A tensor that repeats one number can be larger than all memory, and then
/// there is an error to be had, where an allocation that fails would end the process.
fn room<T: Clone>(name: &str, list: &mut Vec<T>, len: usize, empty: T) -> Result<()> {
    if list.try_reserve(len.saturating_sub(list.len())).is_err() {
        return Err(Error::Metric(format!(
            "{name} has no memory for {len} numbers; look at the shapes of predictions and target"
        )));
    }
    list.resize(len, empty);
    Ok(())
}

/// How the shapes of predictions and targets came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// They are alike.
    Exact,
    /// By leaving out dimensions of size 1, as in (n, 1) against (n,). Torch would broadcast these
    /// to (n, n), in the loss for one, so the user should hear of it.
    Squeezed,
}

/// A metric that is built in.
pub trait Metric: Clone {
    /// The name by which [`Native::new`] makes this metric.
    fn name(&self) -> &'static str;

    /// How a batch of these shapes and dtypes can be measured, if it can: all that is to be checked
    /// before its values are looked at. `known` is the width of the batches before, 0 of none.
    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch>;

    /// The width of the batches since the last reset; 0 where there was none, or any would do.
    fn width(&self) -> usize {
        0
    }

    /// Takes in a batch. On an error the metric measures what it did before.
    #[inline]
    fn update(&mut self, preds: &View, target: &View) -> Result<Fit> {
        let batch = self.check(&preds.form(), &target.form(), self.width())?;
        self.feed(batch.width, preds, target)?;
        Ok(batch.fit)
    }

    /// Takes in a batch that was checked, of that width.
    fn feed(&mut self, width: usize, preds: &View, target: &View) -> Result<()>;

    /// Takes the last batch that was taken in back out, once.
    fn retract(&mut self);

    /// The value over everything since the last reset, NaN when there was nothing. The state may be
    /// put in order for it.
    fn compute(&mut self) -> Value;

    /// Forgets every batch.
    fn reset(&mut self);

    /// Takes in what another metric of the same kind has seen.
    fn merge(&mut self, other: &Self) -> Result<()>;

    /// All it has seen, as numbers for [`Metric::load`] and [`Metric::add_state`].
    fn state(&self) -> Vec<f64>;

    /// Becomes what [`Metric::state`] has described.
    fn load(&mut self, state: &[f64]) -> Result<()>;

    /// Takes in what another metric has seen, from its state.
    fn add_state(&mut self, state: &[f64]) -> Result<()> {
        let mut other = self.clone();
        other.load(state)?;
        self.merge(&other)
    }
}

fn unmergeable(one: &str, two: &str) -> Error {
    Error::Metric(format!(
        "{one} cannot take in the state of {two}; merge metrics of one kind, made with the same options"
    ))
}

/// Hits among predictions. Counted as integers, so that the value is exact up to 2^53 of them.
/// Their state is the hits, then the count; states add up over devices and processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hits {
    hits: u64,
    count: u64,
}

impl Hits {
    fn ratio(self) -> Value {
        Value::Number(self.hits as f64 / self.count as f64)
    }

    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.count += other.count;
    }

    fn state(self) -> Vec<f64> {
        vec![self.hits as f64, self.count as f64]
    }

    fn from_state(name: &str, state: &[f64]) -> Result<Self> {
        let [hits, count] = parts(name, state)?;
        let (hits, count) = (whole(name, hits)?, whole(name, count)?);
        if hits > count {
            return Err(Error::Metric(format!(
                "the state of {name} holds {hits} hits among {count} predictions; it is no state \
                 of {name}"
            )));
        }
        Ok(Self { hits, count })
    }
}

/// The numbers of a state, when there are as many as there should be.
fn parts<const N: usize>(name: &str, state: &[f64]) -> Result<[f64; N]> {
    state.try_into().map_err(|_| {
        let got = state.len();
        Error::Metric(format!(
            "the state of {name} is {N} numbers, got {got}; pass what `state` returned"
        ))
    })
}

/// A count out of a state.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked in the line before
fn whole(name: &str, number: f64) -> Result<u64> {
    if (0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0 {
        return Ok(number as u64);
    }
    Err(Error::Metric(format!(
        "the state of {name} holds {number} where a count is due; pass what `state` returned"
    )))
}
