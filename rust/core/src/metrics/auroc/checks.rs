//! The checks of preds and targets, and the words for those that fail.

use super::super::view::{Reader, tuple};
use super::super::{BLOCK, Batch, Form, View, classes, room};
use crate::error::{Error, Result};

const ONE_SCORE: &str = "use BinaryAUROC where there is one score for each target";

/// Checks that preds score classes, 2 or more and as many as in the batches before.
pub(super) fn shapes(name: &str, known: usize, preds: &Form, target: &Form) -> Result<Batch> {
    let batch = classes::check_alike(name, preds, target, known, ONE_SCORE)?;
    if batch.width == 1 {
        return Err(Error::Shape(format!(
            "{name} needs scores of 2 classes or more, got preds of shape {}; use BinaryAUROC with \
             preds.squeeze(1) where there is one score for each target",
            tuple(preds.shape)
        )));
    }
    Ok(batch)
}

/// The class of each position.
pub(super) fn read(name: &str, count: usize, preds: &View, target: &View) -> Result<Vec<u32>> {
    let mut wanted = Vec::new();
    room(name, &mut wanted, target.numel(), 0)?;
    let mut targets = Reader::new(target);
    let mut buffer = [0; BLOCK];
    for from in (0..target.numel()).step_by(BLOCK) {
        let buffer = &mut buffer[..BLOCK.min(target.numel() - from)];
        targets.classes(buffer);
        for (k, (wanted, &mut class)) in wanted[from..].iter_mut().zip(buffer).enumerate() {
            match u32::try_from(class) {
                Ok(class) if (class as usize) < count => *wanted = class,
                _ => return Err(classes::out_of_range(name, from + k, preds, target)),
            }
        }
    }
    Ok(wanted)
}
