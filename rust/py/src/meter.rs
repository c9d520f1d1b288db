//! `_core.Meter`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use lumbre_core::flow::State;
use lumbre_core::lock::lock;
use lumbre_core::metrics::{Fit, View};
use lumbre_core::records::Value;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Failed, raise};
use crate::grad::without_grad;
use crate::losses::Losses;
use crate::lumbre;
use crate::means::Logged;
use crate::metric::NativeMetric;
use crate::now::{Field, Now};
use crate::tensor;
use crate::value;

struct Slot {
    name: Arc<str>,
    metric: Py<PyAny>,
    native: Option<Py<NativeMetric>>,
    /// The names of its records, once it has computed them: several where it computes a dict.
    records: Mutex<Option<Vec<Arc<str>>>>,
}

impl Slot {
    fn records(&self) -> Vec<Arc<str>> {
        let known = lock(&self.records).clone();
        known.unwrap_or_else(|| vec![Arc::clone(&self.name)])
    }

    fn computed(&self, py: Python<'_>, whole: bool) -> Result<Vec<(Arc<str>, Value)>, Failed> {
        let metric = self.metric.bind(py);
        let native = self.native.as_ref().map(Py::get);
        let running = |is_running| {
            if let Some(native) = native {
                native.set_running(is_running);
            }
        };
        running(!whole);
        let value = without_grad(py, || metric.call_method0(lumbre::Metric::compute(py)));
        running(false);
        let values = value
            .and_then(|value| value::records(metric, &self.name, &value))
            .map_err(|error| self.failed(py, "compute", error))?;
        let names = values.iter().map(|(name, _)| Arc::clone(name)).collect();
        *lock(&self.records) = Some(names);
        Ok(values)
    }

    /// The error that a method has raised, and who that was.
    fn failed(&self, py: Python<'_>, method: &str, error: PyErr) -> Failed {
        let metric = self.metric.bind(py);
        // What a function raises is its own, and so is what a torchmetric raises that a metric of
        // ours holds.
        let named = metric.getattr(lumbre::Mean::noted_as(py));
        let who = named
            .and_then(|name| name.extract::<String>())
            .unwrap_or_else(|_| {
                let held = metric.getattr(lumbre::TorchMetric::held(py));
                let kind = value::class_name(held.as_ref().unwrap_or(metric));
                format!("{kind}.{method}")
            });
        Failed {
            error,
            who: Some(who),
        }
    }
}

/// The loss and the metrics of one set: fed once a batch, read when its pass ends.
#[pyclass(module = "lumbre._core", frozen)]
pub struct Meter {
    pub losses: Losses,
    slots: Vec<Slot>,
    /// The means of what is logged.
    pub logged: Logged,
    /// The weight of the batch that was counted last, as bits.
    weight: AtomicU64,
    batches: AtomicU64,
    first: AtomicBool,
}

#[pymethods]
impl Meter {
    /// Losses as (optimizer, record's name), metrics as (record's name, metric, native state or None).
    #[new]
    #[allow(clippy::type_complexity)]
    fn new(
        losses: Vec<(String, String)>,
        metrics: Vec<(String, Py<PyAny>, Option<Py<NativeMetric>>)>,
    ) -> Self {
        let slot = |(name, metric, native): (String, Py<PyAny>, Option<Py<NativeMetric>>)| Slot {
            name: name.into(),
            metric,
            native,
            records: Mutex::default(),
        };
        Self {
            losses: Losses::new(losses),
            slots: metrics.into_iter().map(slot).collect(),
            logged: Logged::default(),
            weight: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            first: AtomicBool::new(true),
        }
    }

    /// The names of the records, in their order.
    #[getter]
    pub fn names(&self) -> Vec<String> {
        let losses = self.losses.names();
        losses
            .cloned()
            .chain(self.slots.iter().flat_map(Slot::records))
            .map(|name| name.to_string())
            .collect()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in &self.slots {
            visit.call(&slot.metric)?;
        }
        Ok(())
    }

    // A metric is a Python object with a dict of its own: a cycle through here is cut there.
    #[allow(clippy::unused_self)]
    fn __clear__(&self) {}
}

