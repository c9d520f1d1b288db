//! Which class is taken for which.

use super::argmax::each_prediction;
use super::classes::{TWO_SCORES, check_alike, check_classes, index};
use super::{Batch, Form, Metric, Options, View, unmergeable, whole};
use crate::error::{Error, Result};
use crate::records::Value;

/// The divisor of the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing: they are counts.
    Nothing,
    /// The samples of the true class.
    True,
    /// The predictions of the class.
    Pred,
    /// All samples.
    All,
}

impl Normalize {
    /// Takes the option `normalize`, nothing unless given.
    pub fn take(options: &mut Options) -> Result<Self> {
        let choices = [
            ("true", Self::True),
            ("pred", Self::Pred),
            ("all", Self::All),
        ];
        Ok(options
            .choice("normalize", &choices)?
            .unwrap_or(Self::Nothing))
    }
}

/// The confusion matrix: rows are true classes, columns predicted ones.
///
/// Shapes, ties and NaN are those of `Accuracy`. A sample that predicts no class, as one of its scores
/// is NaN, is in no cell, but among the samples that cells are divided by.
///
/// Source: scikit-learn, `confusion_matrix`.
#[derive(Clone, Debug)]
pub struct ConfusionMatrix {
    normalize: Normalize,
    /// 0 before the first batch.
    classes: usize,
    /// Row by row, with a column more: for samples that predict no class.
    cells: Vec<u64>,
    /// The cells of the last batch's samples.
    last: Vec<u32>,
}

