//! The share of samples on the right side of a threshold.
// Classes are compared as floats, since any dtype may hold them, and without lazy operators, which
// are branches that the processor cannot predict.
#![allow(
    clippy::float_cmp,
    clippy::manual_range_contains,
    clippy::needless_bitwise_bool
)]

use super::form::pair;
use super::view::{Element, Reader, with_slice};
use super::{BLOCK, Batch, Form, Hits, Kept, Metric, View, parts, unmergeable, whole};
use crate::error::{Error, Result};
use crate::records::Value;

/// Binary accuracy, `hits / count`: class 1 is predicted where the probability is above the
/// threshold.
///
/// Targets are 0 and 1 in any dtype. With logits the threshold is still one of probability `t`:
/// `sigmoid(x) > t` is taken as `x > ln(t / (1 - t))`, which is exact where the sigmoid would
/// round. A NaN score is a miss.
///
/// Source: scikit-learn, `accuracy_score` over `preds > threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryAccuracy {
    cut: f64,
    logits: bool,
    hits: Kept<Hits>,
    /// How many scores are no probabilities where they have to be.
    outside: Kept<u64>,
}

impl BinaryAccuracy {
    /// For predictions that are probabilities.
    pub fn new(threshold: f64) -> Result<Self> {
        Self::build(threshold, false)
    }

    /// For predictions before the sigmoid.
    pub fn with_logits(threshold: f64) -> Result<Self> {
        Self::build(threshold, true)
    }

    fn build(threshold: f64, logits: bool) -> Result<Self> {
        let cut = if logits {
            threshold.ln() - (-threshold).ln_1p()
        } else {
            threshold
        };
        let metric = Self {
            cut,
            logits,
            hits: Kept::default(),
            outside: Kept::default(),
        };
        if threshold > 0.0 && threshold < 1.0 {
            return Ok(metric);
        }
        let name = metric.name();
        Err(Error::Metric(format!(
            "{name} needs a threshold between 0 and 1, a probability, got {threshold}; pass \
             threshold=0.5"
        )))
    }

    /// The score above which class 1 is predicted: the threshold, or its logit.
    #[must_use]
    pub fn cut(&self) -> f64 {
        self.cut
    }

    /// A remark on scores that are no probabilities; `None` where there are none.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        (self.outside.now > 0).then(|| {
            "BinaryAccuracy takes probabilities, and there are scores below 0 or above 1. If preds are \
             logits, from before the sigmoid: BinaryAccuracyWithLogits()."
                .into()
        })
    }
}

impl Metric for BinaryAccuracy {
    fn name(&self) -> &'static str {
        if self.logits {
            "BinaryAccuracyWithLogits"
        } else {
            "BinaryAccuracy"
        }
    }

    fn check(&self, preds: &Form, target: &Form, _: usize) -> Result<Batch> {
        pair(self.name(), preds, target).map(Batch::of_any_width)
    }

    fn feed(&mut self, _: usize, preds: &View, target: &View) -> Result<()> {
        let cut = with_slice!(preds.data(), scores => rounded(scores, self.cut));
        let (mut scores, mut classes) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (mut preds, mut targets) = (Reader::new(preds), Reader::new(target));
        let (mut hits, mut outside, mut done) = (0, 0, 0);
        while done < target.numel() {
            let len = BLOCK.min(target.numel() - done);
            let (scores, classes) = (&mut scores[..len], &mut classes[..len]);
            preds.floats(scores);
            targets.floats(classes);
            if !classes.iter().fold(true, |ok, &class| ok & is_class(class)) {
                let at = classes
                    .iter()
                    .position(|&class| !is_class(class))
                    .unwrap_or_default();
                return Err(no_class(self.name(), "Accuracy", done + at, target));
            }
            if !self.logits {
                outside += scores
                    .iter()
                    .map(|&x| u64::from(is_outside(x)))
                    .sum::<u64>();
            }
            let pairs = scores.iter().zip(&*classes);
            hits += pairs
                .map(|(&score, &class)| u64::from(is_hit(score, cut, class)))
                .sum::<u64>();
            done += len;
        }
        self.hits.step().add(Hits {
            hits,
            count: done as u64,
        });
        *self.outside.step() += outside;
        Ok(())
    }

    fn retract(&mut self) {
        self.hits.retract();
        self.outside.retract();
    }

    fn compute(&mut self) -> Value {
        self.hits.now.ratio()
    }

    fn reset(&mut self) {
        self.hits = Kept::default();
        self.outside = Kept::default();
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.cut, self.logits) != (other.cut, other.logits) {
            let describe = |metric: &Self| format!("{} cut at {}", metric.name(), metric.cut);
            return Err(unmergeable(&describe(self), &describe(other)));
        }
        self.hits.aside(|hits| hits.add(other.hits.now));
        self.outside.aside(|count| *count += other.outside.now);
        Ok(())
    }

    /// The hits, the count, and how many scores were no probabilities.
    fn state(&self) -> Vec<f64> {
        let Hits { hits, count } = self.hits.now;
        [hits, count, self.outside.now].map(|x| x as f64).to_vec()
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let [hits, count, outside] = parts(self.name(), state)?;
        let outside = whole(self.name(), outside)?;
        self.hits
            .set(Hits::from_state(self.name(), &[hits, count])?);
        self.outside.set(outside);
        Ok(())
    }
}

fn is_class(number: f64) -> bool {
    (number == 0.0) | (number == 1.0)
}

/// NaN is not: it is told of elsewhere.
fn is_outside(score: f64) -> bool {
    (score < 0.0) | (score > 1.0)
}

