//! The part of `_core.Run` that keeps the means of what is logged, and the rows of single steps.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use lumbre_core::lock::lock;
use lumbre_core::records::{Set, Side};
use lumbre_core::steps::Steps;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyFloat, PyList};

use super::{Binding, Run};
use crate::batch;
use crate::error::{exception, warn};
use crate::losses::Last;
use crate::lumbre::{self, Class};
use crate::means::{Cell, Logged};
use crate::now::Field;
use crate::tensor;

/// The rates of the step under way, and the norms of the gradients.
pub struct Measured {
    samples: Arc<str>,
    rates: Mutex<Vec<Rate>>,
    /// The lone optimizer that they are of, by its address; 0 when there are several.
    owner: AtomicUsize,
    /// The step for which they were noted.
    noted: AtomicU64,
    /// Nobody moves them in a batch, so that its row may read them.
    stay: AtomicBool,
    /// The mean norms of the gradients in this pass; each step counts once.
    pub norms: Logged,
    /// The values that rows have been told of as late.
    late: Mutex<Vec<Py<PyAny>>>,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            samples: "samples".into(),
            rates: Mutex::default(),
            owner: AtomicUsize::new(0),
            noted: AtomicU64::new(0),
            stay: AtomicBool::new(false),
            norms: Logged::default(),
            late: Mutex::default(),
        }
    }
}

/// A learning rate: of which optimizer, in which column, and how large it is.
struct Rate {
    optimizer: String,
    group: usize,
    column: Arc<str>,
    value: Cell,
}

#[pymethods]
impl Run {
    /// Log a value whose mean over the pass is recorded, beside the metrics.
    ///
    /// It weighs as much as the batch has samples, unless told otherwise; a batch that is skipped does
    /// not count. Outside of a batch a value without a weight is not counted, which is told once.
    #[pyo3(signature = (name, value, weight=None))]
    fn log_mean(
        slf: &Bound<'_, Self>,
        name: &str,
        value: &Bound<'_, PyAny>,
        weight: Option<f64>,
    ) -> PyResult<()> {
        let cell = if let Ok(number) = value.cast_exact::<PyFloat>() {
            Cell::Number(number.value())
        } else {
            cell_of(slf, name, value)?
        };
        slf.get().add_to_mean(slf.py(), name, cell, weight)
    }

    /// Say that the batch is evaluated once more: what is logged meanwhile is logged already.
    #[pyo3(name = "_evaluates_again")]
    fn evaluates_again(&self, again: bool) {
        self.again.store(again, Relaxed);
    }

    /// Note the learning rates that the step under way is taken with; those of one optimizer, or of all.
    #[pyo3(name = "_note_rates", signature = (name=None))]
    pub fn note_rates(slf: &Bound<'_, Self>, name: Option<&str>) -> PyResult<()> {
        let Some(bound) = slf.get().bound() else {
            return Ok(());
        };
        slf.get()
            .measured
            .noted
            .store(slf.get().state.step_count(), Relaxed);
        if refresh_rates(slf, &bound)? {
            return Ok(());
        }
        let read = read_rates(slf, &bound, name)?;
        let rates = &slf.get().measured.rates;
        let mut known = lock(rates);
        let before = if name.is_none() {
            std::mem::replace(&mut *known, read)
        } else {
            let mut before = Vec::new();
            for rate in read {
                let place = known
                    .iter_mut()
                    .find(|each| each.optimizer == rate.optimizer && each.group == rate.group);
                match place {
                    Some(place) => before.push(std::mem::replace(place, rate)),
                    None => known.push(rate),
                }
            }
            before
        };
        drop(known);
        // Dropped when the lock is not held: dropping may run Python.
        drop(before);
        slf.get()
            .measured
            .owner
            .store(lone_optimizer(slf.py(), &bound), Relaxed);
        Ok(())
    }

    /// Say that nobody moves the rates in a batch: they need not be noted before its end.
    #[pyo3(name = "_rates_stay")]
    fn rates_stay(&self, stay: bool) {
        self.measured.stay.store(stay, Relaxed);
    }

    /// Record the learning rates of the epoch, as its training begins.
    #[pyo3(name = "_record_rates")]
    fn record_rates(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.measured.norms.reset();
        let Some(bound) = this.bound() else {
            return Ok(());
        };
        for rate in read_rates(slf, &bound, None)? {
            let number = match rate.value {
                Cell::Number(number) => number,
                Cell::Late(tensor) => tensor.bind(slf.py()).extract()?,
            };
            let epoch = this.state.epoch();
            this.lock_records()
                .log_side(Side::Optimizer, epoch, &rate.column, number);
        }
        Ok(())
    }

