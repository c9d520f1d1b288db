//! `_core.Run`.

mod attributes;
pub mod flow;
pub mod frame;
mod records;
mod resume;
mod steps;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use lumbre_core::flow::State;
use lumbre_core::hook::{Edge, Hook, HookId, HookSet, Scope};
use lumbre_core::lock::lock;
use lumbre_core::records::{Records, Set};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::batch;
use crate::error::{Failed, exception, raise};
use crate::grad::without_grad;
use crate::lumbre::{Class, Context};
use crate::meter::Meter;
use crate::names::Names;
use crate::now::{Field, Now};

use frame::{Frame, PyHost};

/// The compiled plan.
pub type Plan = lumbre_core::schedule::Schedule<PyHost>;

/// All that a run is given once, when it starts.
pub struct Binding {
    pub plan: Arc<Plan>,
    /// The object that holds the plan, for the garbage collector.
    pub schedule: Py<PyAny>,
    pub meters: [Py<Meter>; 2],
    /// Where Python is called: gradients are switched off for it.
    pub python: HookSet,
    /// The tensors of the batch under way.
    pub now: Now,
    /// Draws the progress, when the native clock says that it is time.
    pub draw: Option<Py<PyAny>>,
}

impl Binding {
    /// The loss and metrics of a set.
    pub fn meter(&self, set: Set) -> &Meter {
        self.meters[set as usize].get()
    }

    /// Call everybody who is due at a breakpoint, in order.
    fn fire(&self, hook: HookId, ctx: &Bound<'_, Run>) -> Result<(), Failed> {
        let fired = self.plan.fire(hook, &ctx.get().state, &Frame { run: ctx });
        fired.map_err(|error| {
            let hook = self.plan.hook_name(hook);
            let who = self.plan.failed().map(|name| format!("{name}.{hook}"));
            Failed {
                error: raise(error),
                who: who.or_else(|| Some(hook.to_owned())),
            }
        })
    }
}

/// The part of `ctx` that lives in Rust: counters, wishes, open scopes, records, the schedule.
#[pyclass(module = "lumbre._core", subclass, frozen)]
#[derive(Default)]
pub struct Run {
    pub state: State,
    pub records: Mutex<Records>,
    used: AtomicU64,
    names: OnceLock<Arc<Names>>,
    binding: Mutex<Option<Arc<Binding>>>,
    /// The `once` that were used up by the time the plan was let go.
    used_once: Mutex<Vec<(String, String)>>,
    /// The batch was counted.
    counted: AtomicBool,
    /// The batch is to be counted when its `_end` is over, or when somebody asks for the values.
    due: AtomicBool,
    /// The progress is to be drawn when the breakpoint is over.
    draw: AtomicBool,
    /// The address of the last exception that was given its note: it gets one only.
    noted: AtomicUsize,
    /// Something was logged of the batch under way.
    logs: AtomicBool,
    measured: steps::Measured,
    /// The batch under way is evaluated once more, by an optimizer that asks for that.
    again: AtomicBool,
    /// The user writes the loop: which passes there will be is not known, nor what a batch gives.
    own_loop: AtomicBool,
}

impl Run {
    /// Begin a batch of the pass; gives whether the one before was to be left.
    pub fn next_batch(&self) -> bool {
        self.noted.store(0, Relaxed);
        self.state.next_batch()
    }

    fn hook_named(&self, name: &Bound<'_, PyAny>) -> PyResult<HookId> {
        let found = self.names.get().and_then(|names| names.find(name));
        found.ok_or_else(|| unknown_hook(self, name))
    }

    /// Let the step see at a glance whether the batch is to be left out.
    fn show_skipped(&self, py: Python<'_>, skipped: bool) {
        if let Some(bound) = self.bound() {
            bound.now.set_flag(py, Field::Skipped, skipped);
        }
    }

    /// True if the user writes the loop.
    pub fn own_loop(&self) -> bool {
        self.own_loop.load(Relaxed)
    }

    /// The binding that the run was given; `None` before it starts and after it ends.
    pub fn bound(&self) -> Option<Arc<Binding>> {
        lock(&self.binding).clone()
    }

    /// The batch under way is to be counted when its `_end` is over, if nobody skips it by then.
    pub fn count_later(&self) {
        self.due.store(true, Relaxed);
    }

    /// True if the batch under way is in the loss and the metrics.
    fn is_counted(&self) -> bool {
        self.counted.load(Relaxed)
    }

    /// Let go of what was logged of the batch before.
    fn begin_batch(&self, hook: Hook) {
        let Some(bound) = self.bound() else { return };
        self.measured.begin_batch();
        let set = match hook.edge() {
            Edge::Begin(Scope::TrainBatch) => Set::Train,
            _ => Set::Valid,
        };
        bound.meter(set).logged.begin_batch();
    }

