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
    if let Ok(items) = batch.cast_exact::<PyTuple>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, items.get_item(1)?));
    }
    if let Ok(items) = batch.cast_exact::<PyList>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, items.get_item(1)?));
    }
    let input = ctx.getattr(Context::input(ctx.py()))?;
    Ok((input, ctx.getattr(Context::target(ctx.py()))?))
}

/// The target alone.
pub fn target<'py>(
    ctx: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let target = if let Ok(items) = batch.cast_exact::<PyList>() {
        if items.len() < 2 {
            return Ok(None);
        }
        items.get_item(1)?
    } else if let Ok(items) = batch.cast_exact::<PyTuple>() {
        if items.len() < 2 {
            return Ok(None);
        }
        items.get_item(1)?
    } else {
        ctx.getattr(Context::target(ctx.py()))?
    };
    Ok((!target.is_none()).then_some(target))
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
