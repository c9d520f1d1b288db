//! `_core.NativeMetric`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use lumbre_core::error::{Error, Result};
use lumbre_core::lock::lock;
use lumbre_core::metrics::{Fit, Form, MOST_THRESHOLDS, Metric, Native, Options, Setting, View};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict};

use crate::error::{exception, raise, warn};
use crate::lumbre::Class;
use crate::tensor;
use crate::value;

/// The state of a built-in metric, and how a batch is counted in.
#[pyclass(module = "lumbre._core", frozen)]
pub struct NativeMetric {
    name: String,
    options: Options,
    state: Mutex<Native>,
    told: AtomicBool,
    /// True if the last batch was counted elsewhere, by torch ops.
    is_elsewhere: AtomicBool,
    /// The width of the batches that are counted elsewhere, and what it was before the last one.
    width_elsewhere: Mutex<[usize; 2]>,
    /// True if its value is read in the middle of a pass, of which nothing is to be warned about.
    running: AtomicBool,
}

impl NativeMetric {
    /// The numbers behind the metric. Never held while Python runs.
    fn lock(&self) -> MutexGuard<'_, Native> {
        lock(&self.state)
    }

    fn lock_width_elsewhere(&self) -> MutexGuard<'_, [usize; 2]> {
        lock(&self.width_elsewhere)
    }

    /// Count a batch that is plain CPU memory.
    pub fn count(&self, preds: &View<'_>, target: &View<'_>) -> Result<Fit> {
        let fit = self.lock().update(preds, target)?;
        self.is_elsewhere.store(false, Relaxed);
        Ok(fit)
    }

    fn merged(&self, other: &Self) -> Result<()> {
        if std::ptr::eq(self, other) {
            let twin = self.lock().clone();
            return self.lock().merge(&twin);
        }
        // Two threads may merge the same two into each other: each locks them in one order.
        let (mut state, taken);
        if std::ptr::from_ref(self) < std::ptr::from_ref(other) {
            state = self.lock();
            taken = other.lock();
        } else {
            taken = other.lock();
            state = self.lock();
        }
        state.merge(&taken)
    }

    /// Say whether a pass is under way: what its first batches lack, later ones may bring.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Relaxed);
    }

    /// Warn, the first time, that shapes fit only without their dimensions of size 1.
    pub fn tell(&self, py: Python<'_>, fit: Fit) -> PyResult<()> {
        if fit == Fit::Exact || self.told.swap(true, Relaxed) {
            return Ok(());
        }
        warn(
            py,
            Class::ShapeWarning,
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
    /// The names of the metrics there are.
    #[classattr]
    const NAMES: [&str; 14] = Native::NAMES;

    #[new]
    #[pyo3(signature = (name, options=None, state=None, width=0))]
    fn new(
        name: String,
        options: Option<&Bound<'_, PyDict>>,
        state: Option<&[u8]>,
        width: usize,
    ) -> PyResult<Self> {
        let options = match options {
            Some(options) => settings(options)?,
            None => Options::default(),
        };
        let mut native = Native::new(&name, options.clone()).map_err(raise)?;
        if let Some(state) = state {
            native.load(&numbers(state)?).map_err(raise)?;
        }
        Ok(Self {
            name,
            options,
            state: Mutex::new(native),
            told: AtomicBool::new(false),
            is_elsewhere: AtomicBool::new(false),
            width_elsewhere: Mutex::new([width; 2]),
            running: AtomicBool::new(false),
        })
    }

    /// Count a batch; False, with nothing counted, when its tensors are not plain CPU memory.
    fn update(&self, preds: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> PyResult<bool> {
        let count = |preds: View<'_>, target: View<'_>| self.count(&preds, &target);
        let Some(fit) = tensor::read_pair(preds, target, count)? else {
            return Ok(false);
        };
        self.tell(preds.py(), fit.map_err(raise)?)?;
        Ok(true)
    }

    /// Say that a batch will be counted elsewhere, if its tensors are such as can be measured.
    fn leave(&self, preds: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = &self.name;
        let (p, t) = (told(name, "preds", preds)?, told(name, "target", target)?);
        let preds_form = Form::new(name, "preds", &p.0, &p.1).map_err(raise)?;
        let target_form = Form::new(name, "target", &t.0, &t.1).map_err(raise)?;
        let batch = {
            let (mut width, state) = (self.lock_width_elsewhere(), self.lock());
            let known = if width[0] > 0 {
                width[0]
            } else {
                state.width()
            };
            let batch = state
                .check(&preds_form, &target_form, known)
                .map_err(raise)?;
            *width = [known.max(batch.width), width[0]];
            batch
        };
        self.is_elsewhere.store(true, Relaxed);
        self.tell(preds.py(), batch.fit)
    }

    /// How many classes or outputs each batch has so far; 0 where that is of no concern.
    #[getter]
    fn width(&self) -> usize {
        self.lock_width_elsewhere()[0].max(self.lock().width())
    }

    /// True if the last batch was counted elsewhere.
    #[getter]
    fn is_elsewhere(&self) -> bool {
        self.is_elsewhere.load(Relaxed)
    }

    /// Take the last batch back out, once; False when it was counted elsewhere.
    pub fn retract(&self) -> bool {
        let here = !self.is_elsewhere.load(Relaxed);
        if here {
            self.lock().retract();
        } else {
            let mut width = self.lock_width_elsewhere();
            *width = [width[1]; 2];
        }
        here
    }

    /// The value over everything since the last reset; NaN when there was nothing.
    fn compute<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (value, caveat) = {
            let mut state = self.lock();
            (state.compute(), state.caveat())
        };
        if let Some(caveat) = caveat.filter(|_| !self.running.load(Relaxed)) {
            warn(py, Class::MetricWarning, &caveat)?;
        }
        value::to_python(py, &value)
    }

    /// Forget every batch.
    fn reset(&self) {
        self.lock().reset();
        *self.lock_width_elsewhere() = Default::default();
    }

    /// Take in what another metric of the same kind has seen.
    fn merge(&self, other: &Self) -> PyResult<()> {
        self.merged(other).map_err(raise)
    }

    /// All it has seen, as float64 numbers in the order of bytes that this machine has.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let state = self.lock().state();
        let bytes: Vec<u8> = state.into_iter().flat_map(f64::to_ne_bytes).collect();
        PyBytes::new(py, &bytes)
    }

    /// The score from which on one counts as class 1; None for metrics that have none.
    #[getter]
    fn cut(&self) -> Option<f64> {
        self.lock().cut()
    }

    /// The thresholds between which scores are counted; None where there are none.
    #[getter]
    fn thresholds(&self) -> Option<Vec<f64>> {
        self.lock().thresholds().map(<[f64]>::to_vec)
    }

    /// Take in what another metric has seen, from its state.
    fn add_state(&self, state: &[u8]) -> PyResult<()> {
        let state = numbers(state)?;
        let added = self.lock().add_state(&state);
        added.map_err(raise)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let options = PyDict::new(py);
        for (name, setting) in this.options.given() {
            match setting {
                Setting::Flag(flag) => options.set_item(name, flag)?,
                Setting::Number(number) => options.set_item(name, number)?,
                Setting::Text(text) => options.set_item(name, text)?,
                Setting::Numbers(numbers) => options.set_item(name, numbers)?,
            }
        }
        let width = this.lock_width_elsewhere()[0];
        let made_with = (this.name.clone(), options, this.state(py), width);
        Ok((slf.get_type().into_any(), made_with))
    }

    fn __repr__(&self) -> String {
        format!("NativeMetric({:?})", self.name)
    }
}

