//! `_core.NativeMetric`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lumbre_core::metrics::{Fit, Metric, Native, View};
use pyo3::prelude::*;

use crate::error::{raise, warn};
use crate::tensor;

/// The state of a built-in metric, and how a batch is counted in.
#[pyclass(module = "lumbre._core", frozen)]
pub struct NativeMetric {
    name: String,
    threshold: Option<f64>,
    state: Mutex<Native>,
    told: AtomicBool,
}

impl NativeMetric {
    /// The numbers behind the metric. Never held while Python runs.
    pub fn lock(&self) -> MutexGuard<'_, Native> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warn, the first time, that shapes fit only without their dimensions of size 1.
    pub fn tell(&self, py: Python<'_>, fit: Fit) -> PyResult<()> {
        if fit == Fit::Exact || self.told.swap(true, Relaxed) {
            return Ok(());
        }
        warn(
            py,
            "ShapeWarning",
            &format!(
                "{}: predictions and targets have different shapes, such as (n, 1) and (n,), and are \
                 compared element by element. Torch would broadcast them to (n, n), in the loss too. \
                 Make them alike: `pred.squeeze(1)` or `target.unsqueeze(1)`.",
                self.name
            ),
        )
    }
}

#[pymethods]
impl NativeMetric {
    #[new]
    #[pyo3(signature = (name, threshold=None, state=None))]
    fn new(name: String, threshold: Option<f64>, state: Option<Vec<f64>>) -> PyResult<Self> {
        let mut native = Native::new(&name, threshold).map_err(raise)?;
        if let Some(state) = state {
            native.load(&state).map_err(raise)?;
        }
        Ok(Self {
            name,
            threshold,
            state: Mutex::new(native),
            told: AtomicBool::new(false),
        })
    }

    /// Count a batch; False, with nothing counted, when its tensors are not plain CPU memory.
    fn update(&self, preds: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> PyResult<bool> {
        let count = |preds: View<'_>, target: View<'_>| self.lock().update(&preds, &target);
        let Some(fit) = tensor::read_pair(preds, target, count)? else {
            return Ok(false);
        };
        self.tell(preds.py(), fit.map_err(raise)?)?;
        Ok(true)
    }

    /// Warn, the first time, that shapes were made to fit by leaving out dimensions of size 1.
    fn squeezed(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(py, Fit::Squeezed)
    }

    /// The value over everything since the last reset; NaN when there was nothing.
    fn compute(&self) -> f64 {
        self.lock().compute()
    }

    /// Forget every batch.
    fn reset(&self) {
        self.lock().reset();
    }

    /// Take in what another metric of the same kind has seen.
    fn merge(&self, other: &Self) -> PyResult<()> {
        let other = *other.lock();
        self.lock().merge(&other).map_err(raise)
    }

    /// All it has seen, as numbers that add up over devices and processes.
    #[getter]
    fn state(&self) -> Vec<f64> {
        self.lock().state()
    }

    /// Where a score counts as class 1, on the scale of the scores; None for other metrics.
    #[getter]
    fn cut(&self) -> Option<f64> {
        self.lock().cut()
    }

    /// Take in what another metric has seen, from its state.
    fn add_state(&self, state: Vec<f64>) -> PyResult<()> {
        self.lock().add_state(&state).map_err(raise)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py> {
        let this = slf.get();
        (
            slf.get_type().into_any(),
            (this.name.clone(), this.threshold, this.state()),
        )
    }

    fn __repr__(&self) -> String {
        format!("NativeMetric({:?}, {:?})", self.name, self.lock().compute())
    }
}

type Reduced<'py> = (Bound<'py, PyAny>, (String, Option<f64>, Vec<f64>));