impl ConfusionMatrix {
    /// An empty metric.
    #[must_use]
    pub fn new(normalize: Normalize) -> Self {
        Self {
            normalize,
            classes: 0,
            cells: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Makes room for so many classes, if there was no batch before.
    fn grow(&mut self, classes: usize) -> Result<()> {
        check_classes("ConfusionMatrix", self.classes, classes)?;
        let cells = cells_of(classes)?;
        let room = cells.saturating_sub(self.cells.len());
        if self.cells.try_reserve(room).is_err() {
            return Err(no_room(classes));
        }
        self.cells.resize(cells, 0);
        self.classes = classes;
        Ok(())
    }

    fn normalized(&self) -> Vec<f64> {
        let rows = || self.cells.chunks_exact(self.classes + 1);
        let all: u64 = self.cells.iter().sum();
        let mut columns = vec![0; self.classes];
        for row in rows() {
            columns
                .iter_mut()
                .zip(row)
                .for_each(|(sum, cell)| *sum += cell);
        }
        let mut values = Vec::with_capacity(self.classes * self.classes);
        for row in rows() {
            let wanted: u64 = row.iter().sum();
            values.extend(row.iter().zip(&columns).map(|(&cell, &predicted)| {
                let parts = match self.normalize {
                    Normalize::Nothing => 1,
                    Normalize::True => wanted,
                    Normalize::Pred => predicted,
                    Normalize::All => all,
                };
                // A class that is not there has no share, and scikit-learn writes that as 0.
                if parts == 0 {
                    0.0
                } else {
                    cell as f64 / parts as f64
                }
            }));
        }
        values
    }
}

/// How many cells so many classes take, each with a number that fits in 32 bits.
fn cells_of(classes: usize) -> Result<usize> {
    classes
        .checked_mul(classes + 1)
        .filter(|&cells| u32::try_from(cells).is_ok())
        .ok_or_else(|| no_room(classes))
}

fn no_room(classes: usize) -> Error {
    Error::Metric(format!(
        "ConfusionMatrix has no room for {classes} times {classes} cells; of so many classes \
         F1(average=None) keeps what fits"
    ))
}

/// The cells that a batch could be taken back to are no part of the measurement.
impl PartialEq for ConfusionMatrix {
    fn eq(&self, other: &Self) -> bool {
        (self.normalize, self.classes, &self.cells)
            == (other.normalize, other.classes, &other.cells)
    }
}

impl Metric for ConfusionMatrix {
    fn name(&self) -> &'static str {
        "ConfusionMatrix"
    }

    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch> {
        let batch = check_alike(self.name(), preds, target, known, TWO_SCORES)?;
        cells_of(batch.width)?;
        Ok(batch)
    }

    fn width(&self) -> usize {
        self.classes
    }

    fn feed(&mut self, classes: usize, preds: &View, target: &View) -> Result<()> {
        self.last.clear();
        if target.numel() == 0 {
            return Ok(());
        }
        let fresh = self.classes == 0;
        self.grow(classes)?;
        let read = each_prediction("ConfusionMatrix", preds, target, |wanted, predicted| {
            let pairs = wanted.iter().zip(predicted);
            // Below 2^32, as `grow` has seen to.
            let row = |class| u32::try_from(index(class) * (classes + 1)).unwrap_or_default();
            self.last
                .extend(pairs.map(|(&wanted, &predicted)| row(wanted) + predicted));
        });
        // Nothing is counted yet, so that an error leaves no batch half counted.
        if let Err(error) = read {
            self.last.clear();
            if fresh {
                self.reset();
            }
            return Err(error);
        }
        for &cell in &self.last {
            self.cells[cell as usize] += 1;
        }
        Ok(())
    }

    fn retract(&mut self) {
        for cell in self.last.drain(..) {
            self.cells[cell as usize] -= 1;
        }
        // A first batch tells the number of classes, and takes it with it.
        if self.cells.iter().all(|&count| count == 0) {
            self.reset();
        }
    }

    fn compute(&mut self) -> Value {
        if self.cells.iter().all(|&count| count == 0) {
            return Value::Number(f64::NAN);
        }
        Value::Array {
            shape: vec![self.classes; 2],
            data: self.normalized(),
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.normalize);
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.normalize != other.normalize {
            let describe = |metric: &Self| format!("ConfusionMatrix of {:?}", metric.normalize);
            return Err(unmergeable(&describe(self), &describe(other)));
        }
        if other.classes > 0 {
            self.grow(other.classes)?;
            let pairs = self.cells.iter_mut().zip(&other.cells);
            pairs.for_each(|(cell, count)| *cell += count);
        }
        Ok(())
    }

    /// The cells, row by row, each row with the samples that predict no class at its end. They add
    /// up over devices and processes.
    fn state(&self) -> Vec<f64> {
        self.cells.iter().map(|&count| count as f64).collect()
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let classes = state.len().isqrt();
        if classes * (classes + 1) != state.len() {
            return Err(Error::Metric(format!(
                "the state of ConfusionMatrix is n rows of n + 1 counts, got {} numbers; pass what \
                 `state` returned",
                state.len()
            )));
        }
        let cells = state.iter().map(|&count| whole(self.name(), count));
        self.cells = cells.collect::<Result<_>>()?;
        self.classes = classes;
        self.last.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fit;
    use super::super::testing::plain;
    use super::*;

    const NAN: f64 = f64::NAN;

    fn count(
        metric: &mut ConfusionMatrix,
        classes: i64,
        scores: &[f64],
        target: &[f64],
    ) -> Result<Fit> {
        let n = i64::try_from(target.len()).unwrap();
        let preds = plain("float32", &[n, classes], scores);
        metric.update(&preds.view(), &plain("int64", &[n], target).view())
    }

    fn matrix(normalize: Normalize) -> Vec<f64> {
        let mut metric = ConfusionMatrix::new(normalize);
        // Class 0 is predicted as 0, as 1 and as nothing; class 1 as 0; class 2 is not there.
        let scores = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, NAN, 1.0, 0.0, 1.0, 1.0, 0.0];
        count(&mut metric, 3, &scores, &[0.0, 0.0, 0.0, 1.0]).unwrap();
        match metric.compute() {
            Value::Array { shape, data } if shape == [3, 3] => data,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_are_true_classes_and_columns_predicted_ones() {
        assert_eq!(
            matrix(Normalize::Nothing),
            [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn what_predicts_no_class_counts_where_shares_are_taken() {
        let third = 1.0 / 3.0;
        assert_eq!(
            matrix(Normalize::True),
            [third, third, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(
            matrix(Normalize::All),
            [0.25, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(
            matrix(Normalize::Pred),
            [0.5, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn a_failed_first_batch_does_not_settle_the_number_of_classes() {
        let mut metric = ConfusionMatrix::new(Normalize::Nothing);
        assert!(count(&mut metric, 2, &[0.0; 4], &[0.0, 2.0]).is_err());
        assert_eq!(metric, ConfusionMatrix::new(Normalize::Nothing));
        count(&mut metric, 3, &[0.0; 6], &[0.0, 2.0]).unwrap();
        let error = count(&mut metric, 2, &[0.0; 4], &[0.0, 1.0]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("counted batches of 3 classes, and this one has 2")
        );
    }

    #[test]
    fn a_failed_batch_is_not_taken_back() {
        let mut metric = ConfusionMatrix::new(Normalize::Nothing);
        count(&mut metric, 2, &[0.0; 4], &[0.0, 1.0]).unwrap();
        let before = metric.clone();
        assert!(count(&mut metric, 2, &[0.0; 4], &[0.0, 2.0]).is_err());
        metric.retract();
        assert_eq!(metric, before);
    }

    #[test]
    fn more_classes_than_there_is_room_for_are_an_error() {
        let error = ConfusionMatrix::new(Normalize::Nothing)
            .grow(70_000)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("70000 times 70000 cells; of so many"),
            "{error}"
        );
    }

    #[test]
    fn a_state_that_is_no_matrix_is_refused() {
        let mut metric = ConfusionMatrix::new(Normalize::Nothing);
        let error = metric.load(&[1.0; 5]).unwrap_err().to_string();
        assert!(error.contains("n rows of n + 1 counts, got 5"), "{error}");
        let error = metric.load(&[1.0, 0.5]).unwrap_err().to_string();
        assert!(error.contains("holds 0.5 where a count is due"), "{error}");
        assert_eq!(metric, ConfusionMatrix::new(Normalize::Nothing));
    }
}
