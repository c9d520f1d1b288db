//! `_core.NativeCallback`.

use std::sync::Arc;

use lumbre_abi::host::Foreign;
use lumbre_core::builtin;
use lumbre_core::callback::Callback;
use lumbre_core::filter::Filter;
use lumbre_core::hook::HookId;
use lumbre_core::monitor::Monitor;
use lumbre_core::saved::Saved;
use lumbre_core::schedule::Part;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::{exception, raise};
use crate::foreign::Extension;
use crate::frame::PyHost;
use crate::lumbre::Class;

/// The part of a callback that is written in Rust; its class in Python says what it does.
#[pyclass(module = "lumbre._core", frozen)]
pub struct NativeCallback {
    /// Where the code lives, for the table of the plan.
    kind: String,
    callback: Arc<dyn Callback<PyHost>>,
    /// What came with it from a foreign library.
    extension: Option<Arc<Extension>>,
    filters: Vec<(HookId, Filter)>,
}

impl NativeCallback {
    fn built_in(callback: impl Callback<PyHost> + 'static) -> Self {
        Self {
            kind: "Rust".into(),
            callback: Arc::new(callback),
            extension: None,
            filters: Vec::new(),
        }
    }

    fn about<T>(&self, of: impl FnOnce(&Foreign) -> T) -> Option<T> {
        self.extension.as_ref().map(|each| of(each.about()))
    }

    /// What the scheduler calls.
    pub fn part(&self) -> Part<PyHost> {
        Part {
            kind: self.kind.clone(),
            callback: Arc::clone(&self.callback),
            filters: self.filters.clone(),
        }
    }
}

#[pymethods]
impl NativeCallback {
    /// Times the run, its epochs and its passes.
    #[staticmethod]
    fn profile() -> Self {
        Self::built_in(builtin::Profile::default())
    }

    /// Feeds the loss and the metrics and records their values.
    #[staticmethod]
    fn metrics() -> Self {
        Self::built_in(builtin::Metrics)
    }

    /// Says when the progress is drawn.
    #[staticmethod]
    fn progress() -> Self {
        Self::built_in(builtin::Progress::default())
    }

    /// Stops when nothing gets better any more.
    #[staticmethod]
    #[pyo3(signature = (monitor, min_delta, patience, mode, baseline))]
    fn early_stopping(
        monitor: &str,
        min_delta: f64,
        patience: u64,
        mode: &str,
        baseline: Option<f64>,
    ) -> PyResult<Self> {
        let monitor = Monitor::new("EarlyStopping", monitor, mode, min_delta).map_err(raise)?;
        Ok(Self::built_in(builtin::EarlyStopping::new(
            monitor, patience, baseline,
        )))
    }

    /// Stops at a loss that is NaN or infinite.
    #[staticmethod]
    fn terminate_on_nan() -> Self {
        Self::built_in(builtin::TerminateOnNaN::default())
    }

    /// One of a foreign library: an object with `__lumbre_callback__`, or the capsule that this gives.
    #[staticmethod]
    fn foreign(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let extension = Arc::new(Extension::open(object)?);
        Ok(Self {
            kind: extension.kind(),
            filters: extension.filters().map_err(|error| {
                let name = &extension.about().name;
                exception(
                    object.py(),
                    Class::ABIError,
                    format!("{name} cannot be called: {error}"),
                )
            })?,
            callback: Arc::clone(&extension) as Arc<dyn Callback<PyHost>>,
            extension: Some(extension),
        })
    }

    /// What a foreign library calls it; None of a built-in one, whose class has these.
    #[getter]
    fn name(&self) -> Option<String> {
        self.about(|about| about.name.clone())
    }

    /// The weight that a foreign library gives it.
    #[getter]
    fn weight(&self) -> Option<f64> {
        self.about(|about| about.weight)
    }

    /// The callbacks that have to come earlier, as a foreign library says.
    #[getter]
    fn after(&self) -> Option<Vec<String>> {
        self.about(|about| about.after.clone())
    }

    /// The callbacks that have to come later, as a foreign library says.
    #[getter]
    fn before(&self) -> Option<Vec<String>> {
        self.about(|about| about.before.clone())
    }

    /// The metrics that it logs, as a foreign library says.
    #[getter]
    fn logs(&self) -> Option<Vec<String>> {
        self.about(|about| about.logs.clone())
    }

    /// Where the code lives: "Rust", or a crate with its version.
    #[getter]
    fn kind(&self) -> &str {
        &self.kind
    }

    /// Its state as bytes or as the text of JSON, whichever the callback writes; None without one.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self
            .callback
            .save()
            .map_err(raise)?
            .map(|saved| match saved {
                Saved::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
                Saved::Json(text) => PyString::new(py, &text).into_any(),
            }))
    }

    /// Go on from what `save` gave, in a fit that has begun: its begin forgets the state.
    fn load(&self, state: State) -> PyResult<()> {
        let saved = match state {
            State::Json(text) => Saved::Json(text),
            State::Bytes(bytes) => Saved::Bytes(bytes),
        };
        self.callback.load(&saved).map_err(raise)
    }

    fn __repr__(&self) -> String {
        format!("<the part of a callback in {}>", self.kind)
    }
}

/// What `NativeCallback.save` gave.
#[derive(FromPyObject)]
enum State {
    #[pyo3(transparent, annotation = "str")]
    Json(String),
    #[pyo3(transparent, annotation = "bytes")]
    Bytes(Vec<u8>),
}
