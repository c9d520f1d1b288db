//! Recorded values between Python and the core.

use std::sync::Arc;

use lumbre_core::Error;
use lumbre_core::records::Value;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyMapping, PyString};

use crate::error::{exception, raise};
use crate::lumbre::{self, Class};

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

/// The records that a metric has computed: one under its name, or one for each entry of a dict, under
/// its key, behind the metric's name where it was given one. A dict in a dict is taken apart as well.
pub fn records(
    metric: &Bound<'_, PyAny>,
    name: &Arc<str>,
    computed: &Bound<'_, PyAny>,
) -> PyResult<Vec<(Arc<str>, Value)>> {
    if computed.cast_exact::<PyFloat>().is_ok() || !is_mapping(computed) {
        return Ok(vec![(Arc::clone(name), from_python(computed)?)]);
    }
    let given = metric.getattr_opt(lumbre::Metric::name(metric.py()))?;
    let prefix = match given.filter(|given| !given.is_none()) {
        Some(given) => format!("{given}_"),
        None => String::new(),
    };
    let mut found = Vec::new();
    take_apart(&prefix, computed, &mut found)?;
    Ok(found)
}

fn is_mapping(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyDict>() || value.cast::<PyMapping>().is_ok()
}

fn take_apart(
    prefix: &str,
    mapping: &Bound<'_, PyAny>,
    found: &mut Vec<(Arc<str>, Value)>,
) -> PyResult<()> {
    for pair in mapping.call_method0("items")?.try_iter()? {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
        let name = format!("{prefix}{key}");
        if is_mapping(&value) {
            take_apart(&format!("{name}_"), &value, found)?;
        } else {
            found.push((name.into(), from_python(&value)?));
        }
    }
    Ok(())
}

/// Refuses two records of one name: what a dict holds is not known before it is computed.
pub fn check_names(values: &[(Arc<str>, Value)]) -> PyResult<()> {
    for (index, (name, _)) in values.iter().enumerate() {
        if values[..index].iter().any(|(known, _)| known == name) {
            return Err(raise(Error::Metric(format!(
                "Two values would be recorded as \"{name}\", of which a metric has computed at least \
                 one in a dict. Give that metric a name, which its entries are then recorded behind: \
                 metric.name = \"first\" makes \"first_{name}\"."
            ))));
        }
    }
    Ok(())
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

/// The name of an object's class, for messages.
pub fn class_name(value: &Bound<'_, PyAny>) -> String {
    let name = value.get_type().name();
    name.map_or_else(|_| "?".into(), |name| name.to_string())
}

fn not_recordable(value: &Bound<'_, PyAny>) -> PyErr {
    let message = format!(
        "A recorded value is a number, or a tensor or array of numbers; got {}. \
         Log what else there is with ctx.log(what, set, value).",
        class_name(value)
    );
    exception(value.py(), Class::ArgumentTypeError, message)
}
