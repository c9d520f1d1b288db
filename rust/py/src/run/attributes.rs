//! The attributes of `ctx`: the names there are, and what is said of others.

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::Run;
use crate::lumbre;

#[pymethods]
impl Run {
    #[allow(clippy::unused_self)]
    fn __getattr__(&self, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        Err(in_words(name, lumbre::unknown))
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        // SAFETY: three live objects. The generic setter is what the class would use without us;
        // Python refuses to call it by hand for a class that has a setter of its own.
        let status =
            unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value.as_ptr()) };
        if status == 0 {
            return Ok(());
        }
        let error = PyErr::fetch(slf.py());
        // Of a subclass it is what a setter of ours has said.
        if !error
            .get_type(slf.py())
            .is(slf.py().get_type::<PyAttributeError>())
        {
            return Err(error);
        }
        Err(in_words(name, lumbre::unsettable))
    }
}

/// The error that Python words, which knows the names there are.
fn in_words(
    name: &Bound<'_, PyString>,
    words: fn(Python<'_>) -> PyResult<Bound<'_, PyAny>>,
) -> PyErr {
    words(name.py())
        .and_then(|words| words.call1((name,)))
        .map_or_else(|error| error, PyErr::from_value)
}
