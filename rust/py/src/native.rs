//! `_core.NativeCallback`.

use std::sync::Arc;

use lumbre_core::builtin;
use lumbre_core::callback::Callback;
use lumbre_core::filter::Filter;
use lumbre_core::hook::HookId;
use lumbre_core::monitor::Monitor;
use lumbre_core::saved::{Field, Saved};
use lumbre_core::schedule::Part;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyString};

use crate::error::{exception, raise};
use crate::foreign::Extension;
use crate::lumbre::Class;
use crate::run::frame::PyHost;

/// The part of a callback that is written in Rust; its class in Python says what it does.
#[pyclass(module = "lumbre._core", frozen)]
pub struct NativeCallback {
    /// Where the code lives, for the table of the plan.
    kind: String,
    callback: Arc<dyn Callback<PyHost>>,
    /// The foreign library's part of it, if it came with one.
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

    /// The part that the scheduler calls.
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

    /// Keeps a row of each n-th training batch.
    #[staticmethod]
    fn step_history(every: u64) -> Self {
        Self::built_in(builtin::StepHistory::new(every))
    }

    /// Measures how fast training goes, in samples or in items that `count` tells of.
    #[staticmethod]
    fn throughput(counts_items: bool) -> Self {
        Self::built_in(builtin::Throughput::new(counts_items))
    }

    /// Count something of the batch under way.
    fn count(&self, amount: f64) {
        self.callback.count(amount);
    }

    /// The rates that the callback has measured of the pass under way, by name.
    #[getter]
    fn rates<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let rates = PyDict::new(py);
        for (name, number) in self.callback.rates() {
            rates.set_item(name, number)?;
        }
        Ok(rates)
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

    /// The words of a foreign library about it: name, weight, after, before, logs; none for a built-in
    /// one, whose class has these.
    #[getter]
    fn about<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let about = PyDict::new(py);
        if let Some(foreign) = self.extension.as_ref().map(|each| each.about()) {
            about.set_item("name", &foreign.name)?;
            about.set_item("weight", foreign.weight)?;
            about.set_item("after", &foreign.after)?;
            about.set_item("before", &foreign.before)?;
            about.set_item("logs", &foreign.logs)?;
        }
        Ok(about)
    }

    /// The place where the code lives: "Rust", or a crate with its version.
    #[getter]
    fn kind(&self) -> &str {
        &self.kind
    }

    /// Its state as bytes, as the text of JSON or as a dict, whichever the callback writes; None
    /// without one.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(saved) = self.callback.save().map_err(raise)? else {
            return Ok(None);
        };
        Ok(Some(match saved {
            Saved::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
            Saved::Json(text) => PyString::new(py, &text).into_any(),
            Saved::Fields(fields) => {
                let state = PyDict::new(py);
                for (name, field) in fields {
                    state.set_item(name, to_python(py, field)?)?;
                }
                state.into_any()
            }
        }))
    }

    /// Go on from what `save` gave, in a fit that has begun: its begin forgets the state.
    fn load(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let saved = if let Ok(text) = state.cast::<PyString>() {
            Saved::Json(text.extract()?)
        } else if let Ok(bytes) = state.cast::<PyBytes>() {
            Saved::Bytes(bytes.as_bytes().to_vec())
        } else if let Ok(fields) = state.cast::<PyDict>() {
            // To show a value may run Python, which must not find the dict in use.
            let pairs: Vec<_> = fields.iter().collect();
            let pairs = pairs
                .iter()
                .map(|(name, value)| Ok((name.str()?.extract::<String>()?, from_python(value)?)));
            Saved::Fields(pairs.collect::<PyResult<_>>()?)
        } else {
            let message = format!(
                "The state of a callback is bytes, a text or a dict; got {}. Load what it has saved.",
                state.repr()?
            );
            return Err(exception(state.py(), Class::ArgumentError, message));
        };
        self.callback.load(&saved).map_err(raise)
    }

    fn __repr__(&self) -> String {
        format!("<the part of a callback in {}>", self.kind)
    }
}

fn to_python(py: Python<'_>, field: Field) -> PyResult<Bound<'_, PyAny>> {
    Ok(match field {
        Field::Nothing => py.None().into_bound(py),
        Field::Count(number) => number.into_pyobject(py)?.into_any(),
        Field::Number(number) => PyFloat::new(py, number).into_any(),
        Field::Text(text) | Field::Other(text) => PyString::new(py, &text).into_any(),
    })
}

fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Field> {
    Ok(if value.is_none() {
        Field::Nothing
    } else if let Ok(text) = value.cast::<PyString>() {
        Field::Text(text.extract()?)
    } else if let Ok(number) = value.cast::<PyFloat>() {
        Field::Number(number.value())
    } else if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() {
        match (value.extract(), value.extract()) {
            (Ok(count), _) => Field::Count(count),
            (_, Ok(number)) => Field::Number(number),
            _ => Field::Other(value.repr()?.to_string()),
        }
    } else {
        Field::Other(value.repr()?.to_string())
    })
}
