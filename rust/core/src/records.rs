//! The history of a run: the values of each epoch and the seconds of each part.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::steps::Steps;

/// Of each one a few dozen bytes are kept, whatever is recorded.
const MOST_EPOCHS: u64 = 10_000_000;

/// A recorded value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number.
    Number(f64),
    /// A vector, a matrix or more, in row-major order.
    Array {
        /// Its dimensions.
        shape: Vec<usize>,
        /// Its numbers.
        data: Vec<f64>,
    },
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// The set of records that a pass writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The training data.
    Train,
    /// The validation data.
    Valid,
}

impl Set {
    /// Both sets.
    pub const ALL: [Self; 2] = [Self::Train, Self::Valid];

    /// `"train"` or `"valid"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }

    /// The set of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
    /// The one nearer to zero.
    Zero,
}

impl Mode {
    /// The mode that is called so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "min" => Some(Self::Min),
            "max" => Some(Self::Max),
            "zero" => Some(Self::Zero),
            _ => None,
        }
    }
}

/// A part of the run whose seconds are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The whole fit.
    Fit,
    /// An epoch.
    Epoch,
    /// A training pass.
    Train,
    /// A validation pass.
    Valid,
}

impl Span {
    /// Every span.
    pub const ALL: [Self; 4] = [Self::Fit, Self::Epoch, Self::Train, Self::Valid];

    /// Its name in the records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Epoch => "epoch",
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// The values that one epoch left of one set, in the order in which they were logged.
pub type Entry = Vec<(Arc<str>, Value)>;

/// Refuses an epoch so far off that memory would not hold the entries before it: no run gets there,
/// but a broken file may say so.
pub fn check_epoch(epoch: u64) -> Result<()> {
    if epoch <= MOST_EPOCHS {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "a run has at most {MOST_EPOCHS} epochs, got epoch {epoch}; is the state the one that was \
         saved?"
    )))
}

/// What is recorded of the training passes beside their metrics: numbers, one an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The optimizers: learning rates, gradient norms.
    Optimizer,
    /// How fast it went.
    Speed,
}

/// The history of a run. Epochs count from 1; the entry of epoch e is at index e - 1. Epoch 0 is what
/// was measured before the first one.
#[derive(Debug, Default)]
pub struct Records {
    metrics: [Vec<Entry>; 2],
    before: [Entry; 2],
    sides: [Vec<Entry>; 2],
    spans: [Vec<f64>; 4],
    steps: Steps,
}

impl Records {
    /// Log a value of an epoch; the last value of a name stays, in the place of the first.
    pub fn log(&mut self, set: Set, epoch: u64, name: &Arc<str>, value: Value) {
        put(self.reach(set, epoch), name, value);
    }

    /// The entry of an epoch, made (and those before it, empty) if it is not there.
    pub fn reach(&mut self, set: Set, epoch: u64) -> &mut Entry {
        match epoch.checked_sub(1) {
            Some(index) => reach(&mut self.metrics[set as usize], index),
            None => &mut self.before[set as usize],
        }
    }

    /// The entry of an epoch, if there is one.
    #[must_use]
    pub fn entry(&self, set: Set, epoch: u64) -> Option<&Entry> {
        match epoch.checked_sub(1) {
            Some(index) => self.metrics[set as usize].get(usize::try_from(index).ok()?),
            None => Some(&self.before[set as usize]),
        }
    }

    /// Log a number of an epoch's training pass; the last one of a name stays.
    pub fn log_side(&mut self, side: Side, epoch: u64, name: &Arc<str>, number: f64) {
        let entries = &mut self.sides[side as usize];
        put(reach(entries, epoch.max(1) - 1), name, number.into());
    }

    /// The numbers of each epoch, by name; NaN where an epoch has none of that name.
    #[must_use]
    pub fn side(&self, side: Side) -> Vec<(Arc<str>, Vec<f64>)> {
        let entries = &self.sides[side as usize];
        let mut columns: Vec<(Arc<str>, Vec<f64>)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            for (name, value) in entry {
                let place = columns.iter().position(|(known, _)| known == name);
                let place = place.unwrap_or_else(|| {
                    columns.push((Arc::clone(name), vec![f64::NAN; entries.len()]));
                    columns.len() - 1
                });
                if let Value::Number(number) = value {
                    columns[place].1[index] = *number;
                }
            }
        }
        columns
    }

    /// The numbers of one epoch.
    #[must_use]
    pub fn side_entry(&self, side: Side, epoch: u64) -> Option<&Entry> {
        let index = usize::try_from(epoch.checked_sub(1)?).ok()?;
        self.sides[side as usize].get(index)
    }

    /// Put the numbers of each epoch in the place of those there are.
    pub fn restore_side(&mut self, side: Side, columns: Vec<(Arc<str>, Vec<f64>)>) {
        self.sides[side as usize].clear();
        for (name, numbers) in columns {
            for (epoch, number) in (1..).zip(numbers) {
                if !number.is_nan() {
                    self.log_side(side, epoch, &name, number);
                }
            }
        }
    }

    /// A copy of all but the rows of single steps, which may be many.
    #[must_use]
    pub fn without_steps(&self) -> Self {
        Self {
            metrics: self.metrics.clone(),
            before: self.before.clone(),
            sides: self.sides.clone(),
            spans: self.spans.clone(),
            steps: Steps::default(),
        }
    }

    /// The rows of single steps.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The rows of single steps, to be written.
    pub fn steps_mut(&mut self) -> &mut Steps {
        &mut self.steps
    }

    /// One value of an epoch.
    #[must_use]
    pub fn value(&self, set: Set, epoch: u64, name: &str) -> Option<&Value> {
        let mut entry = self.entry(set, epoch)?.iter();
        entry
            .find(|(known, _)| &**known == name)
            .map(|(_, value)| value)
    }

    /// All entries of a set, epoch by epoch.
    #[must_use]
    pub fn entries(&self, set: Set) -> &[Entry] {
        &self.metrics[set as usize]
    }

    /// Note how long a part took, in seconds.
    pub fn log_span(&mut self, span: Span, seconds: f64) {
        self.spans[span as usize].push(seconds);
    }

    /// The seconds of each part of that kind.
    #[must_use]
    pub fn spans(&self, span: Span) -> &[f64] {
        &self.spans[span as usize]
    }

    /// Put the entries of a set in the place of those there are.
    pub fn restore_entries(&mut self, set: Set, entries: Vec<Entry>) {
        self.metrics[set as usize] = entries;
    }

    /// Put the seconds of a part in the place of those there are.
    pub fn restore_spans(&mut self, span: Span, seconds: Vec<f64>) {
        self.spans[span as usize] = seconds;
    }

    /// Keep the epochs that were completed, drop the one that was not.
    pub fn truncate(&mut self, epochs: u64) {
        let length = usize::try_from(epochs).unwrap_or(usize::MAX);
        for entries in self.metrics.iter_mut().chain(&mut self.sides) {
            entries.truncate(length);
        }
        for span in [Span::Epoch, Span::Train, Span::Valid] {
            self.spans[span as usize].truncate(length);
        }
    }
}

