//! Sums and means that do not lose small values among large ones.

use super::parts;
use crate::error::Result;

/// A running sum with the error of each addition kept beside it.
///
/// After `s' = fl(s + x)`, what the rounding lost is `(s - s') + x` where `|s| >= |x|`, else
/// `(x - s') + s`. It is exact, and is added up apart. Source: A. Neumaier, "Rundungsfehleranalyse
/// einiger Verfahren zur Summation endlicher Summen", ZAMM 54 (1974).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() {
            (self.sum - sum) + value
        } else {
            (value - sum) + self.sum
        };
        self.sum = sum;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.add(other.sum);
        self.lost += other.lost;
    }

    /// The sum. Infinite or NaN when a value was.
    #[must_use]
    pub fn total(&self) -> f64 {
        // What an infinite sum lost is infinity - infinity.
        if self.sum.is_finite() {
            self.sum + self.lost
        } else {
            self.sum
        }
    }

    pub(super) fn parts(&self) -> [f64; 2] {
        [self.sum, self.lost]
    }

    pub(super) fn from_parts(sum: f64, lost: f64) -> Self {
        Self { sum, lost }
    }
}

/// A mean in which each value has a weight: `sum(w * x) / sum(w)`. The loss is one over samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: Sum,
    weight: Sum,
}

impl Mean {
    /// Adds a value. A weight of 0 leaves the mean as it is, even when the value is NaN.
    #[inline]
    pub fn add(&mut self, value: f64, weight: f64) {
        if weight != 0.0 {
            self.sum.add(value * weight);
            self.weight.add(weight);
        }
    }

    /// The mean, NaN when there is nothing in it.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum.total() / self.weight.total()
    }

    /// Takes in what another mean has seen.
    pub fn merge(&mut self, other: &Self) {
        self.sum.merge(&other.sum);
        self.weight.merge(&other.weight);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// All it knows: sum, weight, and what the roundings of the two have lost.
    #[must_use]
    pub fn state(&self) -> Vec<f64> {
        let ([sum, sum_lost], [weight, weight_lost]) = (self.sum.parts(), self.weight.parts());
        vec![sum, weight, sum_lost, weight_lost]
    }

    /// Becomes what [`Mean::state`] has described.
    pub fn load(&mut self, state: &[f64]) -> Result<()> {
        let [sum, weight, sum_lost, weight_lost] = parts("the mean of the loss", state)?;
        self.sum = Sum::from_parts(sum, sum_lost);
        self.weight = Sum::from_parts(weight, weight_lost);
        Ok(())
    }

    /// Takes in what another mean has seen, from its state.
    pub fn add_state(&mut self, state: &[f64]) -> Result<()> {
        let mut other = Self::default();
        other.load(state)?;
        self.merge(&other);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_survive_large_ones() {
        let mut sum = Sum::default();
        for value in [1.0, 1e100, 1.0, -1e100] {
            sum.add(value);
        }
        assert_eq!(sum.total(), 2.0);
    }

    #[test]
    fn infinity_and_nan_are_not_hidden() {
        let mut mean = Mean::default();
        mean.add(f64::INFINITY, 2.0);
        mean.add(1.0, 2.0);
        assert_eq!(mean.mean(), f64::INFINITY);
        mean.add(f64::NAN, 0.0);
        assert_eq!(mean.mean(), f64::INFINITY);
        mean.add(f64::NAN, 1.0);
        assert!(mean.mean().is_nan());
    }

    #[test]
    fn a_mean_of_nothing_is_nan() {
        let mut mean = Mean::default();
        assert!(mean.mean().is_nan());
        mean.add(3.0, 1.0);
        assert_eq!(mean.mean(), 3.0);
        mean.reset();
        assert!(mean.mean().is_nan());
    }

    #[test]
    fn batches_weigh_as_many_samples_as_they_hold() {
        let mut mean = Mean::default();
        mean.add(1.0, 32.0);
        mean.add(3.0, 8.0);
        assert_eq!(mean.mean(), 1.4);
    }

    #[test]
    fn a_state_of_another_length_is_refused() {
        let error = Mean::default().load(&[1.0]).unwrap_err().to_string();
        assert!(
            error.contains("4 numbers") && error.contains("got 1"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_split_and_merge_equals_one_pass(
            values in prop::collection::vec((-1e6..1e6_f64, 1..512_u32), 1..60),
            split in any::<prop::sample::Index>(),
        ) {
            let mean_of = |part: &[(f64, u32)]| {
                let mut mean = Mean::default();
                for &(value, weight) in part {
                    mean.add(value, f64::from(weight));
                }
                mean
            };
            let whole = mean_of(&values);
            let (left, right) = values.split_at(split.index(values.len()));
            let mut merged = mean_of(left);
            merged.add_state(&mean_of(right).state()).unwrap();
            prop_assert!((merged.mean() - whole.mean()).abs() <= 1e-15 * 1e6);
            let mut loaded = Mean::default();
            loaded.load(&whole.state()).unwrap();
            prop_assert_eq!(loaded, whole);
        }
    }
}
