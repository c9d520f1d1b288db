//! The run, as it is lent to a foreign callback for one call.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lumbre_abi::host::{self, Foreign, lossy};
use lumbre_abi::layout::{Call, MAJOR, MINOR, Tensor, Text, answer, set, status, which};
use lumbre_core::callback::Context;
use lumbre_core::flow::Set;
use lumbre_core::hook::{Hook, HookId};
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
    /// What went wrong on our side, for a callback that gives up for it. Kept until the call is over:
    /// to drop an exception may run Python, and views of the batch may be about.
    errors: RefCell<Vec<Error>>,
    /// Input, target and prediction: held as long as views of them may be.
    batch: RefCell<Option<Batch>>,
    /// Gradients were switched off for Python code, and have to be switched on again.
    grad: Cell<bool>,
}

/// What a batch has, and how it is lent once somebody has asked for a tensor.
struct Batch {
    objects: [Option<Py<PyAny>>; 3],
    lent: Option<[Option<tensor::Lent>; 3]>,
}

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
pub fn call(
    foreign: &Foreign,
    number: u32,
    hook: HookId,
    frame: &Frame<'_>,
) -> std::result::Result<(), Trouble> {
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
        errors: RefCell::new(Vec::new()),
        batch: RefCell::new(None),
        grad: Cell::new(false),
    };
    // SAFETY: a whole call of this version, and its functions know that it is the head of a `Lent`.
    let status = unsafe { foreign.call((&raw const lent).cast()) };
    let py = frame.run.py();
    // Before any more Python runs: an exception may be set, whatever the callback says.
    let raised = PyErr::occurred(py).then(|| PyErr::take(py)).flatten();
    if lent.grad.get() {
        switch_on(py).map_err(|error| Trouble::Error(carry(error)))?;
    }
    match (status, raised) {
        (status::OK, None) => Ok(()),
        (status, raised) => Err(lent.trouble(&foreign.name, status, raised)),
    }
}

/// Why a call came to nothing.
pub enum Trouble {
    /// It panicked just now.
    Panicked(Error),
    /// It panicked earlier, and does nothing any more.
    Broken(Error),
    /// Anything else.
    Error(Error),
}

impl Lent<'_> {
    #[cold]
    fn trouble(&self, name: &str, status: u32, raised: Option<PyErr>) -> Trouble {
        let told = || {
            let trouble = host::Trouble {
                name: name.to_owned(),
                status,
                message: self.message.take(),
            };
            Error::Extension(trouble.to_string())
        };
        match (status, raised) {
            (status::PANICKED, _) => Trouble::Panicked(told()),
            (status::BROKEN, _) => Trouble::Broken(told()),
            (status::OK | status::PYTHON, Some(error)) => Trouble::Error(carry(error)),
            (status::HOST.., _) => {
                let number = usize::try_from(status - status::HOST).unwrap_or(usize::MAX);
                let mut errors = self.errors.borrow_mut();
                let kept = (number < errors.len()).then(|| errors.swap_remove(number));
                Trouble::Error(kept.unwrap_or_else(told))
            }
            _ => Trouble::Error(told()),
        }
    }

    fn hook(&self) -> Option<Hook> {
        self.hook.hook()
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
        let mut objects = [None, None, None];
        let (run, py) = (self.frame.run, self.frame.run.py());
        let state = self.frame.state();
        if let Some(bound) = run.get().bound().filter(|_| state.in_batch()) {
            let now = bound.now.bind(py);
            let batch = now.getattr(intern!(py, "batch"))?;
            let (input, target) = input_and_target(run, &batch)?;
            objects[0] = some(input);
            objects[1] = some(target);
            if state.has_pred() {
                objects[2] = some(now.getattr(intern!(py, "pred"))?);
            }
        }
        let lent = None;
        *self.batch.borrow_mut() = Some(Batch { objects, lent });
        Ok(())
    }

    /// How the three are lent. Only the first time may run Python code.
    fn lend_batch(&self) -> PyResult<()> {
        self.hold_batch()?;
        let objects = match self.batch.borrow().as_ref() {
            Some(Batch {
                objects,
                lent: None,
            }) => {
                let py = self.frame.run.py();
                objects
                    .each_ref()
                    .map(|each| each.as_ref().map(|each| each.clone_ref(py)))
            }
            _ => return Ok(()),
        };
        let lent = tensor::lend(self.frame.run.py(), &objects)?;
        if let Some(batch) = self.batch.borrow_mut().as_mut() {
            batch.lent = Some(lent);
        }
        Ok(())
    }

    fn batch_size(&self) -> PyResult<Option<u64>> {
        let (run, py) = (self.frame.run, self.frame.run.py());
        if !self.frame.state().in_batch() {
            return Ok(None);
        }
        if let Some(size) = self.frame.state().batch_size() {
            return Ok(Some(size));
        }
        self.hold_batch()?;
        let first = self.batch.borrow().as_ref().and_then(|batch| {
            let [input, target, _] = &batch.objects;
            target
                .as_ref()
                .or(input.as_ref())
                .map(|first| first.clone_ref(py))
        });
        if let Some(first) = first {
            let read = tensor::read(first.bind(py), |view| view.shape().first().copied())?;
            if let Some(Some(size)) = read {
                return Ok(u64::try_from(size).ok());
            }
        }
        run.getattr(intern!(py, "batch_size"))?.extract().map(Some)
    }

    fn lend(&self, which: u32) -> Result<Option<Tensor>> {
        let (place, name) = match which {
            which::INPUT => (0, "input"),
            which::TARGET => (1, "target"),
            which::PRED => (2, "prediction"),
            _ => return Ok(None),
        };
        self.lend_batch().map_err(carry)?;
        let batch = self.batch.borrow();
        let lent = batch.as_ref().and_then(|batch| batch.lent.as_ref());
        match lent.and_then(|lent| lent[place].as_ref()) {
            None => Ok(None),
            Some(Ok(tensor)) => Ok(Some(*tensor)),
            Some(Err(what)) => Err(Error::Extension(format!(
                "The {name} cannot be lent to a callback in Rust: it is {what}. Plain tensors in the \
                 CPU's memory can; the others are reached through `Ctx::python`."
            ))),
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

fn some(object: Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    (!object.is_none()).then(|| object.unbind())
}

/// As `ctx.input` and `ctx.target` have it, without asking these for the usual kinds of batches.
fn input_and_target<'py>(
    ctx: &Bound<'py, crate::run::Run>,
    batch: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(items) = batch.cast_exact::<PyTuple>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, items.get_item(1)?));
    }
    if let Ok(items) = batch.cast_exact::<PyList>()
        && items.len() > 1
    {
        return Ok((items.get_item(0)?, items.get_item(1)?));
    }
    let input = ctx.getattr(intern!(ctx.py(), "input"))?;
    Ok((input, ctx.getattr(intern!(ctx.py(), "target"))?))
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
            let mut errors = lent.errors.borrow_mut();
            errors.push(error);
            u32::try_from(errors.len() - 1).map_or(answer::FAILED, |n| answer::FAILED + n)
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
            if lent.frame.state().has_loss() {
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
        give(call, NOWHERE, |lent| {
            let run = lent.frame.run;
            run.get().skip_batch(run.py()).map(Some).map_err(carry)
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
