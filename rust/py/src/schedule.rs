//! `_core.Schedule`.

use std::sync::{Arc, Mutex};

use lumbre_core::hook::HookSet;
use lumbre_core::lock::lock;
use lumbre_core::order::Item;
use lumbre_core::schedule::{self, Entry, Part};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::raise;
use crate::filter::Filter;
use crate::meter::Meter;
use crate::names::Names;
use crate::native::NativeCallback;
use crate::now::Now;
use crate::python::Target;
use crate::run::{Binding, Plan, Run};

/// The callbacks' names made unique: of two alike the second gets `_2`.
#[pyfunction]
pub fn unique_names(names: Vec<String>) -> Vec<String> {
    schedule::unique_names(&names)
}

/// One callback, described by `lumbre.callback.describe`.
#[derive(FromPyObject)]
pub struct Spec {
    name: String,
    weight: f64,
    after: Vec<String>,
    before: Vec<String>,
    /// (breakpoint, function, receiver or None, filter or None)
    #[allow(clippy::type_complexity)]
    methods: Vec<(String, Py<PyAny>, Option<Py<PyAny>>, Option<Py<Filter>>)>,
    /// The part of it that is written in Rust, or None.
    native: Option<Py<NativeCallback>>,
}

/// The plan of a run: who is called at which breakpoint, in which order, in Python or natively, under
/// which filter.
///
/// Compiled once a run; `lumbre.schedule(callbacks)` makes one to look at, and its repr is a table.
#[pyclass(module = "lumbre._core", frozen)]
pub struct Schedule {
    names: Arc<Names>,
    core: Mutex<Option<Arc<Plan>>>,
    targets: Mutex<Vec<Arc<Target>>>,
}

impl Schedule {
    /// The breakpoints at which Python is called.
    fn python_hooks(&self) -> HookSet {
        let targets = lock(&self.targets);
        targets.iter().map(|target| target.hook).collect()
    }

    /// The compiled plan; `None` only after the garbage collector has cut a cycle here.
    fn core(&self) -> Option<Arc<Plan>> {
        lock(&self.core).clone()
    }
}

#[pymethods]
impl Run {
    /// Give the run its plan and its meters; once.
    #[pyo3(name = "_bind", signature = (schedule, train, valid, now, draw=None, own_loop=false))]
    fn bind(
        &self,
        schedule: &Bound<'_, Schedule>,
        train: Py<Meter>,
        valid: Py<Meter>,
        now: &Bound<'_, PyAny>,
        draw: Option<Py<PyAny>>,
        own_loop: bool,
    ) -> PyResult<()> {
        let this = schedule.get();
        let core = this
            .core()
            .ok_or_else(|| PyValueError::new_err("this schedule has been taken apart"))?;
        let (names, used) = (Arc::clone(&this.names), core.used());
        let binding = Binding {
            plan: core,
            schedule: schedule.clone().into_any().unbind(),
            meters: [train, valid],
            python: this.python_hooks(),
            now: Now::new(now)?,
            draw,
        };
        self.begin(names, used, own_loop, binding)
    }
}

#[pymethods]
impl Schedule {
    #[new]
    fn new(py: Python<'_>, callbacks: Vec<Spec>, custom: Vec<String>) -> PyResult<Self> {
        let names = Names::new(py, &custom);
        let mut targets = Vec::new();
        let mut entries = Vec::new();
        for spec in callbacks {
            let mut parts = Vec::new();
            if let Some(native) = spec.native {
                parts.push(native.get().part());
            }
            for (name, function, receiver, filter) in spec.methods {
                let hook = names
                    .find(PyString::new(py, &name).as_any())
                    .ok_or_else(|| PyValueError::new_err(format!("{name} is no breakpoint")))?;
                let target = Arc::new(Target {
                    hook,
                    function,
                    receiver,
                });
                targets.push(Arc::clone(&target));
                parts.push(Part {
                    kind: "Python".into(),
                    callback: target,
                    filters: filter.iter().map(|filter| (hook, filter.get().0)).collect(),
                });
            }
            let item = Item {
                name: spec.name,
                weight: spec.weight,
                after: spec.after,
                before: spec.before,
            };
            entries.push(Entry { item, parts });
        }
        let core = Plan::compile(entries, names.all().to_vec()).map_err(raise)?;
        Ok(Self {
            names: Arc::new(names),
            core: Mutex::new(Some(Arc::new(core))),
            targets: Mutex::new(targets),
        })
    }

    /// The plan as rows of (breakpoint, callback, kind, weight, filter), in the order of the calls.
    #[getter]
    fn rows(&self) -> Vec<(String, String, String, f64, String)> {
        let rows = self.core().map(|core| core.rows()).unwrap_or_default();
        rows.into_iter()
            .map(|row| (row.hook, row.name, row.kind, row.weight, row.filter))
            .collect()
    }

    fn __repr__(&self) -> String {
        self.core().map(|core| core.to_string()).unwrap_or_default()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(targets) = self.targets.try_lock() {
            for target in targets.iter() {
                target.traverse(&visit)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let core = lock(&self.core).take();
        let targets = std::mem::take(&mut *lock(&self.targets));
        // Dropped when no lock is held: dropping may run Python.
        drop((core, targets));
    }
}