    /// Count the batch if it is due.
    fn count_due(&self, ctx: &Bound<'_, Self>, bound: &Binding, set: Set) -> PyResult<()> {
        if take(&self.due) {
            self.count(ctx, bound, set)
        } else {
            Ok(())
        }
    }

    /// The progress is to be drawn when the breakpoint is over and the batch is counted.
    pub fn draw_later(&self) {
        self.draw.store(true, Relaxed);
    }

    fn draw_due(&self, ctx: &Bound<'_, Self>, bound: &Binding) -> PyResult<()> {
        if !take(&self.draw) {
            return Ok(());
        }
        match &bound.draw {
            Some(draw) => without_grad(ctx.py(), || draw.bind(ctx.py()).call1((ctx,)).map(drop)),
            None => Ok(()),
        }
    }

    /// A batch that is left early has no prediction or no loss: those that are there are of an earlier
    /// one.
    fn forget_batch_before(&self, py: Python<'_>, bound: &Binding) {
        if !self.state.has_pred() {
            bound.now.clear(py, Field::Pred);
        }
        if !self.state.has_loss() {
            bound.now.clear(py, Field::LossGrad);
        }
    }

    /// Feed the batch under way to a set's meter, unless that has been done by hand.
    fn count(&self, ctx: &Bound<'_, Self>, bound: &Binding, set: Set) -> PyResult<()> {
        if self.counted.load(Relaxed) {
            return Ok(());
        }
        if self.own_loop() && is_bare(ctx.py(), &bound.now) {
            let logged = &bound.meter(set).logged;
            if !logged.is_waiting() {
                return Ok(()); // nothing was said of this batch
            }
            let weight = ctx.getattr(Context::batch_size(ctx.py()))?.extract()?;
            return logged.count(ctx.py(), self.state.iter(), weight);
        }
        self.counted.store(true, Relaxed);
        let (py, now) = (ctx.py(), &bound.now);
        let batch = now.get(py, Field::Batch);
        let target = batch::target(ctx, &batch)?;
        let meter = bound.meter(set);
        let counted = meter.update(&self.state, now, &batch, target.as_ref());
        if self.noted(py, counted)? {
            ctx.call_method0(Context::first_batch(py))?;
        }
        Ok(())
    }

    /// Say on what has failed where that was.
    pub fn noted<T>(&self, py: Python<'_>, result: Result<T, Failed>) -> PyResult<T> {
        result.map_err(|failed| {
            if let Some(who) = failed.who {
                self.note(py, &failed.error, &who);
            }
            failed.error
        })
    }

    /// Say on an exception where it was raised, once.
    pub fn note(&self, py: Python<'_>, error: &PyErr, who: &str) {
        let value = error.value(py);
        if self.noted.swap(value.as_ptr() as usize, Relaxed) != value.as_ptr() as usize {
            let note = format!("in {who}: {}", self.state.place());
            // A class that refuses notes still leaves as itself.
            drop(value.call_method1("add_note", (note,)));
        }
    }

    fn fire(&self, ctx: &Bound<'_, Self>, bound: &Binding, hook: HookId) -> PyResult<()> {
        let has_grad = hook.hook().is_some_and(Hook::has_grad);
        if has_grad || !bound.python.contains(hook) {
            return self.noted(ctx.py(), bound.fire(hook, ctx));
        }
        without_grad(ctx.py(), || self.noted(ctx.py(), bound.fire(hook, ctx)))
    }

    /// Give the run its plan and its meters; once.
    pub fn begin(
        &self,
        names: Arc<Names>,
        used: u64,
        own_loop: bool,
        binding: Binding,
    ) -> PyResult<()> {
        self.own_loop.store(own_loop, Relaxed);
        self.names
            .set(names)
            .map_err(|_| PyValueError::new_err("a run is bound once"))?;
        self.used.store(used, Relaxed);
        *lock(&self.binding) = Some(Arc::new(binding));
        Ok(())
    }
}