    /// Count the norm of the gradients of a step, a number or a scalar tensor.
    #[pyo3(name = "_log_grad_norm")]
    fn log_grad_norm(slf: &Bound<'_, Self>, norm: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
        let cell = cell_of(slf, name, norm)?;
        let this = slf.get();
        let iter = this.state.iter();
        this.logs.store(true, Relaxed);
        this.measured
            .norms
            .add(slf.py(), iter, name, cell, 1.0, true)
    }

    /// Record the mean norms of the gradients, as the training of the epoch has ended.
    #[pyo3(name = "_record_norms")]
    fn record_norms(&self, py: Python<'_>) -> PyResult<()> {
        let epoch = self.state.epoch();
        for (name, mean) in self.measured.norms.values(py)? {
            self.lock_records()
                .log_side(Side::Optimizer, epoch, &name, mean);
        }
        Ok(())
    }

    /// The row of the training batch under way, by name; what lies on a device is waited for.
    #[pyo3(name = "_step_row")]
    fn step_row<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let (row, mut late) = (PyDict::new(py), Vec::new());
        let mut failed = None;
        step_values(slf, &mut |name, cell| {
            let put = match cell {
                Cell::Number(number) => row.set_item(&**name, number),
                Cell::Late(tensor) => {
                    late.push((Arc::clone(name), tensor));
                    row.set_item(&**name, f64::NAN) // its place in the row
                }
            };
            failed = failed.take().or(put.err());
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let (names, tensors): (Vec<_>, Vec<_>) = late.into_iter().unzip();
        for (name, number) in names.iter().zip(fetched(py, tensors)?) {
            row.set_item(&**name, number)?;
        }
        Ok(row)
    }

    /// The rows of single steps: the bytes of each column, numbers of 64 bits, by name.
    #[pyo3(name = "_steps")]
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        let mut records = self.lock_records();
        let size = records.steps().rows() * size_of::<f64>();
        for (name, chunks) in records.steps_mut().columns() {
            let bytes = PyByteArray::new_with(py, size, |bytes| {
                let numbers = chunks.iter().flatten();
                for (place, number) in bytes.chunks_exact_mut(size_of::<f64>()).zip(numbers) {
                    place.copy_from_slice(&number.to_ne_bytes());
                }
                Ok(())
            })?;
            columns.set_item(&**name, bytes)?;
        }
        Ok(columns)
    }

    /// Put rows, as `_steps` gives them, in the place of those there are; False when they are none.
    #[pyo3(name = "_restore_steps")]
    fn restore_steps(&self, columns: &Bound<'_, PyDict>) -> PyResult<bool> {
        let mut read = Vec::new();
        for (name, bytes) in columns {
            let bytes = bytes.extract::<Vec<u8>>()?;
            let numbers = bytes.chunks_exact(size_of::<f64>());
            let numbers = numbers.map(|part| {
                let mut number = [0; size_of::<f64>()];
                number.copy_from_slice(part);
                f64::from_ne_bytes(number)
            });
            read.push((name.extract::<String>()?.into(), numbers.collect()));
        }
        let Some(steps) = Steps::of(read) else {
            return Ok(false);
        };
        *self.lock_records().steps_mut() = steps;
        Ok(true)
    }
}

impl Run {
    /// Note the rates as a batch begins, unless nobody moves them until its end.
    pub fn note_rates_of_batch(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().measured.stay.load(Relaxed) {
            return Ok(());
        }
        Self::note_rates(slf, None)
    }

