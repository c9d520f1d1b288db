//! What preds and targets have to be, and what to say where they are not.

use super::super::view::{Reader, tuple};
use super::super::{BLOCK, View};
use crate::error::{Error, Result};

/// The number of classes that preds score; all batches have as many as those `before`, if there
/// were any.
pub(super) fn shapes(before: usize, preds: &View, target: &View) -> Result<usize> {
    let (scores, got) = (preds.shape(), target.shape());
    let [n, classes, rest @ ..] = scores else {
        return Err(Error::Shape(format!(
            "MulticlassAUROC needs scores of shape (n, classes, ...), got preds of shape {}; \
             use BinaryAUROC where there is one score for each target",
            tuple(scores)
        )));
    };
    if got.split_first() != Some((n, rest)) {
        let due = [&[*n], rest].concat();
        let mend = match got {
            _ if got == scores => "pass target.argmax(1) if the target is one-hot",
            [m, 1, others @ ..] if (m, others) == (n, rest) => "pass target.squeeze(1)",
            _ => "pass one class number for each prediction",
        };
        return Err(Error::Shape(format!(
            "MulticlassAUROC needs a target of shape {} for preds of shape {}, got {}; {mend}",
            tuple(&due),
            tuple(scores),
            tuple(got)
        )));
    }
    if target.data().is_float() {
        return Err(Error::DType(format!(
            "MulticlassAUROC needs class numbers as target, got {}; pass target.long()",
            target.data().dtype()
        )));
    }
    match usize::try_from(*classes) {
        Ok(count) if count >= 2 && (before == 0 || before == count) => Ok(count),
        Ok(count) if count >= 2 => Err(Error::Shape(format!(
            "MulticlassAUROC has counted scores of {} classes, got preds of shape {}; give each \
             number of classes a metric of its own, or reset() it between them",
            before,
            tuple(scores)
        ))),
        _ => Err(Error::Shape(format!(
            "MulticlassAUROC needs scores of 2 classes or more, got preds of shape {}; use \
             BinaryAUROC with preds.squeeze(1) where there is one score for each target",
            tuple(scores)
        ))),
    }
}

/// The class of each position.
pub(super) fn classes(classes: usize, preds: &View, target: &View) -> Result<Vec<u32>> {
    let mut wanted = Vec::with_capacity(target.numel());
    let mut targets = Reader::new(target);
    let mut buffer = [0; BLOCK];
    for from in (0..target.numel()).step_by(BLOCK) {
        let buffer = &mut buffer[..BLOCK.min(target.numel() - from)];
        targets.classes(buffer);
        for &class in &*buffer {
            match u32::try_from(class) {
                Ok(class) if (class as usize) < classes => wanted.push(class),
                _ => return Err(no_class(wanted.len(), preds, target)),
            }
        }
    }
    Ok(wanted)
}

#[cold]
pub(super) fn no_label(index: usize, target: &View) -> Error {
    Error::Target(format!(
        "BinaryAUROC needs targets that are 0 or 1, got {} at index {index} of the flattened target \
         of dtype {}; pass (target > 0.5).long(), or use MulticlassAUROC where there are more classes",
        target.text(index),
        target.data().dtype()
    ))
}

#[cold]
fn no_class(index: usize, preds: &View, target: &View) -> Error {
    let value = target.text(index);
    let mend = if value.starts_with('-') {
        "leave out positions to be ignored: keep = target >= 0"
    } else {
        "give the model more outputs, or pass target - 1 if its classes count from 1"
    };
    Error::Target(format!(
        "MulticlassAUROC got class {value} at index {index} of the flattened target, but preds of \
         shape {} score the classes 0 to {}; {mend}",
        tuple(preds.shape()),
        preds.shape()[1] - 1,
    ))
}