#[pymethods]
impl Run {
    #[new]
    #[pyo3(signature = (*_args, **_options))]
    fn new(_args: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            state: State::new(0),
            ..Self::default()
        }
    }

    /// Let go of the plan, the callbacks and the meters.
    #[pyo3(name = "_unbind")]
    fn unbind(&self) {
        let used_once = self.used_once();
        *lock(&self.used_once) = used_once;
        self.used.store(0, Relaxed);
        let binding = lock(&self.binding).take();
        // Dropped when no lock is held: dropping may run Python.
        drop(binding);
    }

    /// Reach a breakpoint: everybody who is due there is called, in order.
    ///
    /// Returns:
    ///     True if the batch under way is to be left.
    #[inline]
    fn call_callbacks(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let this = slf.get();
        let id = this.hook_named(name)?;
        if let Some(hook) = id.hook() {
            this.state.enter(hook);
            if begins_batch(hook) {
                this.counted.store(false, Relaxed);
                this.due.store(false, Relaxed);
                if take(&this.logs) {
                    this.begin_batch(hook);
                }
            }
        }
        if this.used.load(Relaxed) >> id.index() & 1 == 0 {
            return Ok(this.state.batch_is_skipped());
        }
        let Some(bound) = this.bound() else {
            return Ok(this.state.batch_is_skipped());
        };
        this.fire(slf, &bound, id)?;
        let skipped = this.state.batch_is_skipped();
        if skipped {
            this.forget_batch_before(slf.py(), &bound);
        }
        if let Some(set) = batch_end_of(id) {
            if !skipped {
                this.count_due(slf, &bound, set)?;
            } else if this.counted.load(Relaxed) {
                let iter = this.state.iter();
                this.noted(slf.py(), bound.meter(set).retract(slf.py(), iter))?;
            }
            this.due.store(false, Relaxed);
        }
        this.draw_due(slf, &bound)?;
        Ok(skipped)
    }

    /// True if anybody is called at a breakpoint.
    #[pyo3(name = "_is_used")]
    fn is_used(&self, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let id = self.hook_named(name)?;
        Ok(self.used.load(Relaxed) >> id.index() & 1 == 1)
    }

    /// Count predictions, target and loss of the batch under way into the loss and the metrics.
    fn record(
        slf: &Bound<'_, Self>,
        pred: &Bound<'_, PyAny>,
        target: &Bound<'_, PyAny>,
        loss: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let this = slf.get();
        let Some(set) = this.state.pass() else {
            return Err(exception(slf.py(), Class::ContextError, of_no_pass(this)));
        };
        slf.setattr(Context::pred(slf.py()), pred)?;
        slf.setattr(Context::target(slf.py()), target)?;
        slf.setattr(Context::loss(slf.py()), loss)?;
        this.counted.store(false, Relaxed);
        match this.bound() {
            Some(bound) => this.count(slf, &bound, set),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(binding) = self.binding.try_lock()
            && let Some(binding) = binding.as_ref()
            // The plan is shared only while a breakpoint is under way, and the caller holds it then.
            && Arc::strong_count(binding) == 1
        {
            visit.call(&binding.schedule)?;
            visit.call(&binding.meters[0])?;
            visit.call(&binding.meters[1])?;
            binding.now.traverse(&visit)?;
            visit.call(&binding.draw)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.unbind();
    }
}

/// True if a batch has neither a prediction nor a loss.
fn is_bare(py: Python<'_>, now: &Now) -> bool {
    let said = [Field::Pred, Field::LossGrad, Field::Losses];
    said.iter().all(|&slot| now.get(py, slot).is_none())
}

/// True if a flag was set; it is not any more. One thread writes: no exchange is needed.
fn take(flag: &AtomicBool) -> bool {
    let was = flag.load(Relaxed);
    if was {
        flag.store(false, Relaxed);
    }
    was
}

fn begins_batch(hook: Hook) -> bool {
    matches!(
        hook.edge(),
        Edge::Begin(Scope::TrainBatch | Scope::ValidBatch)
    )
}

/// The set whose batch ends at a breakpoint.
fn batch_end_of(hook: HookId) -> Option<Set> {
    match hook.hook().map(Hook::edge) {
        Some(Edge::End(Scope::TrainBatch)) => Some(Set::Train),
        Some(Edge::End(Scope::ValidBatch)) => Some(Set::Valid),
        _ => None,
    }
}

fn of_no_pass(run: &Run) -> String {
    format!(
        "ctx.record(...) counts in a training or validation pass, and none is under way ({}). Call it \
         inside of `for batch in ctx.train(loader): ...`.",
        run.state.place()
    )
}

fn unknown_hook(run: &Run, name: &Bound<'_, PyAny>) -> PyErr {
    let name = name.to_string();
    let Some(names) = run.names.get() else {
        return PyValueError::new_err(format!("{name} was fired, but the run has not begun."));
    };
    let near = lumbre_core::spelling::nearest(&name, names.all().iter().map(String::as_str));
    let hint = near.map_or_else(
        || "A callback class declares its own in `breakpoints = (...)`.".to_owned(),
        |near| format!("Did you mean \"{near}\"?"),
    );
    raise(lumbre_core::Error::Hook(format!(
        "\"{name}\" is no breakpoint of this run. {hint}"
    )))
}