    /// Log a value whose mean over the pass is recorded.
    pub fn add_to_mean(
        &self,
        py: Python<'_>,
        name: &str,
        value: Cell,
        weight: Option<f64>,
    ) -> PyResult<()> {
        let state = &self.state;
        let Some(bound) = self.bound() else {
            return Ok(());
        };
        // What is predicted is not measured, and a batch that is evaluated again counts as it was.
        if state.predicts() || self.again.load(Relaxed) {
            return Ok(());
        }
        let Some(set) = state.pass() else {
            return tell_uncounted(py, name, &state.place());
        };
        let meter = bound.meter(set);
        if !meter.logged.knows(name) {
            bound.check_name(py, name, "log_mean")?;
        }
        if let Some(weight) = weight
            && !(weight >= 0.0 && weight.is_finite())
        {
            let message =
                format!("ctx.log_mean({name:?}, ...): weight is a number from 0; got {weight}.");
            return Err(exception(py, Class::ArgumentError, message));
        }
        if state.in_batch() {
            self.logs.store(true, Relaxed);
            if !self.is_counted() {
                meter.logged.wait(py, name, value, weight);
                return Ok(());
            }
            let weight = weight.unwrap_or_else(|| meter.weight());
            return meter
                .logged
                .add(py, state.iter(), name, value, weight, true);
        }
        // The step on what the last batches have gathered comes behind them.
        let last = meter.weight();
        let Some(weight) = weight.or_else(|| (state.in_pass() && last > 0.0).then_some(last))
        else {
            return tell_uncounted(py, name, &state.place());
        };
        meter.logged.add(py, 0, name, value, weight, false)?;
        if state.set().is_none() {
            // The pass is over, and its values may be written already.
            let epoch = state.record_epoch();
            for (known, mean) in meter.logged.values(py)? {
                if &*known == name {
                    self.lock_records().log(set, epoch, &known, mean.into());
                }
            }
        }
        Ok(())
    }

    /// The values for which a row was told that they are late.
    pub fn late_values(&self, py: Python<'_>) -> PyResult<Vec<f64>> {
        let late = std::mem::take(&mut *lock(&self.measured.late));
        fetched(py, late)
    }

    /// Tell the values of the training batch under way; those on a device are kept for later.
    pub fn tell_step(
        slf: &Bound<'_, Self>,
        tell: &mut dyn FnMut(&Arc<str>, Option<f64>),
    ) -> PyResult<()> {
        let late = &slf.get().measured.late;
        step_values(slf, &mut |name, cell| match cell {
            Cell::Number(number) => tell(name, Some(number)),
            Cell::Late(tensor) => {
                lock(late).push(tensor);
                tell(name, None);
            }
        })
    }

    /// The samples in the training batch under way. It is not counted for that: those who come later
    /// may still change what counts.
    pub fn samples(slf: &Bound<'_, Self>) -> PyResult<f64> {
        let this = slf.get();
        let Some(bound) = this.bound() else {
            return Ok(0.0);
        };
        if this.is_counted() {
            return Ok(bound.meter(Set::Train).weight());
        }
        if this.state.batch_size().is_none() {
            let batch = bound.now.get(slf.py(), Field::Batch);
            if let Ok(Some(target)) = batch::target(slf, &batch)
                && let Some(Some(size)) =
                    tensor::read(&target, |view| view.shape().first().copied())?
            {
                #[allow(clippy::cast_precision_loss)] // no batch has 2^53 samples
                return Ok(size as f64);
            }
        }
        slf.getattr(lumbre::Context::batch_size(slf.py()))?
            .extract()
    }
}

impl Binding {
    /// Refuse a name that is not for others to write.
    pub fn check_name(&self, py: Python<'_>, name: &str, method: &str) -> PyResult<()> {
        let message = if name.is_empty() {
            format!("ctx.{method}(\"\", ...): a name is a text that is not empty.")
        } else if method == "log_mean" && OF_ROWS.contains(&name) {
            format!(
                "ctx.log_mean({name:?}, ...): the run itself has a column {name:?} in the rows of \
                 StepHistory. Give the value another name."
            )
        } else if method != "log_mean"
            && Set::ALL
                .iter()
                .any(|&set| self.meter(set).logged.knows(name))
        {
            format!(
                "ctx.{method}({name:?}, ...): ctx.log_mean has logged {name:?} in this pass, and its mean \
                 is what is recorded. Give one of the two another name."
            )
        } else if Set::ALL.iter().any(|&set| self.meter(set).writes(name)) {
            format!(
                "ctx.{method}({name:?}, ...): the run itself records {name:?}, of every pass. Give the \
                 value another name."
            )
        } else {
            return Ok(());
        };
        Err(exception(py, Class::ArgumentError, message))
    }
}

