//! The share of the targets' variance that predictions explain.

use super::form::pair;
use super::view::{Reader, tuple};
use super::{Batch, Form, Kept, Metric, Sum, View, room, whole};
use crate::error::{Error, Result};
use crate::records::Value;

/// How many numbers are looked at twice before the next ones are.
const PART: usize = 1024;

/// R², `1 - Σ (t - p)² / Σ (t - mean(t))²` of each output, and the mean of that over outputs.
///
/// The first dimension is that of samples, each place in the others an output of its own. An output
/// whose targets are all the same has 1 if it is met exactly and else 0; of fewer than two samples
/// the value is NaN.
///
/// Source: scikit-learn, `r2_score`, with its `multioutput="uniform_average"` and `force_finite`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct R2 {
    seen: Kept<Seen>,
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    count: u64,
    /// One for each output; empty before the first batch.
    outputs: Vec<Moments>,
}

// The derived one would allocate at each batch.
impl Clone for Seen {
    fn clone(&self) -> Self {
        Self {
            count: self.count,
            outputs: self.outputs.clone(),
        }
    }

    fn clone_from(&mut self, other: &Self) {
        self.count = other.count;
        self.outputs.clone_from(&other.outputs);
    }
}

/// All that is known of an output. Means are kept from a value that was seen, `shift`, so that no digit
/// is lost to an offset that all targets share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    shift: f64,
    /// Of `t - shift`.
    mean: f64,
    /// Σ (t - mean(t))².
    spread: f64,
    /// Σ (t - p)².
    error: Sum,
}

impl Moments {
    /// Takes in those of other samples: `count` here, `more` there.
    ///
    /// Source: T. Chan, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    /// Variances" (1979).
    fn merge(&mut self, other: &Self, count: u64, more: u64) {
        let (count, more) = (count as f64, more as f64);
        let part = more / (count + more);
        let apart = (other.shift - self.shift) + (other.mean - self.mean);
        self.mean += apart * part;
        self.spread += other.spread + apart * apart * count * part;
        self.error.merge(&other.error);
    }

    fn value(&self) -> f64 {
        let error = self.error.total();
        if self.spread == 0.0 {
            return if error == 0.0 { 1.0 } else { 0.0 * error };
        }
        1.0 - error / self.spread
    }
}

impl Seen {
    fn merge(&mut self, other: &Self) {
        if self.count == 0 {
            self.clone_from(other);
        } else if other.count > 0 {
            let pairs = self.outputs.iter_mut().zip(&other.outputs);
            pairs.for_each(|(one, two)| one.merge(two, self.count, other.count));
            self.count += other.count;
        }
    }

    /// Takes in samples that lie row by row.
    fn add(&mut self, preds: &[f64], target: &[f64]) {
        let outputs = self.outputs.len();
        let rows = (target.len() / outputs) as u64;
        for (j, output) in self.outputs.iter_mut().enumerate() {
            let column = || target[j..].iter().step_by(outputs);
            if self.count == 0 {
                output.shift = target[j];
            }
            let mean = column().map(|t| t - output.shift).sum::<f64>() / rows as f64;
            let apart = column().map(|t| t - output.shift - mean);
            let spread = apart.map(|x| x * x).sum();
            let pairs = column().zip(preds[j..].iter().step_by(outputs));
            let error = pairs.map(|(t, p)| (t - p) * (t - p)).sum();
            let part = Moments {
                shift: output.shift,
                mean,
                spread,
                error: Sum::from_parts(error, 0.0),
            };
            output.merge(&part, self.count, rows);
        }
        self.count += rows;
    }
}

