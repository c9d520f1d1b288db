//! The Python side of a callback: its class, and the capsule that lumbre asks for.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyString};
use pyo3::{PyClass, ffi};

use crate::error::{Error, Result, with_causes};
use crate::export::{Callback, Exported, OwnedHandle, said_by};
use crate::layout::{CAPSULE, Handle};
use crate::saved::Saved;

/// A callback that has a Python class; [`macro@crate::callback`] makes it.
pub trait HasClass: Callback {
    /// The class.
    type Class: PyClass;
}

/// Put the class of a callback into a Python module.
///
/// # Errors
/// What Python says.
pub fn add<T: HasClass>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<T::Class>()
}

/// The capsule that `__lumbre_callback__` gives: it keeps the callback alive.
///
/// # Errors
/// Python has no memory for it.
pub fn capsule<'py, T: Callback>(
    py: Python<'py>,
    exported: &Exported<T>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let handle = exported.handle().into_raw();
    // A handle is in a box: its address is none but NULL's opposite.
    let pointer =
        NonNull::new(handle.cast()).ok_or_else(|| PyRuntimeError::new_err("there is no handle"))?;
    // SAFETY: the pointer is of a handle that belongs to the capsule from here on, as the name says;
    // the destructor gives it back, from whichever thread.
    let capsule = unsafe {
        PyCapsule::new_with_pointer_and_destructor(py, pointer, CAPSULE, Some(end_of_capsule))
    };
    if capsule.is_err() {
        // SAFETY: made above, and no capsule has it.
        drop(unsafe { OwnedHandle::from_raw(handle) });
    }
    capsule
}

unsafe extern "C" fn end_of_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this once, on a capsule that `capsule` has made, with its pointer.
    unsafe {
        let handle = ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast::<Handle>();
        drop(OwnedHandle::from_raw(handle));
    }
}

/// What a constructor may give: the callback, or a `Result` of it.
pub trait Made<T> {
    /// The callback.
    ///
    /// # Errors
    /// What the constructor says.
    fn made(self) -> Result<T>;
}

impl<T> Made<T> for T {
    fn made(self) -> Result<T> {
        Ok(self)
    }
}

impl<T, E: Into<Error>> Made<T> for Result<T, E> {
    fn made(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

/// Run a constructor: an error of its own becomes a `ValueError`, a panic a `RuntimeError`.
///
/// # Errors
/// As it says.
pub fn make<T: Callback, M: Made<T>>(constructor: impl FnOnce() -> M) -> PyResult<Exported<T>> {
    match quiet(T::ABOUT.name, || constructor().made())? {
        Ok(callback) => Ok(Exported::new(callback)),
        Err(error) => Err(raise(error, PyValueError::new_err)),
    }
}

/// The state, as `state_dict` gives it: bytes, or what the JSON says.
///
/// # Errors
/// What the callback's `save` says.
pub fn state_dict<'py, T: Callback>(
    py: Python<'py>,
    exported: &Exported<T>,
) -> PyResult<Bound<'py, PyAny>> {
    match quiet(T::ABOUT.name, || exported.save())? {
        Ok(Saved::Bytes(bytes)) => Ok(PyBytes::new(py, &bytes).into_any()),
        Ok(Saved::Json(text)) => py.import("json")?.call_method1("loads", (text,)),
        Err(error) => Err(raise(error, PyRuntimeError::new_err)),
    }
}

/// Take up what [`state_dict`] gave.
///
/// # Errors
/// What the callback's `load` says, or the state is neither bytes nor JSON.
pub fn load_state_dict<T: Callback>(
    exported: &Exported<T>,
    state: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let saved = if let Ok(bytes) = state.cast::<PyBytes>() {
        Saved::Bytes(bytes.as_bytes().to_vec())
    } else {
        let json = state.py().import("json")?;
        let text = json.call_method1("dumps", (state,))?;
        Saved::Json(text.cast::<PyString>()?.to_str()?.to_owned())
    };
    quiet(T::ABOUT.name, || exported.load(&saved))?
        .map_err(|error| raise(error, PyValueError::new_err))
}

/// `LossSpike(factor=3.0, window=50)`, from the arguments as they were given.
#[must_use]
pub fn shown(name: &str, arguments: &[(&str, &dyn Debug)]) -> String {
    let argument = |(name, value): &(&str, &dyn Debug)| format!("{name}={}", as_python(value));
    let arguments: Vec<String> = arguments.iter().map(argument).collect();
    format!("{name}({})", arguments.join(", "))
}

/// The text of a value, as Python would write it where that is easy.
fn as_python(value: &dyn Debug) -> String {
    let text = format!("{value:?}");
    match text.as_str() {
        "true" => "True".into(),
        "false" => "False".into(),
        _ => match text
            .strip_prefix("Some(")
            .and_then(|text| text.strip_suffix(')'))
        {
            Some(inner) => inner.to_owned(),
            None => text,
        },
    }
}

/// No panic reaches Python's own machinery, where it would be an exception that nobody catches.
fn quiet<T>(name: &str, act: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(act))
        .map_err(|panic| PyRuntimeError::new_err(format!("{name} panicked: {}", said_by(panic))))
}

fn raise(error: Error, class: fn(String) -> PyErr) -> PyErr {
    let Some(inner) = error.into_inner() else {
        return PyTypeError::new_err("there is no run here");
    };
    match inner.downcast::<PyErr>() {
        Ok(error) => *error,
        Err(error) => class(with_causes(&*error)),
    }
}
