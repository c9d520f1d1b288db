//! How far predictions are from their targets: MAE, MSE, RMSE.

use super::form::pair;
use super::view::{Element, Reader};
use super::{BLOCK, Batch, Data, Form, Kept, Metric, Sum, View, parts, unmergeable, whole};
use crate::error::Result;
use crate::records::Value;

/// How a deviation is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// `mean(|p - t|)`: MAE.
    Absolute,
    /// `mean((p - t)^2)`: MSE.
    Squared,
    /// `sqrt(mean((p - t)^2))`: RMSE, over all samples and not batch by batch.
    RootSquared,
}

/// The mean deviation over all elements, in double precision whatever the dtypes.
///
/// Source: scikit-learn, `mean_absolute_error`, `mean_squared_error`, `root_mean_squared_error`,
/// over the flattened predictions and targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    measure: Measure,
    sums: Kept<Sums>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    sum: Sum,
    count: u64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.sum.merge(&other.sum);
        self.count += other.count;
    }
}

impl Deviation {
    /// An empty metric.
    #[must_use]
    pub fn new(measure: Measure) -> Self {
        Self {
            measure,
            sums: Kept::default(),
        }
    }
}

impl Metric for Deviation {
    fn name(&self) -> &'static str {
        match self.measure {
            Measure::Absolute => "MAE",
            Measure::Squared => "MSE",
            Measure::RootSquared => "RMSE",
        }
    }

    fn check(&self, preds: &Form, target: &Form, _: usize) -> Result<Batch> {
        pair(self.name(), preds, target).map(Batch::of_any_width)
    }

    fn feed(&mut self, _: usize, preds: &View, target: &View) -> Result<()> {
        let sum = match self.measure {
            Measure::Absolute => sum(preds, target, f64::abs),
            Measure::Squared | Measure::RootSquared => sum(preds, target, |x| x * x),
        };
        let count = target.numel() as u64;
        self.sums.step().add(&Sums { sum, count });
        Ok(())
    }

    fn retract(&mut self) {
        self.sums.retract();
    }

    fn compute(&mut self) -> Value {
        let Sums { sum, count } = self.sums.now;
        let mean = sum.total() / count as f64;
        Value::Number(if self.measure == Measure::RootSquared {
            mean.sqrt()
        } else {
            mean
        })
    }

    fn reset(&mut self) {
        *self = Self::new(self.measure);
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.measure != other.measure {
            return Err(unmergeable(self.name(), other.name()));
        }
        self.sums.aside(|sums| sums.add(&other.sums.now));
        Ok(())
    }

    /// Sum, count, and what rounding the sum has lost (a device may leave that 0).
    fn state(&self) -> Vec<f64> {
        let Sums { sum, count } = self.sums.now;
        let [sum, lost] = sum.parts();
        vec![sum, count as f64, lost]
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let [sum, count, lost] = parts(self.name(), state)?;
        let count = whole(self.name(), count)?;
        let sum = Sum::from_parts(sum, lost);
        self.sums.set(Sums { sum, count });
        Ok(())
    }
}

/// The sum of `measure(p - t)`. Common pairs are read in place, all others converted by the block.
fn sum(preds: &View, target: &View, measure: impl Fn(f64) -> f64 + Copy) -> Sum {
    let mut total = Sum::default();
    match (preds.flat(), target.flat()) {
        (Some(Data::F32(p)), Some(Data::F32(t))) => blocks(&mut total, p, t, measure),
        (Some(Data::F64(p)), Some(Data::F64(t))) => blocks(&mut total, p, t, measure),
        (Some(Data::F16(p)), Some(Data::F16(t))) => blocks(&mut total, p, t, measure),
        (Some(Data::BF16(p)), Some(Data::BF16(t))) => blocks(&mut total, p, t, measure),
        _ => {
            let (mut p, mut t) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (mut preds, mut targets) = (Reader::new(preds), Reader::new(target));
            let mut left = target.numel();
            while left > 0 {
                let len = BLOCK.min(left);
                preds.floats(&mut p[..len]);
                targets.floats(&mut t[..len]);
                blocks(&mut total, &p[..len], &t[..len], measure);
                left -= len;
            }
        }
    }
    total
}

