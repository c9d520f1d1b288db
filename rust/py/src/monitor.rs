//! `_core.Monitor`.

use lumbre_core::monitor::Monitor as Core;
use pyo3::prelude::*;

use crate::error::raise;
use crate::run::Run;
use crate::run::frame::Frame;

/// The value of the records that a callback written in Python watches.
#[pyclass(module = "lumbre._core", frozen)]
pub struct Monitor(Core);

#[pymethods]
impl Monitor {
    #[new]
    #[pyo3(signature = (owner, monitor, mode = "min", min_delta = 0.0))]
    fn new(owner: &str, monitor: &str, mode: &str, min_delta: f64) -> PyResult<Self> {
        Core::new(owner, monitor, mode, min_delta)
            .map(Self)
            .map_err(raise)
    }

    /// When the fit begins: is there anything to watch? A name that is not known yet is warned about.
    fn check(&self, ctx: &Bound<'_, Run>) -> PyResult<()> {
        self.0.check(&Frame { run: ctx }).map_err(raise)
    }

    /// When the fit begins: a metric that is watched the wrong way round is warned about.
    fn check_mode(&self, ctx: &Bound<'_, Run>) -> PyResult<()> {
        self.0.check_mode(&Frame { run: ctx }).map_err(raise)
    }

    /// Its value in the epoch under way; None when that has measured nothing.
    fn value(&self, ctx: &Bound<'_, Run>) -> PyResult<Option<f64>> {
        self.0.value(&Frame { run: ctx }).map_err(raise)
    }

    /// True if a value is better than the best one so far; NaN never is.
    fn improves(&self, value: f64, best: f64) -> bool {
        self.0.improves(value, best)
    }

    fn __repr__(&self) -> String {
        format!("<watches {}>", self.0.watched())
    }
}
