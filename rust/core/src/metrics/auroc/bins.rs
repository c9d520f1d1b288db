//! Scores counted between thresholds.

use crate::error::{Error, Result};

/// More thresholds than these take more memory than most exact states.
pub const MOST_THRESHOLDS: u32 = 1_000_000;

/// Ascending thresholds, as scores in `float64` meet them and as narrower ones do: torch compares a
/// tensor with numbers of its own precision, so that 0.3 as `float32` is not below 0.3.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thresholds {
    wide: Box<[f64]>,
    narrow: Box<[f64]>,
}

impl Thresholds {
    /// A number of them, evenly spaced from 0 to 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked before
    pub fn evenly(name: &str, count: f64) -> Result<Self> {
        if !(2.0..=f64::from(MOST_THRESHOLDS)).contains(&count) || count.fract() != 0.0 {
            return Err(Error::Metric(format!(
                "{name} needs a num_thresholds from 2 to {MOST_THRESHOLDS}, got \
                 {count}; pass num_thresholds=200, \
                 or leave it out for the exact value"
            )));
        }
        let step = count - 1.0;
        Self::new(name, (0..count as usize).map(|k| k as f64 / step).collect())
    }

    /// These, in any order.
    pub fn new(name: &str, mut thresholds: Vec<f64>) -> Result<Self> {
        if let Some(bad) = thresholds.iter().find(|x| !x.is_finite()) {
            return Err(Error::Metric(format!(
                "{name} needs finite thresholds, got {bad}; leave it out"
            )));
        }
        thresholds.sort_unstable_by(f64::total_cmp);
        thresholds.dedup();
        if thresholds.len() < 2 {
            return Err(Error::Metric(format!(
                "{name} needs 2 or more thresholds, got {thresholds:?}; pass \
                 thresholds=[0.0, 0.5, 1.0], or leave them out for the exact value"
            )));
        }
        #[allow(clippy::cast_possible_truncation)] // that is the point
        let narrow = thresholds.iter().map(|&x| f64::from(x as f32));
        Ok(Self {
            narrow: narrow.collect(),
            wide: thresholds.into(),
        })
    }

    pub fn count(&self) -> usize {
        self.wide.len()
    }

    pub fn wide(&self) -> &[f64] {
        &self.wide
    }
}

/// How many cells there are between so many thresholds.
pub(super) fn cells_of(thresholds: &Thresholds) -> usize {
    2 * (thresholds.count() + 2)
}

/// How many positives and negatives lie between each two thresholds.
#[derive(Clone, Debug)]
pub(super) struct Bins {
    /// The negatives and positives below the first threshold, those from there to the second, ...,
    /// those above the last one, and those of which the score is NaN.
    cells: Vec<u64>,
    /// Where the scores of the last batch were counted.
    last: Vec<u32>,
    wide: bool,
}

impl Bins {
    pub fn new(thresholds: &Thresholds) -> Self {
        Self::from_cells(vec![0; cells_of(thresholds)])
    }

    pub fn from_cells(cells: Vec<u64>) -> Self {
        Self {
            cells,
            last: Vec::new(),
            wide: false,
        }
    }

    pub fn begin(&mut self, wide: bool) {
        self.wide = wide;
        self.last.clear();
    }

    pub fn extend(&mut self, scores: &[f64], labels: &[bool], thresholds: &Thresholds) {
        let thresholds = if self.wide {
            &thresholds.wide
        } else {
            &thresholds.narrow
        };
        for (&score, &label) in scores.iter().zip(labels) {
            let bin = if score.is_nan() {
                thresholds.len() + 1
            } else {
                thresholds.partition_point(|&threshold| threshold <= score)
            };
            let cell = 2 * bin + usize::from(label);
            self.cells[cell] += 1;
            // There are far fewer cells than 2^32: each threshold is a number that somebody gave.
            self.last.push(u32::try_from(cell).unwrap_or(u32::MAX));
        }
    }

    pub fn retract(&mut self) {
        for cell in self.last.drain(..) {
            self.cells[cell as usize] -= 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (cell, count) in self.cells.iter_mut().zip(&other.cells) {
            *cell += count;
        }
    }

    pub fn cells(&self) -> &[u64] {
        &self.cells
    }

    /// True if negatives lie below all thresholds, beyond the end of the curve.
    pub fn any_below(&self) -> bool {
        self.cells.first().is_some_and(|&negatives| negatives > 0)
    }

    /// True if a score is NaN, which is neither above a threshold nor below it.
    pub fn any_nan(&self) -> bool {
        matches!(self.cells[..], [.., negatives, positives] if negatives + positives > 0)
    }

    /// How many positives and negatives there are.
    pub fn counts(&self) -> [usize; 2] {
        let (pairs, _) = self.cells.as_chunks::<2>();
        let sum = |label: usize| pairs.iter().map(|pair| pair[label]).sum::<u64>();
        [sum(1), sum(0)].map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The area under straight lines between the points of the thresholds; NaN where a score is.
    pub fn value(&self) -> f64 {
        if self.any_nan() {
            return f64::NAN;
        }
        let (pairs, _) = self.cells.as_chunks::<2>();
        let mut from_above = pairs.iter().rev().skip(1);
        let [_, mut right] = from_above.next().copied().unwrap_or_default();
        let mut twice = 0;
        for [negatives, positives] in from_above.take(pairs.len().saturating_sub(3)) {
            twice += u128::from(*negatives) * u128::from(2 * right + positives);
            right += positives;
        }
        let [positives, negatives] = self.counts().map(|count| count as u128);
        twice as f64 / (2 * positives * negatives) as f64
    }
}

/// Equal when they have counted the same.
impl PartialEq for Bins {
    fn eq(&self, other: &Self) -> bool {
        self.cells == other.cells
    }
}
