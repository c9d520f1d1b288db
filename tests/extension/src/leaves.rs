//! Exceptions of Python's that are left behind, and those that are under way when a callback ends.
#![allow(
    clippy::unused_self,
    reason = "hooks have the signatures that they have"
)]

use lumbre_abi::pyo3::exceptions::PyLookupError;
use lumbre_abi::pyo3::gc::{PyTraverseError, PyVisit};
use lumbre_abi::pyo3::prelude::*;
use lumbre_abi::{Ctx, callback};

/// Sets an exception and says that all is well.
pub struct Leaves {
    at: String,
}

/// Leaves a `LookupError` set at `on_fit_begin`, `on_train_batch_end`, `on_fit_end`, `save` or `load`.
#[callback]
impl Leaves {
    pub fn new(at: String) -> Self {
        Self { at }
    }

    fn on_fit_begin(&mut self) {
        self.leave_at("on_fit_begin");
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) {
        // With a view that may not outlive it.
        let input = ctx.input();
        self.leave_at("on_train_batch_end");
        drop(input);
    }

    fn on_fit_end(&mut self) {
        self.leave_at("on_fit_end");
    }

    fn save(&self) -> String {
        self.leave_at("save");
        "{}".into()
    }

    fn load(&mut self, state: &str) {
        let _ = state;
        self.leave_at("load");
    }

    fn leave_at(&self, place: &str) {
        if self.at == place {
            let error = PyLookupError::new_err(format!("left at {place}"));
            Python::attach(|py| error.restore(py));
        }
    }
}

/// Has a last word.
pub struct Parts {
    last_word: Option<Py<PyAny>>,
}

/// Calls `last_word()` when it ends; what that raises it leaves set.
#[callback]
impl Parts {
    pub fn new(last_word: Py<PyAny>) -> Self {
        Self {
            last_word: Some(last_word),
        }
    }

    fn on_fit_begin(&mut self) {}

    fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.last_word)
    }

    fn clear(&mut self) {
        self.last_word = None;
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        Python::attach(|py| {
            let said = self.last_word.as_ref().map(|word| word.bind(py).call0());
            if let Some(Err(error)) = said {
                error.restore(py);
            }
        });
    }
}
