//! A callback that is a Python object.

use std::ptr;

use lumbre_core::Result;
use lumbre_core::callback::Callback;
use lumbre_core::flow::Flow;
use lumbre_core::hook::{HookId, HookSet};
use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::error::carry;
use crate::run::frame::{Frame, PyHost};

/// The target of one breakpoint: a function that wants `self` first, or a callable that has it.
pub struct Target {
    pub hook: HookId,
    pub function: Py<PyAny>,
    pub receiver: Option<Py<PyAny>>,
}

impl Target {
    /// Show the garbage collector what is held.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.receiver)
    }
}

/// The arm of the scheduler that calls Python.
impl Callback<PyHost> for Target {
    fn hooks(&self) -> HookSet {
        HookSet::default().with(self.hook)
    }

    fn on(&self, _: HookId, ctx: &Frame<'_>) -> Result<Flow> {
        match call(self, ctx.run.as_any()) {
            Ok(()) => Ok(Flow::Continue),
            Err(error) => Err(carry(error)),
        }
    }
}

/// One vectorcall: no tuple, no bound method.
fn call(target: &Target, ctx: &Bound<'_, PyAny>) -> PyResult<()> {
    let receiver = target.receiver.as_ref().map_or(ptr::null_mut(), Py::as_ptr);
    // The first place is the callee's to scribble on, as the flag below allows.
    let mut args = [ptr::null_mut(), receiver, ctx.as_ptr()];
    let (start, count) = if receiver.is_null() { (2, 1) } else { (1, 2) };
    // SAFETY: the interpreter is attached (`ctx` is bound). Function and arguments are alive: `target`
    // and `ctx` hold them for the whole call. `args` has `count` valid pointers from `start` on and
    // one place before them that may be written.
    let result = unsafe {
        ffi::PyObject_Vectorcall(
            target.function.as_ptr(),
            args.as_mut_ptr().add(start),
            count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        )
    };
    // SAFETY: vectorcall gives a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(ctx.py(), result) }.map(drop)
}
