//! The one map from the core's errors to the classes of `lumbre.errors`.

use lumbre_core::Error;
use lumbre_core::callback::Warning;
use pyo3::prelude::*;

/// The Python exception for an error of the core; one that came from Python is itself again.
pub fn raise(error: Error) -> PyErr {
    let (class, message) = match error {
        Error::Hook(message) => ("HookError", message),
        Error::Schedule(message) => ("ScheduleError", message),
        Error::Shape(message) => ("ShapeError", message),
        Error::DType(message) => ("DTypeError", message),
        Error::Target(message) => ("TargetError", message),
        Error::Metric(message) => ("MetricError", message),
        Error::Monitor(message) => ("MonitorError", message),
        Error::Argument(message) => ("ArgumentError", message),
        Error::Extension(message) => ("ExtensionError", message),
        Error::Host(inner) => match inner.downcast::<PyErr>() {
            Ok(error) => return *error,
            Err(other) => ("LumbreError", other.to_string()),
        },
    };
    Python::attach(|py| exception(py, class, message))
}

/// An exception of Python on its way through the core.
pub fn carry(error: PyErr) -> Error {
    Error::Host(Box::new(error))
}

/// An exception of a class of `lumbre.errors`.
pub fn exception(py: Python<'_>, class: &str, message: String) -> PyErr {
    class_named(py, class)
        .and_then(|class| class.call1((message,)))
        .map_or_else(|error| error, PyErr::from_value)
}

/// The class of `lumbre.errors` for a warning of the core.
pub fn warning_class(warning: Warning) -> &'static str {
    match warning {
        Warning::Monitor => "MonitorWarning",
        Warning::NonFiniteLoss => "NonFiniteLossWarning",
    }
}

/// Warn with a class of `lumbre.errors`.
pub fn warn(py: Python<'_>, class: &str, message: &str) -> PyResult<()> {
    let warn = py.import("lumbre.warn")?.getattr("warn")?;
    warn.call1((message, class_named(py, class)?))?;
    Ok(())
}

fn class_named<'py>(py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("lumbre.errors")?.getattr(class)
}
