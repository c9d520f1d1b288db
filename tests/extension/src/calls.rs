//! From Rust back into Python.

use lumbre_abi::pyo3::gc::{PyTraverseError, PyVisit};
use lumbre_abi::pyo3::prelude::*;
use lumbre_abi::{Ctx, Result, callback};

/// Holds a function of Python's.
pub struct Calls {
    function: Option<Py<PyAny>>,
}

/// Calls `function(ctx)` at `on_train_batch_end`: what that raises, fires or waits for happens inside
/// of a native callback.
#[callback]
impl Calls {
    pub fn new(function: Py<PyAny>) -> Self {
        Self {
            function: Some(function),
        }
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.python(|ctx| match &self.function {
            Some(function) => function.bind(ctx.py()).call1((ctx,)).map(drop),
            None => Ok(()),
        })
    }

    fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }

    fn clear(&mut self) {
        self.function = None;
    }
}
