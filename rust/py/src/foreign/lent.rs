//! The run, as it is lent to a foreign callback for one call.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lumbre_abi::host::{Foreign, Trouble, lossy};
use lumbre_abi::layout::{Call, MAJOR, MINOR, Tensor, Text, answer, set, status, which};
use lumbre_core::callback::Context;
use lumbre_core::flow::{Flow, Set};
use lumbre_core::hook::{Edge, Hook, HookId, Scope};
use lumbre_core::records::Value;
use lumbre_core::{Error, Result};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::error::carry;
use crate::frame::Frame;
use crate::grad::{switch_off, switch_on};
use crate::tensor;

/// The call, and what its functions work on. They are handed the address of the first field.
#[repr(C)]
struct Lent<'a> {
    call: Call,
    hook: HookId,
    frame: &'a Frame<'a>,
    /// What the callback said with `fail`.
    message: Cell<Option<String>>,
    /// What went wrong on our side, for a callback that gives up for it.
    error: Cell<Option<Error>>,
    /// Input, target and prediction: held as long as views of them may be.
    batch: RefCell<Option<Batch>>,
    /// Gradients were switched off for Python code, and have to be switched on again.
    grad: Cell<bool>,
}

type Batch = [Option<Py<PyAny>>; 3];

/// The place of an answer that says nothing but that all went well.
const NOWHERE: *mut () = std::ptr::dangling_mut();

const CALL: Call = Call {
    abi_major: MAJOR,
    abi_minor: MINOR,
    size: size_of::<Call>(),
    hook: 0,
    training: 0,
    epoch: 0,
    iter: 0,
    step_count: 0,
    batch_size,
    loss,
    metric,
    tensor,
    log,
    stop,
    skip_batch,
    skip_epoch,
    fail,
    python,
};

/// Call a foreign callback at a breakpoint, which is `number` in the ABI.
#[inline]
pub fn call(foreign: &Foreign, number: u32, hook: HookId, frame: &Frame<'_>) -> Result<Flow> {
    let state = frame.state();
    let lent = Lent {
        call: Call {
            hook: number,
            training: state.training().into(),
            epoch: state.epoch(),
            iter: state.iter(),
            step_count: state.step_count(),
            ..CALL
        },
        hook,
        frame,
        message: Cell::new(None),
        error: Cell::new(None),
        batch: RefCell::new(None),
        grad: Cell::new(false),
    };
    // SAFETY: a whole call of this version, and its functions know that it is the head of a `Lent`.
    let status = unsafe { foreign.call((&raw const lent).cast()) };
    let outcome = match status {
        status::OK => Ok(Flow::Continue),
        // Before any more Python runs: an exception may be set.
        status => Err(lent.outcome(&foreign.name, status)),
    };
    if lent.grad.get() {
        switch_on(frame.run.py()).map_err(carry)?;
    }
    outcome
}