/// The shape and the dtype of a tensor, wherever it lies.
fn told(metric: &str, part: &str, tensor: &Bound<'_, PyAny>) -> PyResult<(Vec<i64>, String)> {
    if !tensor::is_tensor(tensor)? {
        let kind = tensor.get_type().name()?;
        let mend = match part {
            "preds" => format!(
                "Where a model gives several, a subclass says which one is measured: class \
                 First(lb.metrics.{metric}): def update(self, preds, target): \
                 super().update(preds[0], target)."
            ),
            _ => "A callback may set it when a batch begins: ctx.target = ...".into(),
        };
        let message = format!("{metric} measures tensors; {part} is {kind}. {mend}");
        return Err(exception(tensor.py(), Class::DTypeError, message));
    }
    let dtype = tensor.getattr("dtype")?.str()?.to_string();
    let dtype = dtype.trim_start_matches("torch.").into();
    Ok((tensor.getattr("shape")?.extract()?, dtype))
}

type Reduced<'py> = (
    Bound<'py, PyAny>,
    (String, Bound<'py, PyDict>, Bound<'py, PyBytes>, usize),
);

/// Options from a dict; None means that an option is not given.
fn settings(given: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut options = Options::default();
    // To ask a value for its number may run Python, which must not find the dict in use.
    let pairs: Vec<_> = given.iter().collect();
    for (name, value) in pairs {
        let setting = if value.is_none() {
            continue;
        } else if let Ok(flag) = value.cast_exact::<PyBool>() {
            Setting::Flag(flag.is_true())
        } else if let Ok(number) = value.extract::<f64>() {
            Setting::Number(number)
        } else if let Ok(text) = value.extract::<String>() {
            Setting::Text(text)
        } else if let Some(many) = value
            .len()
            .ok()
            .filter(|&count| count > MOST_THRESHOLDS as usize)
        {
            // Room is made for all of them before the first one is asked for.
            let message =
                format!("{name} holds at most {MOST_THRESHOLDS} numbers, got {many} of them");
            return Err(exception(given.py(), Class::MetricError, message));
        } else if let Ok(numbers) = value.extract::<Vec<f64>>() {
            Setting::Numbers(numbers)
        } else {
            let message = format!(
                "an option of a metric is a number, a list of numbers, a word, True or False; got {name}={}",
                value.repr()?
            );
            return Err(exception(given.py(), Class::ArgumentTypeError, message));
        };
        options = options.with(&name.extract::<String>()?, setting);
    }
    Ok(options)
}

fn numbers(state: &[u8]) -> PyResult<Vec<f64>> {
    let (numbers, rest) = state.as_chunks();
    if rest.is_empty() {
        return Ok(numbers.iter().copied().map(f64::from_ne_bytes).collect());
    }
    Err(raise(Error::Metric(format!(
        "the state of a metric is float64 numbers of 8 bytes each, got {} bytes; pass what `state` \
         returned",
        state.len()
    ))))
}
