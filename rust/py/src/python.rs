//! A callback that is a Python object.

use std::ptr;
use std::sync::Arc;

use lumbre_core::Result;
use lumbre_core::callback::Callback;
use lumbre_core::flow::Flow;
use lumbre_core::hook::{HookId, HookSet};
use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::error::carry;
use crate::frame::{Frame, PyHost};

/// What is called at one breakpoint: a function that wants `self` first, or a callable that has it.
struct Target {
    function: Py<PyAny>,
    receiver: Option<Py<PyAny>>,
}

/// The functions of one callback, by breakpoint.
#[derive(Default)]
pub struct Targets {
    hooks: HookSet,
    by_hook: Vec<Option<Target>>,
}

impl Targets {
    /// Call `function(receiver, ctx)` at the breakpoint, or `function(ctx)` without a receiver.
    pub fn add(&mut self, hook: HookId, function: Py<PyAny>, receiver: Option<Py<PyAny>>) {
        self.hooks = self.hooks.with(hook);
        if self.by_hook.len() <= hook.index() {
            self.by_hook.resize_with(hook.index() + 1, || None);
        }
        self.by_hook[hook.index()] = Some(Target { function, receiver });
    }

    /// The breakpoints it has a function for.
    pub fn hooks(&self) -> HookSet {
        self.hooks
    }

    /// Show the garbage collector what is held.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        for target in self.by_hook.iter().flatten() {
            visit.call(&target.function)?;
            visit.call(&target.receiver)?;
        }
        Ok(())
    }
}

/// The arm of the scheduler that calls Python.
pub struct PythonCallback(pub Arc<Targets>);

impl Callback<PyHost> for PythonCallback {
    fn hooks(&self) -> HookSet {
        self.0.hooks
    }

    fn on(&self, hook: HookId, ctx: &Frame<'_>) -> Result<Flow> {
        if let Some(Some(target)) = self.0.by_hook.get(hook.index()) {
            call(target, ctx.run.as_any()).map_err(carry)?;
        }
        Ok(Flow::Continue)
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
