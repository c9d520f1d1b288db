//! Precision, recall and F1 of each class, and what they are on the average.

use super::argmax::each_prediction;
use super::classes::{TWO_SCORES, check_alike, check_classes, index};
use super::{Average, Batch, Form, Kept, Metric, View, room, unmergeable, whole};
use crate::error::{Error, Result};
use crate::records::Value;

/// Which share is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Of the predictions of a class, the hits.
    Precision,
    /// Of the samples of a class, the hits.
    Recall,
    /// The harmonic mean of both.
    F1,
}

/// The samples of a class, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    hits: u64,
    predicted: u64,
    wanted: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.predicted += other.predicted;
        self.wanted += other.wanted;
    }

    /// 0 where there is nothing to have a share of, as scikit-learn's `zero_division=0` has it.
    fn share(self, share: Share) -> f64 {
        let (hits, of) = match share {
            Share::Precision => (self.hits, self.predicted),
            Share::Recall => (self.hits, self.wanted),
            Share::F1 => (2 * self.hits, self.predicted + self.wanted),
        };
        if of == 0 {
            0.0
        } else {
            hits as f64 / of as f64
        }
    }
}

/// Precision, recall or F1 over classes.
///
/// Shapes, ties and NaN are those of `Accuracy`; a sample with a NaN among its scores predicts no
/// class. All classes that predictions score are averaged, those that do not occur with a share of 0.
///
/// Source: scikit-learn, `precision_recall_fscore_support(labels=range(classes), zero_division=0)`.
#[derive(Clone, Debug, PartialEq)]
pub struct PerClass {
    share: Share,
    average: Average,
    /// One for each class; empty before the first batch.
    counts: Kept<Vec<Counts>>,
}

impl PerClass {
    /// An empty metric.
    #[must_use]
    pub fn new(share: Share, average: Average) -> Self {
        Self {
            share,
            average,
            counts: Kept::default(),
        }
    }

    fn total(&self) -> Counts {
        self.counts
            .now
            .iter()
            .fold(Counts::default(), |mut sum, &counts| {
                sum.add(counts);
                sum
            })
    }
}