fn reach(entries: &mut Vec<Entry>, index: u64) -> &mut Entry {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    if entries.len() <= index {
        entries.resize_with(index + 1, Entry::new);
    }
    &mut entries[index]
}

fn put(entry: &mut Entry, name: &Arc<str>, value: Value) {
    match entry.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => entry.push((Arc::clone(name), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_before_the_first_epoch_is_epoch_0() {
        let mut records = Records::default();
        let loss: Arc<str> = "loss".into();
        records.log(Set::Valid, 0, &loss, 2.0.into());
        records.log(Set::Valid, 1, &loss, 1.0.into());
        let value = |epoch| records.value(Set::Valid, epoch, "loss");
        assert_eq!(value(0), Some(&Value::Number(2.0)));
        assert_eq!(value(1), Some(&Value::Number(1.0)));
        assert_eq!(
            records.entries(Set::Valid).len(),
            1,
            "index + 1 is the epoch"
        );
    }

    #[test]
    fn an_epoch_without_a_number_has_nan() {
        let mut records = Records::default();
        let (lr, norm): (Arc<str>, Arc<str>) = ("lr".into(), "grad_norm".into());
        records.log_side(Side::Optimizer, 1, &lr, 0.5);
        records.log_side(Side::Optimizer, 3, &lr, 0.25);
        records.log_side(Side::Optimizer, 3, &norm, 2.0);
        let told = format!("{:?}", records.side(Side::Optimizer));
        assert_eq!(
            told,
            r#"[("lr", [0.5, NaN, 0.25]), ("grad_norm", [NaN, NaN, 2.0])]"#
        );
        let mut other = Records::default();
        other.restore_side(Side::Optimizer, records.side(Side::Optimizer));
        assert_eq!(told, format!("{:?}", other.side(Side::Optimizer)));
        assert_eq!(other.side_entry(Side::Optimizer, 2), Some(&vec![]));
        records.truncate(2);
        let told = format!("{:?}", records.side(Side::Optimizer));
        assert_eq!(told, r#"[("lr", [0.5, NaN])]"#);
    }

    #[test]
    fn the_last_value_stays_in_the_place_of_the_first() {
        let mut records = Records::default();
        let (loss, acc): (Arc<str>, Arc<str>) = ("loss".into(), "acc".into());
        records.log(Set::Train, 2, &loss, 1.0.into());
        records.log(Set::Train, 2, &acc, 0.5.into());
        records.log(Set::Train, 2, &loss, 0.25.into());
        assert_eq!(
            records.entry(Set::Train, 1),
            Some(&vec![]),
            "index + 1 is the epoch"
        );
        let entry = records.entry(Set::Train, 2).unwrap();
        assert_eq!(entry[0], (loss, Value::Number(0.25)));
        assert_eq!(entry[1], (acc, Value::Number(0.5)));
        let value = |epoch, name| records.value(Set::Train, epoch, name);
        assert_eq!(value(2, "acc"), Some(&Value::Number(0.5)));
        assert_eq!(
            (value(2, "ac"), value(1, "acc"), value(3, "acc")),
            (None, None, None)
        );
        assert_eq!(records.entry(Set::Valid, 1), None);
        assert_eq!(records.entry(Set::Train, 0), Some(&vec![]));
    }

    #[test]
    fn truncating_keeps_completed_epochs() {
        let mut records = Records::default();
        for epoch in 1..=3 {
            records.log(Set::Valid, epoch, &"loss".into(), 0.0.into());
            records.log_span(Span::Epoch, 1.0);
        }
        records.log_span(Span::Fit, 3.0);
        records.truncate(2);
        assert_eq!(records.entries(Set::Valid).len(), 2);
        let count = |span| records.spans(span).len();
        assert_eq!((count(Span::Epoch), count(Span::Fit)), (2, 1));
    }
}