impl Lent<'_> {
    #[cold]
    fn outcome(&self, name: &str, status: u32) -> Error {
        // Whatever the callback says: no exception may stay set behind our back.
        let raised = PyErr::take(self.frame.run.py());
        let error = match status {
            status::PYTHON => raised.map(carry),
            status::HOST => self.error.take(),
            _ => None,
        };
        error.unwrap_or_else(|| {
            let trouble = Trouble {
                name: name.to_owned(),
                status,
                message: self.message.take(),
            };
            Error::Extension(trouble.to_string())
        })
    }

    fn hook(&self) -> Option<Hook> {
        self.hook.hook()
    }

    /// Whether the tensors of a batch are those of the batch under way.
    fn in_batch(&self) -> bool {
        self.frame.state().in_batch()
    }

    /// Whether the model has answered; before that the run still holds its last answer.
    fn has_pred(&self) -> bool {
        let begins = self.hook().map(Hook::edge);
        self.in_batch()
            && !matches!(
                begins,
                Some(Edge::Begin(
                    Scope::TrainBatch | Scope::ValidBatch | Scope::PredictBatch
                ))
            )
    }

    fn has_loss(&self) -> bool {
        let early = matches!(
            self.hook(),
            Some(
                Hook::TrainBatchAfterPred
                    | Hook::ValidBatchAfterPred
                    | Hook::PredictBatchBegin
                    | Hook::PredictBatchEnd
            )
        );
        self.has_pred() && !early
    }

    /// Python may run from here on: no view may count on what it holds.
    fn forget_batch(&self) {
        let batch = self.batch.take();
        drop(batch);
    }

    /// Input, target and prediction. Only the first time may run Python code.
    fn hold_batch(&self) -> PyResult<()> {
        if self.batch.borrow().is_some() {
            return Ok(());
        }
        let mut batch: Batch = [None, None, None];
        let (run, py) = (self.frame.run, self.frame.run.py());
        if let Some(bound) = run.get().bound().filter(|_| self.in_batch()) {
            let now = bound.now.bind(py);
            let items = now.getattr(intern!(py, "batch"))?;
            let (input, target) = input_and_target(run, &items)?;
            batch[0] = some(input);
            batch[1] = target.and_then(some);
            if self.has_pred() {
                batch[2] = some(now.getattr(intern!(py, "pred"))?);
            }
        }
        *self.batch.borrow_mut() = Some(batch);
        Ok(())
    }

    /// One of them.
    fn held<'py>(&self, py: Python<'py>, which: u32) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.hold_batch()?;
        let batch = self.batch.borrow();
        let place = match which {
            which::INPUT => 0,
            which::TARGET => 1,
            which::PRED => 2,
            _ => return Ok(None),
        };
        let object = batch.as_ref().and_then(|batch| batch[place].as_ref());
        Ok(object.map(|object| object.bind(py).clone()))
    }

    fn batch_size(&self) -> PyResult<Option<u64>> {
        let (run, py) = (self.frame.run, self.frame.run.py());
        if !self.in_batch() {
            return Ok(None);
        }
        if let Some(size) = self.frame.state().batch_size() {
            return Ok(Some(size));
        }
        let first = match self.held(py, which::TARGET)? {
            Some(target) => Some(target),
            None => self.held(py, which::INPUT)?,
        };
        if let Some(first) = first {
            let read = tensor::read(&first, |view| view.shape().first().copied())?;
            if let Some(Some(size)) = read {
                return Ok(u64::try_from(size).ok());
            }
        }
        run.getattr(intern!(py, "batch_size"))?.extract().map(Some)
    }

    fn lend(&self, which: u32) -> Result<Option<Tensor>> {
        let object = self.held(self.frame.run.py(), which).map_err(carry)?;
        let Some(object) = object else {
            return Ok(None);
        };
        match tensor::lend(&object).map_err(carry)? {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(not_lent(which, &object)),
        }
    }

    fn set(&self, number: u32) -> Result<Set> {
        match number {
            set::CURRENT => Ok(self.frame.state().pass().unwrap_or(Set::Train)),
            set::TRAIN => Ok(Set::Train),
            set::VALID => Ok(Set::Valid),
            _ => Err(Error::Extension(format!(
                "There is no set of records number {number}: the extension needs a newer lumbre."
            ))),
        }
    }

    fn metric(&self, set: u32, name: &str, epoch: u64) -> Result<Option<f64>> {
        let epoch = (epoch > 0).then_some(epoch);
        match self.frame.metric(self.set(set)?, name, epoch)? {
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(Value::Array { shape, .. }) => Err(Error::Extension(format!(
                "The metric {name:?} is an array of shape {shape:?}, and a callback in Rust is given \
                 numbers. Log a number of it: ctx.log_metric(\"name\", value.mean())."
            ))),
            None => Ok(None),
        }
    }
}

#[cold]
fn not_lent(which: u32, object: &Bound<'_, PyAny>) -> Error {
    let name = match which {
        which::INPUT => "input",
        which::TARGET => "target",
        _ => "prediction",
    };
    Error::Extension(format!(
        "The {name} cannot be lent to a callback in Rust: it is {}. Plain tensors in the CPU's memory \
         can; the others are reached through `Ctx::python`.",
        tensor::describe(object)
    ))
}

fn some(object: Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    (!object.is_none()).then(|| object.unbind())
}

/// As `ctx.input` and `ctx.target` have it, without asking these for the usual kinds of batches.
fn input_and_target<'py>(
    ctx: &Bound<'py, crate::run::Run>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    if let Ok(items) = batch.cast_exact::<PyTuple>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, Some(items.get_item(1)?)));
    }
    if let Ok(items) = batch.cast_exact::<PyList>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, Some(items.get_item(1)?)));
    }
    let input = ctx.getattr(intern!(ctx.py(), "input"))?;
    Ok((input, Some(ctx.getattr(intern!(ctx.py(), "target"))?)))
}

