//! Scores of classes against class numbers: which shapes fit, and how they are read.

use super::view::{Element, Reader, Run, Walk, tuple};
use super::{BLOCK, Batch, Data, Fit, Form, View};
use crate::error::{Error, Result};

/// The hits of a run, or the place in it where the class does not exist.
pub(super) type Counted = std::result::Result<u64, usize>;

/// The mend for one score for each target, where no metric of two classes is at hand.
pub(super) const TWO_SCORES: &str =
    "make one score p for each target two: torch.stack([1 - p, p], 1), or [-p, p] if p is a logit";
/// The same where one is.
pub(super) const ONE_SCORE: &str = "use BinaryAccuracy where there is one score for each target";

/// Checks that the predictions are scores of classes, and that the target fits them.
#[inline]
pub(super) fn check(name: &str, preds: &Form, target: &Form, one_score: &str) -> Result<()> {
    check_shapes(name, preds, target, one_score)?;
    if target.is_float {
        return Err(Error::DType(format!(
            "{name} needs class numbers as target, got {}; pass target.long()",
            target.dtype
        )));
    }
    Ok(())
}

fn check_shapes(name: &str, preds: &Form, target: &Form, one_score: &str) -> Result<()> {
    let (scores, classes) = (preds.shape, target.shape);
    let [n, _, rest @ ..] = scores else {
        return Err(Error::Shape(format!(
            "{name} needs scores of shape (n, classes, ...), got preds of shape {}; {one_score}",
            tuple(scores)
        )));
    };
    if classes.split_first() == Some((n, rest)) {
        return Ok(());
    }
    let due = [&[*n], rest].concat();
    let mend = match classes {
        _ if classes == scores => "pass target.argmax(1) if the target is one-hot",
        [m, 1, others @ ..] if (m, others) == (n, rest) => "pass target.squeeze(1)",
        _ => "pass one class number for each prediction",
    };
    Err(Error::Shape(format!(
        "{name} needs a target of shape {} for preds of shape {}, got {}; {mend}",
        tuple(&due),
        tuple(scores),
        tuple(classes)
    )))
}

/// The same where all batches have to score as many classes.
pub(super) fn check_alike(
    name: &str,
    preds: &Form,
    target: &Form,
    known: usize,
    one_score: &str,
) -> Result<Batch> {
    check(name, preds, target, one_score)?;
    let mut batch = Batch::of_any_width(Fit::Exact);
    if !target.is_empty() {
        batch.width = usize::try_from(preds.shape[1]).unwrap_or_default();
        check_classes(name, known, batch.width)?;
    }
    Ok(batch)
}

/// Checks that predictions score as many classes as those before them; `known` is 0 before the first.
pub(super) fn check_classes(name: &str, known: usize, got: usize) -> Result<()> {
    if known == 0 || known == got {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "{name} has counted batches of {known} classes, and this one has {got}; call reset() before \
         predictions of another model"
    )))
}

/// The class number as an index, the largest one where it is none.
#[inline]
pub(super) fn index(class: i64) -> usize {
    usize::try_from(class).unwrap_or(usize::MAX)
}

/// Class numbers in logical order, read where they lie if they are plain int64.
enum Classes<'a> {
    Plain(&'a [i64]),
    Converted(Reader<'a>, Vec<i64>),
}

impl<'a> Classes<'a> {
    fn new(target: &View<'a>) -> Self {
        match target.flat() {
            Some(Data::I64(classes)) => Self::Plain(classes),
            _ => Self::Converted(Reader::new(target), vec![0; BLOCK]),
        }
    }

    fn next(&mut self, len: usize) -> &[i64] {
        match self {
            Self::Plain(classes) => {
                let (now, later) = classes.split_at(len);
                *classes = later;
                now
            }
            Self::Converted(reader, buffer) => {
                reader.classes(&mut buffer[..len]);
                &buffer[..len]
            }
        }
    }
}

/// The scores of one position: how many, and how far apart in memory.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    pub classes: usize,
    pub stride: usize,
}

/// Shows `visit` the positions in logical order, at most [`BLOCK`] at a time: the memory from the
/// first score on, where the positions lie in it, where their scores lie, and the classes wanted.
///
/// `visit` fails with the place in the run where a class does not exist.
#[inline]
pub(super) fn each_run<T: Element>(
    name: &str,
    data: &[T],
    preds: &View,
    target: &View,
    mut visit: impl FnMut(&[T], Run, Scores, &[i64]) -> std::result::Result<(), usize>,
) -> Result<()> {
    let mut dims = preds.dims();
    let (first, class) = (dims.next(), dims.next());
    let Some(class) = class else { return Ok(()) }; // never: `check` has seen two dimensions
    let scores = Scores {
        classes: class.size,
        stride: class.stride,
    };
    let mut positions = Walk::new(first.into_iter().chain(dims));
    let mut classes = Classes::new(target);
    let mut done = 0;
    while let Some(run) = positions.next_run(BLOCK) {
        let wanted = classes.next(run.len);
        visit(&data[run.offset..], run, scores, wanted)
            .map_err(|at| out_of_range(name, done + at, preds, target))?;
        done += run.len;
    }
    Ok(())
}

#[cold]
pub(super) fn out_of_range(name: &str, index: usize, preds: &View, target: &View) -> Error {
    let classes = preds.shape()[1];
    let value = target.text(index);
    let mend = if value.starts_with('-') {
        "leave out positions to be ignored: keep = target >= 0"
    } else {
        "give the model more outputs, or pass target - 1 if its classes count from 1"
    };
    Error::Target(format!(
        "{name} got class {value} at index {index} of the flattened target, but preds of shape {} \
         score the classes 0 to {}; {mend}",
        tuple(preds.shape()),
        classes - 1,
    ))
}