impl Meter {
    /// Start a pass: everything is forgotten.
    pub fn reset(&self, py: Python<'_>) -> Result<(), Failed> {
        self.losses.reset();
        self.logged.reset();
        self.batches.store(0, Relaxed);
        let reset = lumbre::Metric::reset(py);
        for slot in &self.slots {
            let metric = slot.metric.bind(py);
            without_grad(py, || metric.call_method0(reset))
                .map_err(|error| slot.failed(py, "reset", error))?;
        }
        Ok(())
    }

    /// Count a batch; gives whether it is the first ever.
    pub fn update(
        &self,
        state: &State,
        now: &Now,
        batch: &Bound<'_, PyAny>,
        target: Option<&Bound<'_, PyAny>>,
    ) -> Result<bool, Failed> {
        let py = batch.py();
        let pred = now.get(py, Field::Pred);
        let given = state.batch_size();
        let seen = self.count(&pred, target)?;
        #[allow(clippy::cast_precision_loss)]
        let weight = match given.or(seen) {
            Some(size) => size as f64,
            None => lumbre::batch_size_of(py)?.call1((batch,))?.extract()?,
        };
        self.weight.store(weight.to_bits(), Relaxed);
        self.losses.count(py, state, now, weight)?;
        self.logged.count(py, state.iter(), weight)?;
        self.batches.store(self.batches.load(Relaxed) + 1, Relaxed);
        let is_first = self.first.load(Relaxed);
        if is_first {
            self.first.store(false, Relaxed);
        }
        Ok(is_first)
    }

    /// What the losses and the means have seen of the pass under way, and how many batches there were.
    pub fn state(&self, py: Python<'_>, state: &State, put: &Bound<'_, PyDict>) -> PyResult<()> {
        put.set_item("losses", self.losses.state(py, state)?)?;
        put.set_item("means", self.logged.state(py)?)?;
        put.set_item("batches", self.batches.load(Relaxed))
    }

    /// Go on from what `state` has put.
    pub fn restore(&self, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let (py, state) = (state.py(), state.as_any());
        let losses: Vec<(String, Vec<f64>)> = state.get_item("losses")?.extract()?;
        self.losses.restore(&losses)?;
        self.logged
            .restore(py, state.get_item("means")?.extract()?)?;
        let batches = state.get_item("batches")?.extract::<u64>()?;
        self.batches.store(batches, Relaxed);
        if batches > 0 {
            self.first.store(false, Relaxed);
        }
        Ok(())
    }

    /// The weight of the batch that was counted last.
    pub fn weight(&self) -> f64 {
        f64::from_bits(self.weight.load(Relaxed))
    }

    /// True if a record of that name is one of the run's own, which nobody else writes.
    pub fn writes(&self, name: &str) -> bool {
        self.losses.names().any(|known| &**known == name)
            || self.slots.iter().any(|slot| {
                lock(&slot.records)
                    .as_ref()
                    .map_or(&*slot.name == name, |records| {
                        records.iter().any(|record| &**record == name)
                    })
            })
    }

    /// Take the batch under way back out of the loss, and of the metrics that can do so.
    pub fn retract(&self, py: Python<'_>, iter: u64) -> Result<(), Failed> {
        self.losses.retract(py, iter)?;
        self.logged.retract(py, iter)?;
        // Never below 0: a batch is retracted at most once, after it was counted.
        self.batches.fetch_sub(1, Relaxed);
        let retract = lumbre::Native::retract(py);
        for slot in &self.slots {
            let metric = slot.metric.bind(py);
            let native = slot.native.as_ref().map(Py::get);
            let done = native.is_some_and(NativeMetric::retract);
            if !done && metric.hasattr(retract)? {
                metric
                    .call_method0(retract)
                    .map_err(|error| slot.failed(py, "retract", error))?;
            }
        }
        Ok(())
    }

    /// The values so far, or those of the whole pass; none when no batch was counted.
    pub fn values(
        &self,
        py: Python<'_>,
        state: &State,
        whole: bool,
    ) -> Result<Vec<(Arc<str>, Value)>, Failed> {
        let mut values = Vec::new();
        if self.batches.load(Relaxed) > 0 {
            values = self.losses.values(py, state)?;
            for slot in &self.slots {
                values.extend(slot.computed(py, whole)?);
            }
        }
        let logged = self.logged.values(py)?.into_iter();
        values.extend(logged.map(|(name, mean)| (name, mean.into())));
        value::check_names(&values)?;
        Ok(values)
    }

