//! The Python side of a callback: its class, and the capsule that lumbre asks for.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyString};
use pyo3::{PyClass, ffi};

use crate::error::{Error, Result, with_causes};
use crate::export::{Callback, Exported, OwnedHandle, PANICKED, said_by};
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
/// An error of Python, in words.
pub fn add<T: HasClass>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<T::Class>()
}

/// The parts that the Python object of a callback is made of.
///
/// The object is in the garbage collector's sight before this is written into it, and a collection in
/// between finds zeros. So it is nothing but a box that may be missing: to Rust, zeros are `None`.
pub struct Held<T: Callback>(Option<Box<Made<T>>>);

struct Made<T> {
    exported: Exported<T>,
    /// The arguments, as `repr` shows them.
    shown: String,
}

impl<T: Callback> Held<T> {
    fn made(&self) -> PyResult<&Made<T>> {
        self.0.as_deref().ok_or_else(|| {
            let name = T::ABOUT.name;
            PyRuntimeError::new_err(format!("this {name} is still being made"))
        })
    }

    /// As [`Exported::alone`], for the garbage collector.
    pub fn alone<R>(&self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.as_ref().and_then(|made| made.exported.alone(with))
    }
}

impl<T: Callback> Drop for Held<T> {
    /// The callback may run Python when it ends, and an exception may be under way: that one is put
    /// aside for as long.
    fn drop(&mut self) {
        aside(|| drop(self.0.take()));
    }
}

/// Do something while the exception under way, if there is one, waits.
fn aside(act: impl FnOnce()) {
    let mut act = Some(|| {
        // A panic would leave a destructor of Python's.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
            drop(said_by(panic));
        }
    });
    let attached = Python::try_attach(|py| {
        let under_way = PyErr::take(py);
        if let Some(act) = act.take() {
            act();
        }
        if let Some(raised) = PyErr::take(py) {
            raised.write_unraisable(py, None);
        }
        if let Some(error) = under_way {
            error.restore(py);
        }
    });
    if let (None, Some(act)) = (attached, act) {
        // The interpreter is ending: nothing of it may be touched any more.
        act();
    }
}

/// The capsule that `__lumbre_callback__` gives: it keeps the callback alive.
///
/// # Errors
/// The callback has panicked, or Python has no memory for a capsule.
pub fn capsule<'py, T: Callback>(
    py: Python<'py>,
    held: &Held<T>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let exported = &held.made()?.exported;
    if exported.has_panicked() {
        return Err(PyRuntimeError::new_err(format!(
            "{} {PANICKED}",
            T::ABOUT.name
        )));
    }
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
    aside(|| {
        // SAFETY: Python calls this once, on a capsule that `capsule` has made, with its pointer.
        unsafe {
            let handle = ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast::<Handle>();
            drop(OwnedHandle::from_raw(handle));
        }
    });
}

/// The results that a constructor may give: the callback, or a `Result` of it.
pub trait Maker<T> {
    /// The callback.
    ///
    /// # Errors
    /// The callback, or why there is none.
    fn made(self) -> Result<T>;
}

impl<T> Maker<T> for T {
    fn made(self) -> Result<T> {
        Ok(self)
    }
}

impl<T, E: Into<Error>> Maker<T> for Result<T, E> {
    fn made(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

/// Run a constructor: an error of its own becomes a `ValueError`, a panic a `RuntimeError`.
///
/// # Errors
/// As it says.
pub fn make<T: Callback, M: Maker<T>>(
    py: Python<'_>,
    shown: String,
    constructor: impl FnOnce() -> M,
) -> PyResult<Held<T>> {
    let made = quiet::<T, _>(py, PyValueError::new_err, || constructor().made())?;
    let exported = Exported::new(made);
    Ok(Held(Some(Box::new(Made { exported, shown }))))
}

/// The state, as `state_dict` gives it: bytes, or what the JSON says.
///
/// # Errors
/// The answer of the callback's `save`, or that it gave no JSON.
pub fn state_dict<'py, T: Callback>(
    py: Python<'py>,
    held: &Held<T>,
) -> PyResult<Bound<'py, PyAny>> {
    let exported = &held.made()?.exported;
    match quiet::<T, _>(py, PyRuntimeError::new_err, || exported.save())? {
        Saved::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
        Saved::Json(text) => {
            let read = py.import("json")?.call_method1("loads", (&text,));
            read.map_err(|error| {
                let name = T::ABOUT.name;
                PyValueError::new_err(format!(
                    "{name}: its `save` gave no JSON: {error}; got {text:?}"
                ))
            })
        }
    }
}

/// Take up what [`state_dict`] gave.
///
/// # Errors
/// The answer of the callback's `load`, or the state is neither bytes nor JSON.
pub fn load_state_dict<T: Callback>(held: &Held<T>, state: &Bound<'_, PyAny>) -> PyResult<()> {
    let exported = &held.made()?.exported;
    let saved = if let Ok(bytes) = state.cast::<PyBytes>() {
        Saved::Bytes(bytes.as_bytes().to_vec())
    } else {
        let json = state.py().import("json")?;
        let text = json.call_method1("dumps", (state,))?;
        Saved::Json(text.cast::<PyString>()?.to_str()?.to_owned())
    };
    quiet::<T, _>(state.py(), PyValueError::new_err, || exported.load(&saved))
}

/// `factor=3.0, window=50`, from the arguments as they were given.
#[must_use]
pub fn shown(arguments: &[(&str, &dyn Debug)]) -> String {
    let argument = |(name, value): &(&str, &dyn Debug)| format!("{name}={}", as_python(value));
    let arguments: Vec<String> = arguments.iter().map(argument).collect();
    arguments.join(", ")
}

/// `LossSpike(factor=3.0, window=50)`, by the name of the object's own class.
///
/// # Errors
/// The class has no name.
pub fn repr<T: Callback>(object: &Bound<'_, PyAny>, held: &Held<T>) -> PyResult<String> {
    let (name, shown) = (object.get_type().name()?, &held.made()?.shown);
    Ok(format!("{name}({shown})"))
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

/// Call the callback's own code: what it says becomes an exception, and so does a panic, which in
/// Python's own machinery would be one that nobody catches.
fn quiet<T: Callback, R>(
    py: Python<'_>,
    class: fn(String) -> PyErr,
    act: impl FnOnce() -> Result<R>,
) -> PyResult<R> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        act().map_err(|error| raise(error, class))
    }));
    if let Some(left) = PyErr::take(py) {
        // It has set an exception by itself, and not said so.
        return Err(left);
    }
    outcome.unwrap_or_else(|panic| {
        let message = format!("{} panicked: {}", T::ABOUT.name, said_by(panic));
        Err(PyRuntimeError::new_err(message))
    })
}

fn raise(error: Error, class: fn(String) -> PyErr) -> PyErr {
    let Ok(inner) = error.into_inner() else {
        return PyTypeError::new_err("this is an error of a run, and there is no run here");
    };
    match inner.downcast::<PyErr>() {
        Ok(error) => *error,
        Err(error) => class(with_causes(&*error)),
    }
}