/// Adds up block by block: plain sums in eight lanes inside a block, which the processor takes side
/// by side, and compensated ones across blocks, where sums grow large.
fn blocks<T: Element>(
    total: &mut Sum,
    preds: &[T],
    target: &[T],
    measure: impl Fn(f64) -> f64 + Copy,
) {
    for (preds, target) in preds.chunks(BLOCK).zip(target.chunks(BLOCK)) {
        let (preds, preds_rest) = preds.as_chunks::<8>();
        let (target, target_rest) = target.as_chunks::<8>();
        let deviation = |p: T, t: T| measure(p.to_f64() - t.to_f64());
        let mut lanes = [0.0; 8];
        for (p, t) in preds.iter().zip(target) {
            for k in 0..8 {
                lanes[k] += deviation(p[k], t[k]);
            }
        }
        let rest = preds_rest
            .iter()
            .zip(target_rest)
            .map(|(&p, &t)| deviation(p, t));
        total.add(lanes.iter().sum::<f64>() + rest.sum::<f64>());
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::Fit;
    use super::super::testing::{number, plain, tensor};
    use super::*;
    use crate::error::Error;

    fn measured(measure: Measure, dtype: &str, preds: &[f64], target: &[f64]) -> f64 {
        let mut metric = Deviation::new(measure);
        let shape = [i64::try_from(preds.len()).unwrap()];
        let (p, t) = (plain(dtype, &shape, preds), plain(dtype, &shape, target));
        metric.update(&p.view(), &t.view()).unwrap();
        number(metric.compute())
    }

    #[test]
    fn each_measure_is_its_formula() {
        let (preds, target) = ([3.0, -1.0, 2.0, 7.0], [1.0, -1.0, 3.0, 4.0]);
        assert_eq!(
            measured(Measure::Absolute, "float32", &preds, &target),
            6.0 / 4.0
        );
        assert_eq!(
            measured(Measure::Squared, "float32", &preds, &target),
            14.0 / 4.0
        );
        assert_eq!(
            measured(Measure::RootSquared, "float32", &preds, &target),
            3.5_f64.sqrt()
        );
    }

    #[test]
    fn the_root_is_taken_of_the_whole_and_not_of_batches() {
        let mut metric = Deviation::new(Measure::RootSquared);
        for (pred, times) in [(3.0, 1), (0.0, 3)] {
            let pred = tensor(
                "float32",
                &[times],
                &[0],
                &vec![pred; usize::try_from(times).unwrap()],
            );
            let target = tensor(
                "int32",
                &[times],
                &[0],
                &vec![0.0; usize::try_from(times).unwrap()],
            );
            metric.update(&pred.view(), &target.view()).unwrap();
        }
        assert_eq!(number(metric.compute()), 1.5);
    }

    #[test]
    fn unsigned_integers_do_not_wrap() {
        assert_eq!(
            measured(Measure::Absolute, "uint8", &[0.0], &[255.0]),
            255.0
        );
        assert_eq!(
            measured(Measure::Squared, "int8", &[-128.0], &[127.0]),
            255.0 * 255.0
        );
    }

    #[test]
    fn halves_are_squared_in_double_precision() {
        assert_eq!(
            measured(Measure::Squared, "float16", &[60000.0], &[0.0]),
            60000.0 * 60000.0
        );
    }

    #[test]
    fn nan_and_infinity_are_not_hidden() {
        let many = |bad: f64| {
            (0..1000)
                .map(|k| if k == 500 { bad } else { 1.0 })
                .collect::<Vec<_>>()
        };
        let zeros = [0.0; 1000];
        assert!(measured(Measure::Squared, "float32", &many(f64::NAN), &zeros).is_nan());
        assert_eq!(
            measured(Measure::Absolute, "float32", &many(f64::INFINITY), &zeros),
            f64::INFINITY
        );
    }

    #[test]
    fn small_deviations_survive_many_large_ones() {
        let mut metric = Deviation::new(Measure::Absolute);
        let zeros = plain("float64", &[1], &[0.0]);
        metric
            .update(&plain("float64", &[1], &[1e16]).view(), &zeros.view())
            .unwrap();
        for _ in 0..1000 {
            metric
                .update(&plain("float64", &[1], &[1.0]).view(), &zeros.view())
                .unwrap();
        }
        assert_eq!(number(metric.compute()) * 1001.0, 1e16 + 1000.0);
    }

    #[test]
    fn size_one_aside_shapes_must_be_equal() {
        let mut metric = Deviation::new(Measure::Squared);
        let two = [1.0, 2.0];
        let cases: [(&[i64], &[i64], Fit); 4] = [
            (&[2], &[2], Fit::Exact),
            (&[2, 1], &[2], Fit::Squeezed),
            (&[2], &[1, 2, 1], Fit::Squeezed),
            (&[1, 2], &[2, 1], Fit::Squeezed),
        ];
        for (p, t, fit) in cases {
            let (p, t) = (plain("float32", p, &two), plain("float32", t, &two));
            assert_eq!(metric.update(&p.view(), &t.view()).unwrap(), fit);
        }
        assert_eq!(number(metric.compute()), 0.0);
        let before = metric;
        let six = [0.0; 6];
        for (p, t, mend) in [
            ([2, 3], [3, 2], "target.reshape(preds.shape)"),
            ([2, 3], [2, 1], "one target"),
        ] {
            let count = usize::try_from(t[0] * t[1]).unwrap();
            let (p, t) = (
                plain("float32", &p, &six),
                plain("float32", &t, &six[..count]),
            );
            let error = metric.update(&p.view(), &t.view()).unwrap_err();
            assert!(matches!(error, Error::Shape(_)));
            let error = error.to_string();
            assert!(
                error.starts_with("MSE needs") && error.contains("got (2, 3) and ("),
                "{error}"
            );
            assert!(error.contains(mend), "{error}");
            assert_eq!(metric, before);
        }
    }
}
