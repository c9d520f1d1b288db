//! Write a callback for [lumbre](https://pypi.org/project/lumbre), the training library for `PyTorch`, in
//! Rust, and ship it as a Python wheel of its own.
//!
//! A callback is a struct and one `impl` block under [`macro@callback`]. Methods named like
//! breakpoints are called there; no others cost anything.
//!
//! ```
//! use lumbre_abi::{Ctx, Result, callback};
//!
//! pub struct Explosion {
//!     factor: f64,
//!     smallest: f64,
//! }
//!
//! /// Ends the run when the loss has grown far beyond the smallest one.
//! #[callback(weight = 10)]
//! impl Explosion {
//!     #[defaults(factor = 100.0)]
//!     pub fn new(factor: f64) -> Self {
//!         Self { factor, smallest: f64::INFINITY }
//!     }
//!
//!     fn on_train_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
//!         let Some(loss) = ctx.loss()? else { return Ok(()) };
//!         self.smallest = self.smallest.min(loss);
//!         if loss > self.factor * self.smallest {
//!             ctx.stop(format!("the loss is {loss}, the smallest was {}", self.smallest));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! use lumbre_abi::{Hook, testing::{Mounted, Run}};
//!
//! let mut run = Run::new();
//! let explosion = Mounted::new(Explosion::new(100.0));
//! for loss in [1.0, 50.0, 101.0] {
//!     run.loss = Some(loss);
//!     run.fire(&explosion, Hook::TrainBatchAfterLoss).unwrap();
//! }
//! assert_eq!(run.stopped.as_deref(), Some("the loss is 101, the smallest was 1"));
//! ```
//!
//! With the feature `pyo3` there is a Python class of the same name around it, which [`module!`]
//! puts into a Python module. A user of lumbre then writes
//! `fit(..., callbacks=[explosion.Explosion(factor=50)])`.
//!
//! # What holds
//!
//! - A panic in a callback is an exception in Python, and so is an error.
//! - A callback is called by one thread at a time, and never while it is being called: that is an
//!   error, not a deadlock.
//! - The ABI has a version of its own ([`layout::MAJOR`], [`layout::MINOR`]). A wheel that was built
//!   for 1.0 works with every later 1.x, and one built for a later 1.x works with an earlier one as
//!   long as it asks for nothing new.
//! - No memory changes hands: each side frees what it has made.
//!
//! # Features
//!
//! - `pyo3`: the Python class, [`module!`](crate::module) and [`Ctx::python`](Ctx::python).

#![cfg_attr(not(feature = "pyo3"), allow(rustdoc::broken_intra_doc_links))]

// Allows the macro to say `::lumbre_abi` in this crate's own tests.
extern crate self as lumbre_abi;

mod ctx;
mod error;
mod export;
mod hook;
pub mod host;
pub mod layout;
#[cfg(feature = "pyo3")]
pub mod python;
mod saved;
mod tensor;
pub mod testing;

#[cfg(panic = "abort")]
compile_error!(
    "lumbre-abi turns a panic of a callback into a Python exception, which `panic = \"abort\"` makes \
     impossible: the user's whole process would end. Take `panic = \"abort\"` out of this profile in \
     Cargo.toml."
);

pub use ctx::{Ctx, Set};
pub use error::{Error, Result};
pub use export::{About, Callback, Exported, Name, OwnedHandle};
pub use hook::Hook;
/// Makes a callback of a struct: put it over one `impl` block.
///
/// # Examples
///
/// ```
/// use lumbre_abi::{Ctx, Result, callback};
///
/// pub struct Patience {
///     worst: f64,
///     epochs: u32,
/// }
///
/// /// What stands here is the docstring of the class in Python.
/// #[callback(weight = 10, after("EarlyStopping"), logs("patience"))]
/// impl Patience {
///     #[defaults(worst = 1.0)]
///     pub fn new(worst: f64) -> Self {
///         Self { worst, epochs: 0 }
///     }
///
///     #[epochs(2, None)]
///     fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
///         self.epochs += u32::from(ctx.metric("train_loss")? > Some(self.worst));
///         ctx.log("patience", self.epochs.into())
///     }
///
///     #[every(100)]
///     fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) {
///         println!("step {}", ctx.step_count());
///     }
///
///     #[once]
///     fn on_fit_begin(&mut self) {}
/// }
/// ```
///
/// A name that is no breakpoint does not compile: "`on_batch_end` is no breakpoint and would never be
/// called; did you mean `on_train_batch_end`?"
///
/// ```compile_fail
/// struct Misspelt;
///
/// #[lumbre_abi::callback]
/// impl Misspelt {
///     fn on_batch_end(&mut self) {}
/// }
/// ```
pub use lumbre_abi_macros::callback;
#[cfg(feature = "pyo3")]
pub use pyo3;
pub use saved::{FromSaved, IntoSaved, Saved};
pub use tensor::{Bf16, DType, Element, F16, Tensor, View};

/// A Python module of callbacks; its name is that of the library in `Cargo.toml`.
///
/// ```
/// use lumbre_abi::callback;
///
/// #[derive(Default)]
/// pub struct Steps(u64);
///
/// #[callback]
/// impl Steps {
///     fn on_train_batch_after_step(&mut self) {
///         self.0 += 1;
///     }
/// }
///
/// lumbre_abi::module!(steps: Steps);
/// # fn main() {}
/// ```
#[cfg(feature = "pyo3")]
#[macro_export]
macro_rules! module {
    ($name:ident: $($callback:ty),+ $(,)?) => {
        #[$crate::pyo3::pymodule]
        #[pyo3(crate = "::lumbre_abi::pyo3")]
        fn $name(
            module: &$crate::pyo3::Bound<'_, $crate::pyo3::types::PyModule>,
        ) -> $crate::pyo3::PyResult<()> {
            $($crate::python::add::<$callback>(module)?;)+
            $crate::pyo3::types::PyModuleMethods::add(
                module, "__version__", ::core::env!("CARGO_PKG_VERSION"),
            )
        }
    };
}

/// The results that a hook method may give: nothing, or a [`Result`].
#[doc(hidden)]
pub trait Outcome {
    /// True if it went well.
    ///
    /// # Errors
    /// The result as the host is told of it.
    fn outcome(self) -> Result;
}

impl Outcome for () {
    fn outcome(self) -> Result {
        Ok(())
    }
}

impl<E: Into<Error>> Outcome for Result<(), E> {
    fn outcome(self) -> Result {
        self.map_err(Into::into)
    }
}