impl Metric for R2 {
    fn name(&self) -> &'static str {
        "R2"
    }

    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch> {
        let mut batch = pair(self.name(), preds, target).map(Batch::of_any_width)?;
        if !target.is_empty() {
            let outputs = target.shape.iter().skip(1).product::<i64>();
            batch.width = usize::try_from(outputs).unwrap_or_default();
            check_outputs(known, batch.width, target)?;
        }
        Ok(batch)
    }

    fn width(&self) -> usize {
        self.seen.now.outputs.len()
    }

    fn feed(&mut self, outputs: usize, preds: &View, target: &View) -> Result<()> {
        let name = self.name();
        let (seen, numbers) = (self.seen.step(), target.numel());
        if numbers == 0 {
            return Ok(());
        }
        let samples = numbers / outputs;
        let part = outputs * (PART / outputs).max(1).min(samples);
        let (mut p, mut t) = (Vec::new(), Vec::new());
        room(name, &mut p, part, 0.0)?;
        room(name, &mut t, part, 0.0)?;
        room(name, &mut seen.outputs, outputs, Moments::default())?;
        let (mut preds, mut targets) = (Reader::new(preds), Reader::new(target));
        let mut left = numbers;
        while left > 0 {
            let len = part.min(left);
            preds.floats(&mut p[..len]);
            targets.floats(&mut t[..len]);
            seen.add(&p[..len], &t[..len]);
            left -= len;
        }
        Ok(())
    }

    fn retract(&mut self) {
        self.seen.retract();
    }

    fn compute(&mut self) -> Value {
        let Seen { count, outputs } = &self.seen.now;
        if *count < 2 {
            return Value::Number(f64::NAN);
        }
        let sum: f64 = outputs.iter().map(Moments::value).sum();
        Value::Number(sum / outputs.len() as f64)
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        let (known, got) = (self.width(), other.width());
        if known > 0 && got > 0 && known != got {
            return Err(Error::Metric(format!(
                "R2 of {known} outputs cannot take in that of {got}; merge metrics of one model"
            )));
        }
        self.seen.aside(|seen| seen.merge(&other.seen.now));
        Ok(())
    }

    /// The number of samples, then for each output the value that its mean is kept from, the mean,
    /// the spread, the error, and what rounding the error has lost.
    fn state(&self) -> Vec<f64> {
        let mut state = vec![self.seen.now.count as f64];
        for output in &self.seen.now.outputs {
            let [error, lost] = output.error.parts();
            state.extend([output.shift, output.mean, output.spread, error, lost]);
        }
        state
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let Some((count, (outputs, []))) = state.split_first().map(|(n, x)| (n, x.as_chunks()))
        else {
            return Err(Error::Metric(format!(
                "the state of R2 is a count and 5 numbers an output, got {} numbers; pass what \
                 `state` returned",
                state.len()
            )));
        };
        let count = whole(self.name(), *count)?;
        let outputs = outputs
            .iter()
            .map(|&[shift, mean, spread, error, lost]| Moments {
                shift,
                mean,
                spread,
                error: Sum::from_parts(error, lost),
            });
        let outputs = outputs.collect();
        self.seen.set(Seen { count, outputs });
        Ok(())
    }
}

