//! From Rust back into Python.

use lumbre_abi::pyo3::prelude::*;
use lumbre_abi::{Ctx, Result, callback};

/// Holds a function of Python's.
pub struct Calls {
    function: Py<PyAny>,
}

/// Calls `function(ctx)` at `on_train_batch_end`: what that raises, fires or waits for happens inside
/// of a native callback.
#[callback]
impl Calls {
    pub fn new(function: Py<PyAny>) -> Self {
        Self { function }
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.python(|ctx| self.function.bind(ctx.py()).call1((ctx,)).map(drop))
    }
}
