//! `_core.Meter`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lumbre_core::callback::Warning;
use lumbre_core::loss::non_finite;
use lumbre_core::metrics::{Fit, Mean, View};
use lumbre_core::records::Value;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::error::{raise, warn, warning_class};
use crate::grad::without_grad;
use crate::metric::NativeMetric;
use crate::now::{Field, Now};
use crate::run::Run;
use crate::tensor;
use crate::value;

struct Loss {
    /// The optimizer whose loss it is.
    key: String,
    name: Arc<str>,
    /// The mean so far, and what it was before the batch under way.
    mean: Mutex<(Mean, Mean)>,
}

impl Loss {
    fn value(&self) -> Value {
        Value::Number(lock(&self.mean).0.mean())
    }
}

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
}

/// The loss and the metrics of one set: fed once a batch, read when its pass ends.
#[pyclass(module = "lumbre._core", frozen)]
pub struct Meter {
    losses: Vec<Loss>,
    slots: Vec<Slot>,
    /// `lumbre.metrics.device.Losses`, made when a loss is first seen on a device.
    on_device: Mutex<Option<Py<PyAny>>>,
    batches: AtomicU64,
    first: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let loss = |(key, name): (String, String)| Loss {
            key,
            name: name.into(),
            mean: Mutex::default(),
        };
        let slot = |(name, metric, native): (String, Py<PyAny>, Option<Py<NativeMetric>>)| Slot {
            name: name.into(),
            metric,
            native,
            records: Mutex::default(),
        };
        Self {
            losses: losses.into_iter().map(loss).collect(),
            slots: metrics.into_iter().map(slot).collect(),
            on_device: Mutex::default(),
            batches: AtomicU64::new(0),
            first: AtomicBool::new(true),
        }
    }

    /// The names of the records, in their order.
    #[getter]
    pub fn names(&self) -> Vec<String> {
        let losses = self.losses.iter().map(|loss| Arc::clone(&loss.name));
        losses
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
    pub fn reset(&self, ctx: &Bound<'_, Run>) -> PyResult<()> {
        for loss in &self.losses {
            *lock(&loss.mean) = Default::default();
        }
        self.keep_on_device(None);
        self.batches.store(0, Relaxed);
        for slot in &self.slots {
            let metric = slot.metric.bind(ctx.py());
            let reset = without_grad(ctx.py(), || metric.call_method0(intern!(ctx.py(), "reset")));
            reset.map_err(|error| self.noted(ctx, slot, "reset", error))?;
        }
        Ok(())
    }

    /// Count a batch, from what `ctx` holds.
    pub fn update(&self, ctx: &Bound<'_, Run>, now: &Now) -> PyResult<()> {
        let py = ctx.py();
        let batch = now.get(py, Field::Batch);
        let pred = now.get(py, Field::Pred);
        let target = target_of(ctx, &batch)?;
        let size = self.count(ctx, &batch, &pred, target.as_ref())?;
        self.count_losses(ctx, now, size)?;
        self.batches.store(self.batches.load(Relaxed) + 1, Relaxed);
        if self.first.load(Relaxed) {
            self.first.store(false, Relaxed);
            ctx.call_method0(intern!(py, "_first_batch"))?;
        }
        Ok(())
    }

    /// Take the batch under way back out of the loss, and of the metrics that can do so.
    pub fn retract(&self, ctx: &Bound<'_, Run>) -> PyResult<()> {
        let py = ctx.py();
        for loss in &self.losses {
            let mean = &mut *lock(&loss.mean);
            mean.0 = mean.1;
        }
        let on_device = lock(&self.on_device)
            .as_ref()
            .map(|losses| losses.clone_ref(py));
        if let Some(losses) = on_device {
            losses.call_method0(py, intern!(py, "retract"))?;
        }
        // Never below 0: a batch is retracted at most once, after it was counted.
        self.batches.fetch_sub(1, Relaxed);
        let retract = intern!(py, "retract");
        for slot in &self.slots {
            let metric = slot.metric.bind(py);
            let done = slot
                .native
                .as_ref()
                .is_some_and(|native| native.bind(py).get().retract());
            if !done && metric.hasattr(retract)? {
                metric
                    .call_method0(retract)
                    .map_err(|error| self.noted(ctx, slot, "retract", error))?;
            }
        }
        Ok(())
    }

    /// The values so far, or those of the whole pass; none when no batch was counted.
    pub fn values(&self, ctx: &Bound<'_, Run>, whole: bool) -> PyResult<Vec<(Arc<str>, Value)>> {
        let mut values = Vec::new();
        if self.batches.load(Relaxed) == 0 {
            return Ok(values);
        }
        self.fetch_losses(ctx)?;
        for loss in &self.losses {
            values.push((Arc::clone(&loss.name), loss.value()));
        }
        for slot in &self.slots {
            values.extend(self.computed(ctx, slot, whole)?);
        }
        value::check_names(&values)?;
        Ok(values)
    }

    /// One of the values so far; the others are not computed.
    pub fn value(&self, ctx: &Bound<'_, Run>, name: &str) -> PyResult<Option<Value>> {
        if self.batches.load(Relaxed) == 0 {
            return Ok(None);
        }
        if let Some(loss) = self.losses.iter().find(|loss| &*loss.name == name) {
            self.fetch_losses(ctx)?;
            return Ok(Some(loss.value()));
        }
        // Or any one of which it is not known yet what it computes.
        let may_hold = |slot: &&Slot| match &*lock(&slot.records) {
            Some(records) => records.iter().any(|record| &**record == name),
            None => &*slot.name == name || slot.native.is_none(),
        };
        for slot in self.slots.iter().filter(may_hold) {
            let values = self.computed(ctx, slot, false)?;
            if let Some((_, value)) = values.into_iter().find(|(record, _)| &**record == name) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether a metric may turn out to compute several records, under names of its own.
    pub fn may_have_others(&self, py: Python<'_>) -> bool {
        let is_one = intern!(py, "_is_one_record");
        let is_open = |slot: &Slot| {
            let is_one = slot.metric.bind(py).getattr(is_one);
            lock(&slot.records).is_none()
                && !is_one.is_ok_and(|is_one| is_one.is_truthy().unwrap_or(false))
        };
        self.slots.iter().any(is_open)
    }

    /// The names of the values so far.
    pub fn names_so_far(&self) -> Vec<String> {
        if self.batches.load(Relaxed) == 0 {
            Vec::new()
        } else {
            self.names()
        }
    }

    /// The records of metrics that say which value is better: the lowest, `"min"`, or the highest.
    pub fn directions(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let mut known = Vec::new();
        for slot in &self.slots {
            let direction = slot.metric.bind(py).getattr_opt(intern!(py, "direction"))?;
            if let Some(direction) = direction.and_then(|direction| direction.extract().ok()) {
                known.push((slot.name.to_string(), direction));
            }
        }
        Ok(known)
    }

    /// The name under which an optimizer's loss is recorded.
    pub fn loss_name(&self, key: &str) -> Option<&str> {
        let loss = self.losses.iter().find(|loss| loss.key == key);
        loss.map(|loss| &*loss.name)
    }

    fn computed(
        &self,
        ctx: &Bound<'_, Run>,
        slot: &Slot,
        whole: bool,
    ) -> PyResult<Vec<(Arc<str>, Value)>> {
        let metric = slot.metric.bind(ctx.py());
        let native = slot
            .native
            .as_ref()
            .map(|native| native.bind(ctx.py()).get());
        let running = |is_running| {
            if let Some(native) = native {
                native.set_running(is_running);
            }
        };
        let compute = intern!(ctx.py(), "compute");
        running(!whole);
        let value = without_grad(ctx.py(), || metric.call_method0(compute));
        running(false);
        let values = value
            .and_then(|value| value::records(metric, &slot.name, &value))
            .map_err(|error| self.noted(ctx, slot, "compute", error))?;
        let names = values.iter().map(|(name, _)| Arc::clone(name)).collect();
        *lock(&slot.records) = Some(names);
        Ok(values)
    }

    /// Feed the metrics; gives the batch's size, the weight of its loss.
    fn count(
        &self,
        ctx: &Bound<'_, Run>,
        batch: &Bound<'_, PyAny>,
        pred: &Bound<'_, PyAny>,
        target: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let py = ctx.py();
        let mut size = ctx.get().state.batch_size();
        let mut counted = false;
        if let Some(target) = target {
            // Every built-in metric reads the same two views: the tensors are looked up once.
            let read = tensor::read_pair(pred, target, |pred: View<'_>, target: View<'_>| {
                let mut squeezed = None;
                size = size.or(target.shape().first().and_then(|&n| u64::try_from(n).ok()));
                for slot in &self.slots {
                    if let Some(native) = &slot.native {
                        let fit = native.bind(py).get().count(&pred, &target);
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
                    Ok(Some(native)) => native.bind(py).get().tell(py, Fit::Squeezed)?,
                    Err((slot, error)) => {
                        return Err(self.noted(ctx, slot, "update", raise(error)));
                    }
                }
            }
        }
        for slot in self
            .slots
            .iter()
            .filter(|slot| !counted || slot.native.is_none())
        {
            let update = intern!(py, "update");
            let metric = slot.metric.bind(py);
            let result = without_grad(py, || metric.call_method1(update, (pred, target)));
            result.map_err(|error| self.noted(ctx, slot, "update", error))?;
        }
        if let Some(size) = size {
            #[allow(clippy::cast_precision_loss)]
            return Ok(size as f64);
        }
        py.import(intern!(py, "lumbre.data.batch"))?
            .call_method1(intern!(py, "batch_size_of"), (batch,))?
            .extract()
    }

    fn count_losses(&self, ctx: &Bound<'_, Run>, now: &Now, weight: f64) -> PyResult<()> {
        let py = ctx.py();
        for loss in &self.losses {
            let mean = &mut *lock(&loss.mean);
            mean.1 = mean.0;
        }
        let by_name = now.get(py, Field::Losses);
        if let Ok(by_name) = by_name.cast_exact::<PyDict>() {
            for (index, loss) in self.losses.iter().enumerate() {
                if let Some(value) = by_name.get_item(&loss.key)? {
                    self.count_loss(ctx, index, &value, weight)?;
                }
            }
            return Ok(());
        }
        let value = now.get(py, Field::LossGrad);
        if value.is_none() {
            Ok(())
        } else {
            self.count_loss(ctx, 0, &value, weight)
        }
    }

    fn count_loss(
        &self,
        ctx: &Bound<'_, Run>,
        index: usize,
        value: &Bound<'_, PyAny>,
        weight: f64,
    ) -> PyResult<()> {
        let Some(loss) = self.losses.get(index) else {
            return Ok(());
        };
        let number = match tensor::read(value, |view| view.item())? {
            Some(number) => number,
            // To ask a tensor on a device for its value would be to wait for it.
            None if tensor::is_tensor(value)? => None,
            None => value.extract::<f64>().ok(),
        };
        if let Some(number) = number {
            lock(&loss.mean).0.add(number, weight);
            if number.is_finite() || !ctx.get().state.is_first_non_finite() {
                return Ok(());
            }
        } else {
            // On a device, or no plain tensor: nothing here waits for its value.
            let mut losses = lock(&self.on_device)
                .as_ref()
                .map(|losses| losses.clone_ref(py(ctx)));
            if losses.is_none() {
                let made = py(ctx)
                    .import("lumbre.metrics.losses")?
                    .call_method0("Losses")?;
                losses = Some(made.unbind());
                self.keep_on_device(losses.as_ref().map(|losses| losses.clone_ref(py(ctx))));
            }
            if let Some(losses) = losses {
                let iter = ctx.get().state.iter();
                losses
                    .bind(py(ctx))
                    .call_method1("add", (index, value, weight, iter))?;
            }
            return Ok(());
        }
        tell_non_finite(ctx, &loss.name, number.unwrap_or(f64::NAN), None)
    }

    fn keep_on_device(&self, losses: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *lock(&self.on_device), losses);
        // Dropped when the lock is not held: dropping may run Python.
        drop(before);
    }

    /// Bring what the device has summed up over to the host.
    fn fetch_losses(&self, ctx: &Bound<'_, Run>) -> PyResult<()> {
        let losses = lock(&self.on_device).take();
        let Some(losses) = losses else {
            return Ok(());
        };
        let fetched: Vec<(usize, f64, f64, u64)> =
            losses.bind(py(ctx)).call_method0("take")?.extract()?;
        for (index, mean, weight, first_bad) in fetched {
            if let Some(loss) = self.losses.get(index) {
                // To both: a batch that is retracted after this takes no others with it.
                {
                    let (now, before) = &mut *lock(&loss.mean);
                    now.add(mean, weight);
                    before.add(mean, weight);
                }
                if first_bad > 0 && ctx.get().state.is_first_non_finite() {
                    tell_non_finite(ctx, &loss.name, mean, Some(first_bad))?;
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::unused_self)]
    fn noted(&self, ctx: &Bound<'_, Run>, slot: &Slot, method: &str, error: PyErr) -> PyErr {
        let metric = slot.metric.bind(py(ctx));
        // What a function raises is its own, and so is what a torchmetric raises that a metric of
        // ours holds.
        let named = metric.getattr(intern!(py(ctx), "_noted_as"));
        if let Ok(name) = named.and_then(|name| name.extract::<String>()) {
            ctx.get().note(py(ctx), &error, &name);
            return error;
        }
        let held = metric.getattr(intern!(py(ctx), "_held"));
        let kind = held.as_ref().unwrap_or(metric).get_type();
        let kind = kind
            .name()
            .map_or_else(|_| slot.name.to_string(), |name| name.to_string());
        ctx.get().note(py(ctx), &error, &format!("{kind}.{method}"));
        error
    }
}

fn py<'py>(ctx: &Bound<'py, Run>) -> Python<'py> {
    ctx.py()
}

/// The target: the second item of a batch that is a pair; whatever `ctx.target` says of another.
fn target_of<'py>(
    ctx: &Bound<'py, Run>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let target = if let Ok(items) = batch.cast_exact::<PyList>() {
        if items.len() < 2 {
            return Ok(None);
        }
        items.get_item(1)?
    } else if let Ok(items) = batch.cast_exact::<PyTuple>() {
        if items.len() < 2 {
            return Ok(None);
        }
        items.get_item(1)?
    } else {
        ctx.getattr(intern!(ctx.py(), "target"))?
    };
    Ok((!target.is_none()).then_some(target))
}

fn tell_non_finite(
    ctx: &Bound<'_, Run>,
    name: &str,
    number: f64,
    iter: Option<u64>,
) -> PyResult<()> {
    let state = &ctx.get().state;
    let place = match iter {
        Some(iter) => format!("epoch {}, iteration {iter}", state.epoch().max(1)),
        None => state.place(),
    };
    warn(
        ctx.py(),
        warning_class(Warning::NonFiniteLoss),
        &non_finite(name, number, &place, "later ones are not reported"),
    )
}
