//! The checks of a batch, told by its shapes and dtypes alone: on a device as in memory.

use super::view::tuple;
use super::{Fit, View};
use crate::error::{Error, Result};

/// A tensor as the checks see it, wherever it lies.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// The size of each dimension.
    pub shape: &'a [i64],
    /// Its name as torch spells it, without `torch.`.
    pub dtype: &'a str,
    /// True if the dtype is a floating-point one, or stands for one, as quantized ones do.
    pub is_float: bool,
}

impl<'a> Form<'a> {
    /// The form of a tensor that is no [`View`]. Fails with [`Error::DType`] where it is complex;
    /// `metric` and `part` are what the message calls it.
    pub fn new(metric: &str, part: &str, shape: &'a [i64], dtype: &'a str) -> Result<Self> {
        if dtype.starts_with("complex") {
            return Err(Error::DType(format!(
                "{metric} cannot measure {part} of dtype {dtype}; take a real part of it: \
                 tensor.abs(), tensor.real"
            )));
        }
        let is_float = ["float", "bfloat", "q"]
            .iter()
            .any(|kind| dtype.starts_with(kind));
        Ok(Self {
            shape,
            dtype,
            is_float,
        })
    }

    /// True if it holds no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}

impl<'a> View<'a> {
    /// The form in which the checks see it.
    #[must_use]
    #[inline]
    pub fn form(&self) -> Form<'a> {
        Form {
            shape: self.shape(),
            dtype: self.data().dtype(),
            is_float: self.data().is_float(),
        }
    }
}

/// The findings of a check about a batch that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How the shapes came together.
    pub fit: Fit,
    /// The number of classes, or of outputs, where all batches have to have as many; else 0, and of
    /// a batch of nothing.
    pub width: usize,
}

impl Batch {
    /// A batch next to which others may be of any width.
    pub(super) fn of_any_width(fit: Fit) -> Self {
        Self { fit, width: 0 }
    }
}

/// Checks that two shapes hold the same elements in the same order, size 1 left aside.
#[inline]
pub(super) fn pair(name: &str, preds: &Form, target: &Form) -> Result<Fit> {
    if preds.shape == target.shape {
        return Ok(Fit::Exact);
    }
    let wide = |shape: &[i64]| {
        shape
            .iter()
            .copied()
            .filter(|&size| size != 1)
            .collect::<Vec<_>>()
    };
    if wide(preds.shape) == wide(target.shape) {
        return Ok(Fit::Squeezed);
    }
    let numel = |shape: &[i64]| shape.iter().product::<i64>();
    let mend = if numel(preds.shape) == numel(target.shape) {
        "target.reshape(preds.shape) if their elements are in the same order"
    } else {
        "one target for each prediction"
    };
    Err(Error::Shape(format!(
        "{name} needs preds and target of one shape, got {} and {}; pass {mend}",
        tuple(preds.shape),
        tuple(target.shape),
    )))
}
