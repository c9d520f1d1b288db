//! The run, as it is lent to a foreign callback for one call.

use std::cell::{Cell, RefCell};

use lumbre_abi::host::{self, Foreign};
use lumbre_abi::layout::{Call, Tensor, set, status, which};
use lumbre_core::callback::Context;
use lumbre_core::hook::{Hook, HookId};
use lumbre_core::records::{Set, Value};
use lumbre_core::{Error, Result};
use pyo3::prelude::*;

use crate::batch::input_and_target;
use crate::error::carry;
use crate::grad::switch_on;
use crate::lumbre;
use crate::now::Field;
use crate::run::frame::Frame;
use crate::tensor;

use super::answers::CALL;

/// The call, and what its functions work on. They are handed the address of the first field.
#[repr(C)]
pub struct Lent<'a> {
    call: Call,
    hook: HookId,
    pub frame: &'a Frame<'a>,
    /// The text that the callback gave to `fail`.
    pub message: Cell<Option<String>>,
    /// The errors on our side, for a callback that gives up for one. Kept until the call is over:
    /// to drop an exception may run Python, and views of the batch may be about.
    pub errors: RefCell<Vec<Error>>,
    /// Input, target and prediction: held as long as views of them may be.
    batch: RefCell<Option<Batch>>,
    /// Gradients were switched off for Python code, and have to be switched on again.
    pub grad: Cell<bool>,
}

/// The parts of a batch, and how each is lent once somebody has asked for a tensor.
struct Batch {
    objects: [Option<Py<PyAny>>; 3],
    lent: Option<[Option<tensor::Lent>; 3]>,
}

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

    pub fn hook(&self) -> Option<Hook> {
        self.hook.hook()
    }

    /// Python may run from here on: no view may count on what it holds.
    pub fn forget_batch(&self) {
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
            let now = &bound.now;
            let batch = now.get(py, Field::Batch);
            let (input, target) = input_and_target(run, &batch)?;
            objects[0] = some(input);
            objects[1] = some(target);
            if state.has_pred() {
                objects[2] = some(now.get(py, Field::Pred));
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

    pub fn batch_size(&self) -> PyResult<Option<u64>> {
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
        run.getattr(lumbre::Context::batch_size(py))?
            .extract()
            .map(Some)
    }

    pub fn lend(&self, which: u32) -> Result<Option<Tensor>> {
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

    pub fn set(&self, number: u32) -> Result<Set> {
        match number {
            set::CURRENT => Ok(self.frame.state().pass().unwrap_or(Set::Train)),
            set::TRAIN => Ok(Set::Train),
            set::VALID => Ok(Set::Valid),
            _ => Err(Error::Extension(format!(
                "There is no set of records number {number}: the extension needs a newer lumbre."
            ))),
        }
    }

    pub fn metric(&self, set: u32, name: &str, epoch: u64) -> Result<Option<f64>> {
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