fn step_values(ctx: &Bound<'_, Run>, tell: &mut dyn FnMut(&Arc<str>, Cell)) -> PyResult<()> {
    let (run, py) = (ctx.get(), ctx.py());
    let Some(bound) = run.bound() else {
        return Ok(());
    };
    let meter = bound.meter(Set::Train);
    if !run.state.batch_is_skipped() {
        run.count_due(ctx, &bound, Set::Train)?;
    }
    let samples = if run.is_counted() {
        meter.weight()
    } else {
        Run::samples(ctx)?
    };
    tell(&run.measured.samples, Cell::Number(samples));
    // A batch that was left before its loss was known has none; one that was left after it has.
    let (is_counted, has_loss) = (run.is_counted(), run.state.has_loss());
    for (key, name, last) in meter.losses.last() {
        let cell = match last {
            Last::Number(number) if is_counted => Cell::Number(number),
            Last::Nothing if is_counted => Cell::Number(f64::NAN),
            _ if !(is_counted || has_loss) => Cell::Number(f64::NAN),
            _ => match loss_of(py, &bound, key) {
                Some(loss) => cell_of(ctx, name, &loss)?,
                None => Cell::Number(f64::NAN),
            },
        };
        tell(name, cell);
    }
    if run.measured.noted.load(Relaxed) != run.state.step_count() {
        Run::note_rates(ctx, None)?; // nobody has noted them before
    }
    for rate in lock(&run.measured.rates).iter() {
        tell(&rate.column, rate.value.again(py));
    }
    run.measured.norms.of_batch(py, tell);
    meter.logged.of_batch(py, tell);
    Ok(())
}

impl Measured {
    /// Begin a batch: no norm is known of it yet.
    pub fn begin_batch(&self) {
        self.norms.begin_batch();
    }
}

impl Cell {
    fn again(&self, py: Python<'_>) -> Self {
        match self {
            Self::Number(number) => Self::Number(*number),
            Self::Late(tensor) => Self::Late(tensor.clone_ref(py)),
        }
    }
}

/// The loss of an optimizer in the batch under way.
fn loss_of<'py>(py: Python<'py>, bound: &Binding, key: &str) -> Option<Bound<'py, PyAny>> {
    let losses = bound.now.get(py, Field::Losses);
    let loss = match losses.cast_exact::<PyDict>() {
        Ok(losses) => losses.get_item(key).ok()??,
        Err(_) => bound.now.get(py, Field::LossGrad),
    };
    (!loss.is_none()).then_some(loss)
}

/// The value of a number, or of a scalar tensor; one on a device is not waited for.
fn cell_of(ctx: &Bound<'_, Run>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<Cell> {
    if let Some(Some(number)) = tensor::read(value, |view| view.item())? {
        return Ok(Cell::Number(number));
    }
    let py = ctx.py();
    let device = ctx.getattr(lumbre::Context::device(py))?;
    let plain = lumbre::loggable(py)?.call1((name, value, device))?;
    // Not the other way round: to ask a tensor for its number is to wait for it.
    if tensor::is_tensor(&plain)? {
        return Ok(Cell::Late(plain.unbind()));
    }
    Ok(Cell::Number(plain.extract()?))
}

fn fetched(py: Python<'_>, tensors: Vec<Py<PyAny>>) -> PyResult<Vec<f64>> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    lumbre::numbers_of(py)?.call1((tensors,))?.extract()
}

/// The address of the optimizer where there is but one, else 0.
fn lone_optimizer(py: Python<'_>, bound: &Binding) -> usize {
    let optimizers = bound.now.get(py, Field::Optimizers);
    match optimizers.cast_exact::<PyDict>() {
        Ok(optimizers) if optimizers.len() == 1 => {
            let first = optimizers.iter().next();
            first.map_or(0, |(_, optimizer)| optimizer.as_ptr() as usize)
        }
        _ => 0,
    }
}

/// So many groups are looked at without a list.
const FEW: usize = 8;

/// Note the rates of the lone optimizer that is known already, each in its place; false where there is
/// more to be done.
fn refresh_rates(ctx: &Bound<'_, Run>, bound: &Binding) -> PyResult<bool> {
    let (py, measured) = (ctx.py(), &ctx.get().measured);
    let owner = measured.owner.load(Relaxed);
    let optimizers = bound.now.get(py, Field::Optimizers);
    let Ok(optimizers) = optimizers.cast_exact::<PyDict>() else {
        return Ok(false);
    };
    if owner == 0 || optimizers.len() != 1 {
        return Ok(false);
    }
    let Some((_, optimizer)) = optimizers.iter().next() else {
        return Ok(false);
    };
    if optimizer.as_ptr() as usize != owner {
        return Ok(false);
    }
    let groups = optimizer.getattr(pyo3::intern!(py, "param_groups"))?;
    let Ok(groups) = groups.cast_exact::<PyList>() else {
        return Ok(false);
    };
    let (mut numbers, count) = ([0.0; FEW], groups.len());
    if count > FEW {
        return Ok(false);
    }
    for (group, number) in groups.iter().zip(&mut numbers) {
        let Ok(group) = group.cast_exact::<PyDict>() else {
            return Ok(false);
        };
        match group.get_item(pyo3::intern!(py, "lr"))? {
            Some(rate) if rate.is_exact_instance_of::<PyFloat>() => *number = rate.extract()?,
            _ => return Ok(false),
        }
    }
    let mut known = lock(&measured.rates);
    let are_numbers = |rate: &Rate| matches!(rate.value, Cell::Number(_));
    if known.len() != count || !known.iter().all(are_numbers) {
        return Ok(false);
    }
    for (rate, number) in known.iter_mut().zip(numbers) {
        rate.value = Cell::Number(number);
    }
    Ok(true)
}

