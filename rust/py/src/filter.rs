//! `_core.Filter`.

use lumbre_core::filter;
use pyo3::prelude::*;

use crate::error::raise;

/// When a hook runs, decided before anything is called.
#[pyclass(name = "Filter", module = "lumbre._core", frozen, eq)]
#[derive(PartialEq)]
pub struct Filter(pub filter::Filter);

#[pymethods]
impl Filter {
    /// Every n-th time, as the breakpoint counts.
    #[staticmethod]
    fn every(n: u64) -> PyResult<Self> {
        filter::Filter::every(n).map(Self).map_err(raise)
    }

    /// Once a run.
    #[staticmethod]
    fn once() -> Self {
        Self(filter::Filter::once())
    }

    /// From the first to the last epoch, both included.
    #[staticmethod]
    #[pyo3(signature = (first, last=None))]
    fn epochs(first: u64, last: Option<u64>) -> PyResult<Self> {
        filter::Filter::epochs(first, last).map(Self).map_err(raise)
    }

    /// Both filters at once.
    fn __and__(&self, other: &Self) -> PyResult<Self> {
        self.0.and(other.0).map(Self).map_err(raise)
    }

    fn __repr__(&self) -> String {
        self.0.to_string()
    }
}
