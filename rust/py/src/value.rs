//! Recorded values between Python and the core.

use lumbre_core::records::Value;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyString};

use crate::error::exception;
use crate::lumbre::Class;

/// A number, or anything numpy can make an array of (tensors come in through `detach().cpu()`).
pub fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        return Ok(Value::Number(number.value()));
    }
    // numpy would make NaN of the one, and a number of some of the others.
    if value.is_none() || value.is_instance_of::<PyString>() {
        return Err(not_recordable(value));
    }
    let py = value.py();
    let mut plain = value.clone();
    if plain.hasattr("detach")? {
        plain = plain.call_method0("detach")?.call_method0("cpu")?;
        if plain.call_method0("is_floating_point")?.is_truthy()? {
            plain = plain.call_method0("double")?;
        }
    }
    let array = py
        .import("numpy")?
        .call_method1("asarray", (plain, py.get_type::<PyFloat>()))
        .map_err(|_| not_recordable(value))?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    let data: Vec<f64> = array
        .call_method0("ravel")?
        .call_method0("tolist")?
        .extract()?;
    Ok(match data.as_slice() {
        [number] => Value::Number(*number),
        _ => Value::Array { shape, data },
    })
}

/// A float, or a numpy array of float64.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Number(number) => Ok(PyFloat::new(py, *number).into_any()),
        Value::Array { shape, data } => py
            .import("numpy")?
            .call_method1("array", (data.clone(),))?
            .call_method1("reshape", (shape.clone(),)),
    }
}

fn not_recordable(value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value
        .get_type()
        .name()
        .map_or_else(|_| "?".into(), |name| name.to_string());
    let message = format!(
        "A recorded value is a number, or a tensor or array of numbers; got {kind}. \
         Log what else there is with ctx.log(what, set, value)."
    );
    exception(value.py(), Class::ArgumentTypeError, message)
}