/// Answer a foreign callback: what goes wrong is kept for it, and no panic crosses the border.
///
/// # Safety
/// The call must be one that [`call`] lends, and `place` writable.
unsafe fn give<T>(
    call: *const Call,
    place: *mut T,
    ask: impl FnOnce(&Lent<'_>) -> Result<Option<T>>,
) -> u32 {
    // SAFETY: as the caller says.
    let lent = unsafe { &*call.cast::<Lent<'_>>() };
    let asked = catch_unwind(AssertUnwindSafe(|| ask(lent)));
    match asked {
        Ok(Ok(Some(value))) => {
            // SAFETY: as the caller says.
            unsafe { place.write(value) };
            answer::GIVEN
        }
        Ok(Ok(None)) => answer::NONE,
        Ok(Err(error)) => {
            lent.error.set(Some(error));
            answer::FAILED
        }
        Err(_) => answer::FAILED,
    }
}

unsafe extern "C" fn batch_size(call: *const Call, value: *mut u64) -> u32 {
    // SAFETY: the call is ours, as every callback has to hand back what it was lent; the place is the
    // callback's own. So below.
    unsafe {
        give(call, value, |lent| {
            lent.forget_batch();
            lent.batch_size().map_err(carry)
        })
    }
}

unsafe extern "C" fn loss(call: *const Call, value: *mut f64) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe {
        give(call, value, |lent| {
            lent.forget_batch();
            if lent.has_loss() {
                lent.frame.loss()
            } else {
                Ok(None)
            }
        })
    }
}

unsafe extern "C" fn metric(
    call: *const Call,
    set: u32,
    name: Text,
    epoch: u64,
    value: *mut f64,
) -> u32 {
    // SAFETY: as in `batch_size`; the name is there until we return.
    unsafe {
        let name = lossy(name);
        give(call, value, |lent| {
            lent.forget_batch();
            lent.metric(set, &name, epoch)
        })
    }
}

unsafe extern "C" fn tensor(call: *const Call, which: u32, tensor: *mut Tensor) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe { give(call, tensor, |lent| lent.lend(which)) }
}

unsafe extern "C" fn log(call: *const Call, set: u32, name: Text, value: f64) -> u32 {
    // SAFETY: as in `metric`.
    unsafe {
        let name: Arc<str> = lossy(name).into();
        give(call, NOWHERE, |lent| {
            let (set, epoch) = (lent.set(set)?, lent.frame.state().epoch());
            let log = |records: &mut lumbre_core::records::Records| {
                records.log(set, epoch, &name, value.into());
            };
            lent.frame.records(log);
            Ok(Some(()))
        })
    }
}

unsafe extern "C" fn stop(call: *const Call, reason: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let reason = lossy(reason);
        wish(call, |lent| lent.frame.run.get().stop(&reason));
    }
}

unsafe extern "C" fn skip_batch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe {
        wish(call, |lent| {
            if let Err(error) = lent.frame.run.get().skip_batch(lent.frame.run.py()) {
                lent.error.set(Some(carry(error)));
            }
        });
    }
}

unsafe extern "C" fn skip_epoch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe { wish(call, |lent| lent.frame.run.get().skip_epoch()) }
}

unsafe extern "C" fn fail(call: *const Call, message: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let message = lossy(message);
        wish(call, |lent| lent.message.set(Some(message)));
    }
}

unsafe extern "C" fn python(call: *const Call) -> *mut c_void {
    let mut ctx = std::ptr::null_mut();
    // SAFETY: as in `batch_size`; the run lives as long as the call.
    unsafe {
        give(call, &raw mut ctx, |lent| {
            lent.forget_batch();
            let wants_grad = lent.hook().is_some_and(Hook::has_grad);
            if !wants_grad && !lent.grad.get() {
                let was_on = switch_off(lent.frame.run.py()).map_err(carry)?;
                lent.grad.set(was_on);
            }
            Ok(Some(lent.frame.run.as_ptr().cast()))
        });
    }
    ctx
}

/// # Safety
/// As of [`give`].
unsafe fn wish(call: *const Call, record: impl FnOnce(&Lent<'_>)) {
    // SAFETY: as the caller says; there is no place to write to.
    unsafe {
        give(call, NOWHERE, |lent| {
            record(lent);
            Ok(Some(()))
        });
    }
}