impl Metric for PerClass {
    fn name(&self) -> &'static str {
        match self.share {
            Share::Precision => "Precision",
            Share::Recall => "Recall",
            Share::F1 => "F1",
        }
    }

    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch> {
        check_alike(self.name(), preds, target, known, TWO_SCORES)
    }

    fn width(&self) -> usize {
        self.counts.now.len()
    }

    fn feed(&mut self, classes: usize, preds: &View, target: &View) -> Result<()> {
        let name = self.name();
        let counts = self.counts.step();
        if target.numel() == 0 {
            return Ok(());
        }
        room(name, counts, classes, Counts::default())?;
        let read = each_prediction(name, preds, target, |wanted, predicted| {
            for (&wanted, &predicted) in wanted.iter().zip(predicted) {
                let (wanted, predicted) = (index(wanted), predicted as usize);
                counts[wanted].wanted += 1;
                counts[wanted].hits += u64::from(wanted == predicted);
                if let Some(counts) = counts.get_mut(predicted) {
                    counts.predicted += 1;
                }
            }
        });
        if read.is_err() {
            self.retract();
        }
        read
    }

    fn retract(&mut self) {
        self.counts.retract();
    }

    fn compute(&mut self) -> Value {
        let total = self.total();
        if total.wanted == 0 {
            return Value::Number(f64::NAN);
        }
        let counts = &self.counts.now;
        let shares = counts.iter().map(|counts| counts.share(self.share));
        Value::Number(match self.average {
            Average::Micro => total.share(self.share),
            Average::Macro => shares.sum::<f64>() / counts.len() as f64,
            Average::Weighted => {
                let pairs = shares.zip(counts);
                pairs
                    .map(|(share, counts)| share * counts.wanted as f64)
                    .sum::<f64>()
                    / total.wanted as f64
            }
            Average::None => {
                let data: Vec<f64> = shares.collect();
                let shape = vec![data.len()];
                return Value::Array { shape, data };
            }
        })
    }

    fn reset(&mut self) {
        self.counts = Kept::default();
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.share, self.average) != (other.share, other.average) {
            let describe = |metric: &Self| format!("{} {:?}", metric.name(), metric.average);
            return Err(unmergeable(&describe(self), &describe(other)));
        }
        let more = &other.counts.now;
        if more.is_empty() {
            return Ok(());
        }
        check_classes(self.name(), self.width(), more.len())?;
        self.counts.aside(|counts| {
            counts.resize(more.len(), Counts::default());
            let pairs = counts.iter_mut().zip(more);
            pairs.for_each(|(to, &from)| to.add(from));
        });
        Ok(())
    }

    /// Hits, predictions and samples, class by class. They add up over devices and processes.
    fn state(&self) -> Vec<f64> {
        let counts = self.counts.now.iter();
        counts
            .flat_map(|each| [each.hits as f64, each.predicted as f64, each.wanted as f64])
            .collect()
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let (classes, rest) = state.as_chunks();
        if !rest.is_empty() {
            return Err(Error::Metric(format!(
                "the state of {} is 3 counts a class, got {} numbers; pass what `state` returned",
                self.name(),
                state.len()
            )));
        }
        let counts = classes.iter().map(|&[hits, predicted, wanted]| {
            Ok(Counts {
                hits: whole(self.name(), hits)?,
                predicted: whole(self.name(), predicted)?,
                wanted: whole(self.name(), wanted)?,
            })
        });
        self.counts.set(counts.collect::<Result<_>>()?);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::testing::{number, plain};
    use super::*;

    const SHARES: [Share; 3] = [Share::Precision, Share::Recall, Share::F1];

    /// Of 4 classes: 0 hit once and missed by 1, 1 taken for 0, 2 with a NaN, 3 not there.
    fn counted(share: Share, average: Average) -> PerClass {
        let scores = [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0],
            [0.0, f64::NAN, 1.0, 0.0],
        ];
        let mut metric = PerClass::new(share, average);
        let preds = plain("float32", &[4, 4], scores.as_flattened());
        let target = plain("int64", &[4], &[0.0, 0.0, 1.0, 2.0]);
        metric.update(&preds.view(), &target.view()).unwrap();
        metric
    }

    #[test]
    fn each_share_is_its_formula_and_0_where_there_is_nothing_to_share() {
        let expected = [
            [1.0 / 2.0, 0.0, 0.0, 0.0],
            [1.0 / 2.0, 0.0, 0.0, 0.0],
            [2.0 / 4.0, 0.0, 0.0, 0.0],
        ];
        for (share, expected) in SHARES.into_iter().zip(expected) {
            let value = counted(share, Average::None).compute();
            let (shape, data) = (vec![4], expected.to_vec());
            assert_eq!(value, Value::Array { shape, data });
        }
    }

    #[test]
    fn averages_are_over_classes_samples_or_classes_by_their_samples() {
        let of = |share, average| number(counted(share, average).compute());
        for (share, micro) in SHARES.into_iter().zip([1.0 / 3.0, 1.0 / 4.0, 2.0 / 7.0]) {
            assert_eq!(of(share, Average::Micro), micro);
            assert_eq!(of(share, Average::Macro), 0.5 / 4.0);
            assert_eq!(of(share, Average::Weighted), 0.5 * 2.0 / 4.0);
        }
    }

    #[test]
    fn another_number_of_classes_is_an_error_that_changes_nothing() {
        let mut metric = counted(Share::F1, Average::Macro);
        let before = metric.clone();
        let (preds, target) = (
            plain("int8", &[1, 3], &[0.0; 3]),
            plain("int8", &[1], &[0.0]),
        );
        let error = metric.update(&preds.view(), &target.view()).unwrap_err();
        assert!(matches!(error, Error::Shape(_)));
        let error = error.to_string();
        assert!(
            error.contains("F1 has counted batches of 4 classes, and this one has 3"),
            "{error}"
        );
        let mut other = PerClass::new(Share::F1, Average::Macro);
        other.load(&[0.0, 0.0, 1.0]).unwrap();
        assert!(metric.merge(&other).is_err());
        let bad = plain("int8", &[1, 4], &[0.0; 4]);
        assert!(
            metric
                .update(&bad.view(), &plain("int8", &[1], &[4.0]).view())
                .is_err()
        );
        assert_eq!(metric, before);
        metric.retract();
        assert_eq!(
            metric, before,
            "a batch that failed is not there to be taken back"
        );
    }

    #[test]
    fn a_state_that_is_no_counts_is_refused() {
        let mut metric = PerClass::new(Share::Recall, Average::Macro);
        let error = metric.load(&[1.0; 4]).unwrap_err().to_string();
        assert!(
            error.contains("Recall is 3 counts a class, got 4"),
            "{error}"
        );
        let error = metric.load(&[1.0, -1.0, 2.0]).unwrap_err().to_string();
        assert!(
            error.contains("Recall holds -1 where a count is due"),
            "{error}"
        );
        let error = metric
            .merge(&PerClass::new(Share::Recall, Average::Micro))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("Recall Macro cannot take in the state of Recall Micro")
        );
    }
}
