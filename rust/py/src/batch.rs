//! Input and target of a batch: as `ctx.input` and `ctx.target` have them, without asking these for
//! the usual kinds of batches.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::lumbre::Context;
use crate::tensor;

/// Both; None where there is none.
pub fn input_and_target<'py>(
    ctx: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Some(Ok(target)) = second(batch) {
        return Ok((batch.get_item(0)?, target));
    }
    let input = ctx.getattr(Context::input(ctx.py()))?;
    Ok((input, ctx.getattr(Context::target(ctx.py()))?))
}

/// The target alone.
pub fn target<'py>(
    ctx: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let target = match second(batch) {
        Some(target) => target.ok(),
        None => Some(ctx.getattr(Context::target(ctx.py()))?),
    };
    Ok(target.filter(|target| !target.is_none()))
}

/// The second item of a tuple or list, or the error of one that has none; `None` of other batches.
fn second<'py>(batch: &Bound<'py, PyAny>) -> Option<PyResult<Bound<'py, PyAny>>> {
    if let Ok(items) = batch.cast_exact::<PyTuple>() {
        return Some(items.get_item(1));
    }
    Some(batch.cast_exact::<PyList>().ok()?.get_item(1))
}

/// How many samples a pair has, by a target that is a tensor; `None` where it takes a closer look.
pub fn size_of_pair(batch: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if !batch.is_exact_instance_of::<PyTuple>() && !batch.is_exact_instance_of::<PyList>() {
        return Ok(None);
    }
    match batch.get_item(1) {
        Ok(target) if tensor::is_tensor(&target)? => {
            let shape: Vec<usize> = target.getattr("shape")?.extract()?;
            Ok(shape.first().copied())
        }
        _ => Ok(None),
    }
}