fn check_outputs(known: usize, got: usize, target: &Form) -> Result<()> {
    if known == 0 || known == got {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "R2 has counted batches of {known} outputs, and this target of shape {} has {got}; samples \
         lie along the first dimension, a dimension that varies does not fit behind it: flatten it \
         into the first",
        tuple(target.shape)
    )))
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::testing::{number, plain};
    use super::*;
    use proptest::prelude::*;

    fn r2(shape: &[i64], preds: &[f64], target: &[f64]) -> R2 {
        let mut metric = R2::default();
        let (p, t) = (
            plain("float64", shape, preds),
            plain("float64", shape, target),
        );
        metric.update(&p.view(), &t.view()).unwrap();
        metric
    }

    fn value(shape: &[i64], preds: &[f64], target: &[f64]) -> f64 {
        number(r2(shape, preds, target).compute())
    }

    #[test]
    fn it_is_the_formula() {
        // The example of scikit-learn's documentation.
        let (target, preds) = ([3.0, -0.5, 2.0, 7.0], [2.5, 0.0, 2.0, 8.0]);
        assert_eq!(value(&[4], &preds, &target), 1.0 - 1.5 / 29.1875);
    }

    #[test]
    fn outputs_are_averaged_each_with_the_same_weight() {
        let (target, preds) = (
            [0.5, 1.0, -1.0, 1.0, 7.0, -6.0],
            [0.0, 2.0, -1.0, 2.0, 8.0, -5.0],
        );
        let of = |k: usize| {
            let column = |x: &[f64]| [x[k], x[k + 2], x[k + 4]];
            value(&[3], &column(&preds), &column(&target))
        };
        let both = value(&[3, 2], &preds, &target);
        assert!((both - f64::midpoint(of(0), of(1))).abs() < 1e-15);
    }

    #[test]
    fn targets_without_variance_are_met_or_not() {
        assert_eq!(value(&[3], &[0.1; 3], &[0.1; 3]), 1.0);
        assert_eq!(value(&[3], &[0.1, 0.1, 0.2], &[0.1; 3]), 0.0);
        assert!(value(&[3], &[0.1, 0.1, f64::NAN], &[0.1; 3]).is_nan());
        assert!(value(&[1], &[1.0], &[2.0]).is_nan());
        let mut merged = r2(&[1], &[0.1], &[0.1]);
        merged.merge(&r2(&[2], &[0.1; 2], &[0.1; 2])).unwrap();
        assert_eq!(number(merged.compute()), 1.0);
    }

    #[test]
    fn another_number_of_outputs_is_an_error() {
        let mut metric = r2(&[2, 3], &[0.0; 6], &[1.0; 6]);
        let before = metric.clone();
        let two = plain("float32", &[3, 2], &[0.0; 6]);
        let error = metric.update(&two.view(), &two.view()).unwrap_err();
        assert!(matches!(error, Error::Shape(_)));
        let error = error.to_string();
        assert!(
            error.contains("3 outputs, and this target of shape (3, 2) has 2"),
            "{error}"
        );
        let error = metric
            .merge(&r2(&[2], &[0.0; 2], &[1.0; 2]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("R2 of 3 outputs cannot take in that of 1"),
            "{error}"
        );
        assert_eq!(metric, before);
        let error = metric.load(&[1.0, 2.0]).unwrap_err().to_string();
        assert!(
            error.contains("a count and 5 numbers an output, got 2"),
            "{error}"
        );
        assert!(metric.load(&[]).is_err());
    }

    proptest! {
        #[test]
        fn neither_offset_nor_splits_cost_digits(
            values in prop::collection::vec((-1.0..1.0_f64, -1.0..1.0_f64), 4..3000),
            offset in prop::sample::select(vec![0.0, 1e8, -1e12]),
            first in prop::sample::select(vec![None, Some(0.0)]),
            split in any::<prop::sample::Index>(),
        ) {
            let mut target: Vec<f64> = values.iter().map(|x| x.0 + offset).collect();
            // The mean is kept from the first one: here it lies far from all others.
            target[0] = first.unwrap_or(target[0]);
            let preds: Vec<f64> = target.iter().zip(&values).map(|(t, x)| t + x.1).collect();
            let n = target.len() as f64;
            let mean = target[0] + target.iter().map(|t| t - target[0]).sum::<f64>() / n;
            let rest = target.iter().map(|t| t - mean).sum::<f64>() / n;
            let spread: f64 = target.iter().map(|t| (t - mean - rest).powi(2)).sum();
            let error: f64 = target.iter().zip(&preds).map(|(t, p)| (t - p).powi(2)).sum();
            let expected = 1.0 - error / spread;
            let at = split.index(target.len());
            let of = |from: usize, to: usize| {
                let shape = [i64::try_from(to - from).unwrap()];
                r2(&shape, &preds[from..to], &target[from..to])
            };
            let mut merged = of(at, target.len());
            merged.merge(&of(0, at)).unwrap();
            for mut metric in [of(0, target.len()), merged] {
                let value = number(metric.compute());
                prop_assert!((value - expected).abs() <= 1e-11 * expected.abs().max(1.0));
            }
        }
    }
}