    /// One of the values so far; the others are not computed.
    pub fn value(
        &self,
        py: Python<'_>,
        state: &State,
        name: &str,
    ) -> Result<Option<Value>, Failed> {
        if self.logged.knows(name) {
            let mut values = self.logged.values(py)?.into_iter();
            let found = values.find(|(known, _)| &**known == name);
            return Ok(found.map(|(_, mean)| mean.into()));
        }
        if self.batches.load(Relaxed) == 0 {
            return Ok(None);
        }
        if let Some(value) = self.losses.value(py, state, name)? {
            return Ok(Some(value));
        }
        // Or any one of which it is not known yet what it computes.
        let may_hold = |slot: &&Slot| match &*lock(&slot.records) {
            Some(records) => records.iter().any(|record| &**record == name),
            None => &*slot.name == name || slot.native.is_none(),
        };
        for slot in self.slots.iter().filter(may_hold) {
            let values = slot.computed(py, false)?;
            if let Some((_, value)) = values.into_iter().find(|(record, _)| &**record == name) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// True if a metric may turn out to compute several records, under names of its own.
    pub fn may_have_others(&self, py: Python<'_>) -> bool {
        let is_open = |slot: &Slot| {
            let is_one = slot
                .metric
                .bind(py)
                .getattr(lumbre::Metric::is_one_record(py));
            lock(&slot.records).is_none()
                && !is_one.is_ok_and(|is_one| is_one.is_truthy().unwrap_or(false))
        };
        self.slots.iter().any(is_open)
    }

    /// The names of the values so far.
    pub fn names_so_far(&self) -> Vec<String> {
        let mut names = Vec::new();
        if self.batches.load(Relaxed) > 0 {
            names = self.names();
        }
        names.extend(self.logged.names().iter().map(ToString::to_string));
        names
    }

    /// The records of metrics that say which value is better: the lowest, `"min"`, or the highest.
    pub fn directions(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let mut known = Vec::new();
        for slot in &self.slots {
            let direction = slot
                .metric
                .bind(py)
                .getattr_opt(lumbre::Metric::direction(py))?;
            if let Some(direction) = direction.and_then(|direction| direction.extract().ok()) {
                known.push((slot.name.to_string(), direction));
            }
        }
        Ok(known)
    }

    /// The name under which an optimizer's loss is recorded.
    pub fn loss_name(&self, key: &str) -> Option<&str> {
        self.losses.name_of(key)
    }

    /// Feed the metrics; gives the batch's size where it was seen on the way.
    fn count(
        &self,
        pred: &Bound<'_, PyAny>,
        target: Option<&Bound<'_, PyAny>>,
    ) -> Result<Option<u64>, Failed> {
        let py = pred.py();
        let mut size = None;
        let mut counted = false;
        if let Some(target) = target {
            // Every built-in metric reads the same two views: the tensors are looked up once.
            let read = tensor::read_pair(pred, target, |pred: View<'_>, target: View<'_>| {
                let mut squeezed = None;
                size = target.shape().first().and_then(|&n| u64::try_from(n).ok());
                for slot in &self.slots {
                    if let Some(native) = &slot.native {
                        let fit = native.get().count(&pred, &target);
                        let fit = fit.map_err(|error| (slot, error))?;
                        if fit == Fit::Squeezed {
                            squeezed = squeezed.or(Some(native));
                        }
                    }
                }
                Ok(squeezed)
            })?;
            if let Some(result) = read {
                counted = true;
                match result {
                    Ok(None) => {}
                    // What one metric says of the shapes holds for the others too.
                    Ok(Some(native)) => native.get().tell(py, Fit::Squeezed)?,
                    Err((slot, error)) => {
                        return Err(slot.failed(py, "update", raise(error)));
                    }
                }
            }
        }
        for slot in self
            .slots
            .iter()
            .filter(|slot| !counted || slot.native.is_none())
        {
            let update = lumbre::Metric::update(py);
            let metric = slot.metric.bind(py);
            without_grad(py, || metric.call_method1(update, (pred, target)))
                .map_err(|error| slot.failed(py, "update", error))?;
        }
        Ok(size)
    }
}