/// The learning rates as they are now: of one optimizer, or of all.
fn read_rates(ctx: &Bound<'_, Run>, bound: &Binding, only: Option<&str>) -> PyResult<Vec<Rate>> {
    let py = ctx.py();
    let optimizers = bound.now.get(py, Field::Optimizers);
    let Ok(optimizers) = optimizers.cast_exact::<PyDict>() else {
        return Ok(Vec::new());
    };
    let is_alone = optimizers.len() == 1;
    let mut rates = Vec::new();
    // To ask an optimizer for its groups may run Python, which must not find the dict in use.
    let pairs: Vec<_> = optimizers.iter().collect();
    for (key, optimizer) in pairs {
        let key = key.extract::<String>()?;
        if optimizer.is_none() || only.is_some_and(|only| only != key) {
            continue;
        }
        // What calls itself an optimizer may keep its rates elsewhere, or have none: it has no column.
        let groups = optimizer.getattr_opt(pyo3::intern!(py, "param_groups"))?;
        let Some(groups) = groups.and_then(|groups| groups.cast_into::<PyList>().ok()) else {
            continue;
        };
        let count = groups.len();
        for (number, group) in groups.iter().enumerate() {
            let Ok(group) = group.cast_into::<PyDict>() else {
                continue;
            };
            let Some(rate) = group.get_item(pyo3::intern!(py, "lr"))? else {
                continue;
            };
            let value = if let Ok(rate) = rate.cast_exact::<PyFloat>() {
                Cell::Number(rate.value())
            } else if tensor::is_tensor(&rate)? {
                match cell_of(ctx, "lr", &rate) {
                    Ok(cell) => cell,
                    Err(_) => continue,
                }
            } else if let Ok(number) = rate.extract() {
                Cell::Number(number)
            } else {
                continue;
            };
            rates.push(Rate {
                column: ctx
                    .get()
                    .measured
                    .column(is_alone, &key, count, number, &group)?,
                optimizer: key.clone(),
                group: number,
                value,
            });
        }
    }
    Ok(rates)
}

impl Measured {
    /// The name of a rate's column: of a lone optimizer with one group `lr`, else behind it the
    /// optimizer's name, the group's, or both.
    fn column(
        &self,
        is_alone: bool,
        optimizer: &str,
        groups: usize,
        number: usize,
        group: &Bound<'_, PyDict>,
    ) -> PyResult<Arc<str>> {
        let known = lock(&self.rates)
            .iter()
            .find(|rate| rate.optimizer == optimizer && rate.group == number)
            .map(|rate| Arc::clone(&rate.column));
        if let Some(known) = known.filter(|_| groups == 1) {
            return Ok(known);
        }
        let mut name = "lr".to_owned();
        if !is_alone {
            name = format!("{name}_{optimizer}");
        }
        if groups > 1 {
            let given = group.get_item("name")?;
            let given = given.and_then(|given| given.extract::<String>().ok());
            name = format!("{name}_{}", given.unwrap_or_else(|| number.to_string()));
        }
        Ok(name.into())
    }
}

/// The columns of rows that nobody else writes.
const OF_ROWS: [&str; 6] = ["step", "epoch", "samples", "seconds", "lr", "grad_norm"];

/// Warn that a value counts nowhere: a model that logs may be called anywhere.
fn tell_uncounted(py: Python<'_>, name: &str, place: &str) -> PyResult<()> {
    let message = format!(
        "ctx.log_mean({name:?}, ...) is called outside of a batch ({place}), whose size would be its \
         weight, and is not counted. In a pass, say the weight: ctx.log_mean({name:?}, value, weight=1); a \
         value of the epoch is logged by ctx.log_metric({name:?}, value)."
    );
    warn(py, Class::LumbreWarning, &message)
}
