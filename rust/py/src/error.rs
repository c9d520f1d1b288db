//! The one map from the core's errors to the classes of `lumbre.errors`.

use lumbre_core::Error;
use lumbre_core::callback::Warning;
use pyo3::prelude::*;

use crate::lumbre::{self, Class};

/// The Python exception for an error of the core; one that came from Python is itself again.
pub fn raise(error: Error) -> PyErr {
    let (class, message) = match error {
        Error::Hook(message) => (Class::HookError, message),
        Error::Schedule(message) => (Class::ScheduleError, message),
        Error::Shape(message) => (Class::ShapeError, message),
        Error::DType(message) => (Class::DTypeError, message),
        Error::Target(message) => (Class::TargetError, message),
        Error::Metric(message) => (Class::MetricError, message),
        Error::Monitor(message) => (Class::MonitorError, message),
        Error::Argument(message) => (Class::ArgumentError, message),
        Error::Extension(message) => (Class::ExtensionError, message),
        Error::Host(inner) => match inner.downcast::<PyErr>() {
            Ok(error) => return *error,
            Err(other) => (Class::LumbreError, other.to_string()),
        },
    };
    Python::attach(|py| exception(py, class, message))
}

/// An exception of Python on its way through the core.
pub fn carry(error: PyErr) -> Error {
    Error::Host(Box::new(error))
}

/// An exception, and whose it is, where that is known.
pub struct Failed {
    pub error: PyErr,
    pub who: Option<String>,
}

impl From<PyErr> for Failed {
    fn from(error: PyErr) -> Self {
        Self { error, who: None }
    }
}

/// An exception of a class of `lumbre.errors`.
pub fn exception(py: Python<'_>, class: Class, message: String) -> PyErr {
    class
        .find(py)
        .and_then(|class| class.call1((message,)))
        .map_or_else(|error| error, PyErr::from_value)
}

/// The class of `lumbre.errors` for a warning of the core.
pub fn warning_class(warning: Warning) -> Class {
    match warning {
        Warning::Monitor => Class::MonitorWarning,
        Warning::NonFiniteLoss => Class::NonFiniteLossWarning,
    }
}

/// Warn with a class of `lumbre.errors`.
pub fn warn(py: Python<'_>, class: Class, message: &str) -> PyResult<()> {
    lumbre::warn(py)?.call1((message, class.find(py)?))?;
    Ok(())
}