/// Two comparisons, so that NaN is on neither side.
fn is_hit(score: f64, cut: f64, class: f64) -> bool {
    ((score > cut) & (class == 1.0)) | ((score <= cut) & (class == 0.0))
}

/// The cut in the precision of the scores: 0.3 as float32 is not above 0.3, in torch as here.
fn rounded<T: Element>(_scores: &[T], cut: f64) -> f64 {
    T::round(cut)
}

#[cold]
pub(super) fn no_class(name: &str, of_more: &str, index: usize, target: &View) -> Error {
    Error::Target(format!(
        "{name} needs targets that are 0 or 1, got {} at index {index} of the flattened target of \
         dtype {}; pass (target > 0.5).long(), or use {of_more} where there are more classes",
        target.text(index),
        target.data().dtype()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Fit;
    use super::super::testing::{number, plain};
    use super::*;

    fn measured(mut metric: BinaryAccuracy, scores: &[f64], target: &[f64]) -> f64 {
        let shape = [i64::try_from(scores.len()).unwrap()];
        let (p, t) = (
            plain("float32", &shape, scores),
            plain("float32", &shape, target),
        );
        metric.update(&p.view(), &t.view()).unwrap();
        number(metric.compute())
    }

    #[test]
    fn class_one_is_above_the_threshold_and_not_at_it() {
        let metric = BinaryAccuracy::new(0.5).unwrap();
        assert_eq!(
            measured(metric, &[0.5, 0.500_001, 0.4, 0.9], &[0.0, 1.0, 1.0, 0.0]),
            0.5
        );
        // float32(0.3) is above 0.3, but a user who writes 0.3 twice means one number.
        let metric = BinaryAccuracy::new(0.3).unwrap();
        assert_eq!(measured(metric, &[0.3], &[0.0]), 1.0);
    }

    #[test]
    fn logits_are_cut_at_the_logit_of_the_threshold() {
        let metric = BinaryAccuracy::with_logits(0.5).unwrap();
        assert_eq!(metric.cut(), 0.0);
        assert_eq!(
            measured(metric, &[0.0, -0.0, 1e-30, -1e-30], &[0.0, 0.0, 1.0, 0.0]),
            1.0
        );
        let metric = BinaryAccuracy::with_logits(0.9).unwrap();
        assert!((metric.cut() - 9_f64.ln()).abs() < 1e-15);
        assert_eq!(measured(metric, &[2.19, 2.2], &[0.0, 1.0]), 1.0);
    }

    #[test]
    fn nan_is_a_miss_for_either_class() {
        let metric = BinaryAccuracy::new(0.5).unwrap();
        assert_eq!(measured(metric, &[f64::NAN, f64::NAN], &[0.0, 1.0]), 0.0);
    }

    #[test]
    fn scores_that_are_no_probabilities_are_told_of() {
        for (scores, is_told) in [([0.0, 1.0, f64::NAN], false), ([0.5, 0.5, -2.0], true)] {
            let mut metric = BinaryAccuracy::new(0.5).unwrap();
            let mut with_logits = BinaryAccuracy::with_logits(0.5).unwrap();
            let (p, t) = (
                plain("float32", &[3], &scores),
                plain("bool", &[3], &[0.0; 3]),
            );
            metric.update(&p.view(), &t.view()).unwrap();
            with_logits.update(&p.view(), &t.view()).unwrap();
            assert_eq!(metric.caveat().is_some(), is_told);
            assert_eq!(with_logits.caveat(), None);
            let mut other = BinaryAccuracy::new(0.5).unwrap();
            other.add_state(&metric.state()).unwrap();
            assert_eq!(other.caveat(), metric.caveat());
            metric.retract();
            assert_eq!(metric.caveat(), None);
        }
    }

    #[test]
    fn a_column_meets_a_row_one_to_one() {
        let mut metric = BinaryAccuracy::new(0.5).unwrap();
        let (p, t) = (
            plain("float32", &[3, 1], &[0.9, 0.1, 0.9]),
            plain("bool", &[3], &[1.0, 0.0, 0.0]),
        );
        assert_eq!(metric.update(&p.view(), &t.view()).unwrap(), Fit::Squeezed);
        assert_eq!(metric.state(), [2.0, 3.0, 0.0]);
    }

    #[test]
    fn thresholds_outside_of_zero_to_one_are_refused() {
        for threshold in [0.0, 1.0, -0.1, 2.0, f64::NAN, f64::INFINITY] {
            for made in [
                BinaryAccuracy::new(threshold),
                BinaryAccuracy::with_logits(threshold),
            ] {
                let error = made.unwrap_err();
                assert!(matches!(error, Error::Metric(_)));
                assert!(
                    error
                        .to_string()
                        .contains(&format!("got {threshold}; pass")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn targets_other_than_zero_and_one_are_named_with_their_place() {
        for (bad, dtype, text) in [
            (2.0, "int64", "2"),
            (0.5, "float32", "0.5"),
            (f64::NAN, "float16", "NaN"),
        ] {
            let mut target = [0.0; 300];
            target[200] = bad;
            let mut metric = BinaryAccuracy::new(0.5).unwrap();
            let (p, t) = (
                plain("float32", &[300], &[0.0; 300]),
                plain(dtype, &[300], &target),
            );
            let error = metric.update(&p.view(), &t.view()).unwrap_err();
            assert!(matches!(error, Error::Target(_)));
            let error = error.to_string();
            assert!(
                error.contains(&format!("got {text} at index 200 of")),
                "{error}"
            );
            assert!(
                error.contains(dtype) && error.contains("(target > 0.5).long()"),
                "{error}"
            );
            assert!(number(metric.compute()).is_nan());
        }
    }
}
