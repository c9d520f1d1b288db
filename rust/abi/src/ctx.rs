//! The run, as a callback sees it.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, offset_of};

use crate::error::{Error, Result};
use crate::hook::Hook;
use crate::layout::{Call, FIRST_CALL, MAJOR, Text, answer, set, which};
use crate::tensor::Tensor;

/// The records of one kind of pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// The training passes.
    Train,
    /// The validation passes.
    Valid,
}

impl Set {
    const fn number(self) -> u32 {
        match self {
            Self::Train => set::TRAIN,
            Self::Valid => set::VALID,
        }
    }
}

/// The run under way, lent to a hook.
///
/// Counters begin at 1, as in Python. Methods that take `&mut self` may run Python code, which can
/// change or free the batch's tensors: the compiler sees to it that no view of them is held then. It
/// cannot see Python that is run by another door: see [`Tensor`].
///
/// ```
/// use lumbre_abi::{Ctx, Result, callback};
///
/// #[derive(Default)]
/// struct Sparse;
///
/// #[callback(logs("zeros"))]
/// impl Sparse {
///     /// Logs the share of the input that is zero; a batch of nothing else is left out.
///     fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
///         let Some(input) = ctx.input()? else { return Ok(()) };
///         let mut zeros = 0_usize;
///         input.for_each(|value| zeros += usize::from(value == 0.0));
///         if zeros == input.len() {
///             ctx.skip_batch();
///         }
///         ctx.log("zeros", zeros as f64 / input.len() as f64)
///     }
/// }
///
/// use lumbre_abi::{Hook, testing::{Mounted, Run, Values}};
///
/// let mut run = Run::new();
/// run.input = Some(Values::new(&[0_i64, 2, 0, 3], &[2, 2]));
/// run.fire(&Mounted::new(Sparse), Hook::TrainBatchBegin).unwrap();
/// assert_eq!(run.logged, [("train_zeros".to_owned(), 0.5)]);
/// assert!(!run.batch_skipped);
/// ```
///
/// This does not compile: to ask for the loss may run Python, and what was the input may be gone.
///
/// ```compile_fail,E0502
/// use lumbre_abi::{Ctx, Result};
///
/// fn loss_for_each(ctx: &mut Ctx<'_>) -> Result<Option<f64>> {
///     let Some(input) = ctx.input()? else { return Ok(None) };
///     let loss = ctx.loss()?; // ask first, then borrow the input
///     Ok(loss.map(|loss| loss / input.len() as f64))
/// }
/// ```
pub struct Ctx<'a> {
    call: *const Call,
    lent: PhantomData<&'a Call>,
}

// Each field is read by itself: the host may know a shorter struct than this crate does.
macro_rules! field {
    ($ctx:ident.$field:ident) => {
        // SAFETY: `lent` has seen that the call reaches this far, and it is lent for our lifetime.
        unsafe { (*$ctx.call).$field }
    };
}

macro_rules! host {
    ($ctx:ident.$function:ident($($argument:expr),*)) => {
        // SAFETY: the host's own function on the host's own call; what is passed lives until it returns.
        unsafe { ((*$ctx.call).$function)($ctx.call $(, $argument)*) }
    };
}

impl Ctx<'_> {
    /// The call that the host lends; `None` when it is of another version.
    ///
    /// # Safety
    /// It must be one that a host has made, and live for `'a`.
    pub(crate) unsafe fn lent(call: *const Call) -> Option<Self> {
        // SAFETY: version and size stand first in every version; the caller lends the rest.
        let (major, size) = unsafe { ((*call).abi_major, (*call).size) };
        (major == MAJOR && size >= FIRST_CALL).then_some(Self {
            call,
            lent: PhantomData,
        })
    }

    /// The number of the hook under way.
    pub(crate) fn hook_number(&self) -> u32 {
        field!(self.hook)
    }

    /// The hook under way; `None` for one that is newer than this crate.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_number(self.hook_number())
    }

    /// The epoch under way; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        field!(self.epoch)
    }

    /// The batch in this pass; 0 before the first.
    #[must_use]
    pub fn iter(&self) -> u64 {
        field!(self.iter)
    }

    /// The training batch in the whole run; 0 before the first.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        field!(self.step_count)
    }

    /// True if a training pass is under way, or was last.
    #[must_use]
    pub fn training(&self) -> bool {
        field!(self.training) != 0
    }

    /// The samples in the batch under way; `None` outside of one.
    ///
    /// # Errors
    /// The data that is asked for its size is Python's own kind, and raises.
    pub fn batch_size(&mut self) -> Result<Option<u64>> {
        let mut value = 0;
        Self::answered(host!(self.batch_size(&raw mut value)), value)
    }

    /// The loss of the batch under way, of the optimizer under way; `None` before it is there.
    ///
    /// On an accelerator this waits for the device.
    ///
    /// # Errors
    /// The value that stands for the loss, in a step of the user's own, is no number.
    pub fn loss(&mut self) -> Result<Option<f64>> {
        let mut value = 0.0;
        Self::answered(host!(self.loss(&raw mut value)), value)
    }

    /// A value of this epoch, by the name of its set and its name in the records: `"valid_loss"`.
    /// Without a set, `"loss"`, it is that of the pass under way.
    ///
    /// While the pass runs it is the value so far. `None` when there is no such value (yet).
    ///
    /// # Errors
    /// It is an array, or a metric that is written in Python raises.
    ///
    /// ```
    /// use lumbre_abi::{Ctx, Result, callback};
    ///
    /// #[derive(Default)]
    /// struct Gap;
    ///
    /// #[callback(logs("gap"))]
    /// impl Gap {
    ///     fn on_valid_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
    ///         let (train, valid) = (ctx.metric("train_loss")?, ctx.metric("valid_loss")?);
    ///         if let (Some(train), Some(valid)) = (train, valid) {
    ///             ctx.log("gap", valid - train)?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// use lumbre_abi::{Hook, testing::{Mounted, Run}};
    ///
    /// let mut run = Run { training: false, ..Run::new() };
    /// run.metrics = [("train_loss".to_owned(), 0.5), ("valid_loss".to_owned(), 0.75)].into();
    /// run.fire(&Mounted::new(Gap), Hook::ValidEnd).unwrap();
    /// assert_eq!(run.logged, [("valid_gap".to_owned(), 0.25)]);
    /// ```
    pub fn metric(&mut self, name: &str) -> Result<Option<f64>> {
        self.metric_at(name, 0)
    }

    /// The same of another epoch, from 1; 0 is the one under way.
    ///
    /// # Errors
    /// As of [`Ctx::metric`].
    pub fn metric_at(&mut self, name: &str, epoch: u64) -> Result<Option<f64>> {
        let (set, name) = match name.split_once('_') {
            Some(("train", name)) => (set::TRAIN, name),
            Some(("valid", name)) => (set::VALID, name),
            _ => (set::CURRENT, name),
        };
        let mut value = 0.0;
        let answer = host!(self.metric(set, Text::of(name), epoch, &raw mut value));
        Self::answered(answer, value)
    }

    /// The input of the model; `None` outside of a batch.
    ///
    /// # Errors
    /// It is no plain tensor in the CPU's memory.
    pub fn input(&self) -> Result<Option<Tensor<'_>>> {
        self.tensor(which::INPUT)
    }

    /// The target that the model is to predict; `None` when the batch has none.
    ///
    /// # Errors
    /// It is no plain tensor in the CPU's memory.
    pub fn target(&self) -> Result<Option<Tensor<'_>>> {
        self.tensor(which::TARGET)
    }

    /// The model's prediction; `None` before there is one.
    ///
    /// # Errors
    /// It is no plain tensor in the CPU's memory.
    pub fn pred(&self) -> Result<Option<Tensor<'_>>> {
        self.tensor(which::PRED)
    }

    fn tensor(&self, which: u32) -> Result<Option<Tensor<'_>>> {
        let mut tensor = MaybeUninit::uninit();
        let answer = host!(self.tensor(which, tensor.as_mut_ptr()));
        match Self::answered(answer, ())? {
            // SAFETY: the host has filled it in, and keeps it while this borrow of us lasts: whatever
            // may run Python takes us mutably.
            Some(()) => unsafe { Tensor::lent(tensor.assume_init_ref()).map(Some) },
            None => Ok(None),
        }
    }

    /// Log a value of this epoch into the records of the pass under way (of training outside of one).
    /// The last value of an epoch stays.
    ///
    /// Name it in `#[callback(logs("..."))]` too, so that `EarlyStopping` and others may watch it before
    /// it is there.
    ///
    /// # Errors
    /// The host cannot keep it.
    pub fn log(&self, name: &str, value: f64) -> Result<()> {
        self.log_number(set::CURRENT, name, value)
    }

    /// The same into a set's records.
    ///
    /// # Errors
    /// As of [`Ctx::log`].
    pub fn log_to(&self, set: Set, name: &str, value: f64) -> Result<()> {
        self.log_number(set.number(), name, value)
    }

    fn log_number(&self, set: u32, name: &str, value: f64) -> Result<()> {
        let answer = host!(self.log(set, Text::of(name), value));
        Self::answered(answer, ()).map(drop)
    }

    /// Log a value whose mean over the pass under way is recorded, beside the metrics: each batch
    /// weighs as much as it has samples, and one that is skipped does not count.
    ///
    /// # Errors
    /// No batch is under way, the name is that of a metric, or the host is older than 1.1 of this ABI.
    ///
    /// ```
    /// use lumbre_abi::{Ctx, Result, callback};
    ///
    /// #[derive(Default)]
    /// struct Sure;
    ///
    /// #[callback(logs("confidence"))]
    /// impl Sure {
    ///     /// Logs how large the largest score of a sample is, in the mean.
    ///     fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
    ///         let Some(pred) = ctx.pred()? else { return Ok(()) };
    ///         let mut largest = f64::MIN;
    ///         pred.for_each(|score| largest = largest.max(score));
    ///         ctx.log_mean("confidence", largest)
    ///     }
    /// }
    ///
    /// use lumbre_abi::{Hook, testing::{Mounted, Run, Values}};
    ///
    /// let mut run = Run::new();
    /// run.pred = Some(Values::new(&[0.25_f32, 0.5], &[1, 2]));
    /// run.fire(&Mounted::new(Sure), Hook::TrainBatchEnd).unwrap();
    /// assert_eq!(run.means, [("train_confidence".to_owned(), 0.5, None)]);
    /// ```
    pub fn log_mean(&self, name: &str, value: f64) -> Result<()> {
        self.log_mean_weighing(name, value, f64::NAN)
    }

    /// The same with a weight of its own, from 0; outside of a batch there is no other.
    ///
    /// # Errors
    /// As of [`Ctx::log_mean`].
    pub fn log_mean_weighted(&self, name: &str, value: f64, weight: f64) -> Result<()> {
        if weight.is_nan() {
            return self.fail(format!(
                "log_mean_weighted({name:?}, ...): a weight is a number from 0; got NaN"
            ));
        }
        self.log_mean_weighing(name, value, weight)
    }

    fn log_mean_weighing(&self, name: &str, value: f64, weight: f64) -> Result<()> {
        if field!(self.size) < offset_of!(Call, log_mean) + size_of::<*const ()>() {
            return self.fail(format!(
                "log_mean needs version 1.1 of the callback ABI, and this lumbre has {}.{}: install a \
                 newer one, or use `log`",
                field!(self.abi_major),
                field!(self.abi_minor)
            ));
        }
        let answer = host!(self.log_mean(Text::of(name), value, weight));
        Self::answered(answer, ()).map(drop)
    }

    /// End the run when the batch under way is finished; the reason is told with the callback's name.
    pub fn stop(&self, reason: impl AsRef<str>) {
        host!(self.stop(Text::of(reason.as_ref())));
    }

    /// Leave the batch under way: no step if none was taken yet, and it counts in no metric.
    pub fn skip_batch(&self) {
        host!(self.skip_batch());
    }

    /// Finish the batch under way, then leave out the rest of the epoch.
    pub fn skip_epoch(&self) {
        host!(self.skip_epoch());
    }

    /// Give up: `return ctx.fail("the reason")`. The run ends with an exception that says so.
    ///
    /// # Errors
    /// Always; that is its purpose.
    ///
    /// ```
    /// use lumbre_abi::{Ctx, Result, callback};
    ///
    /// #[derive(Default)]
    /// struct Square;
    ///
    /// #[callback]
    /// impl Square {
    ///     fn on_predict_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
    ///         let Some(input) = ctx.input()? else { return Ok(()) };
    ///         match *input.shape() {
    ///             [_, height, width] if height == width => Ok(()),
    ///             ref shape => ctx.fail(format!("images are (n, side, side); got shape {shape:?}")),
    ///         }
    ///     }
    /// }
    ///
    /// use lumbre_abi::{Hook, testing::{Mounted, Run, Values}};
    ///
    /// let mut run = Run::new();
    /// run.input = Some(Values::new(&[0_u8; 6], &[1, 2, 3]));
    /// let trouble = run.fire(&Mounted::new(Square), Hook::PredictBatchBegin).unwrap_err();
    /// assert_eq!(trouble.to_string(), "images are (n, side, side); got shape [1, 2, 3]");
    /// ```
    pub fn fail<T>(&self, message: impl fmt::Display) -> Result<T> {
        Err(message.to_string().into())
    }

    /// Use the Python object `ctx`: for what is not in the ABI, at the price of Python.
    ///
    /// Gradients are off, but at the three breakpoints where Python callbacks have them on.
    ///
    /// # Errors
    /// An error of `with` stays the Python exception that it is; or this run is not
    /// Python's.
    ///
    /// ```
    /// use lumbre_abi::pyo3::prelude::*;
    /// use lumbre_abi::{Ctx, Result, callback};
    ///
    /// #[derive(Default)]
    /// struct Rate;
    ///
    /// #[callback(logs("lr"))]
    /// impl Rate {
    ///     fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
    ///         let rate: f64 = ctx.python(|ctx| {
    ///             let optimizer = ctx.getattr("optimizers")?.get_item("opt")?;
    ///             optimizer.getattr("param_groups")?.get_item(0)?.get_item("lr")?.extract()
    ///         })?;
    ///         ctx.log("lr", rate)
    ///     }
    /// }
    /// ```
    #[cfg(feature = "pyo3")]
    pub fn python<T>(
        &mut self,
        with: impl FnOnce(&pyo3::Bound<'_, pyo3::PyAny>) -> pyo3::PyResult<T>,
    ) -> Result<T> {
        let ctx = host!(self.python());
        if ctx.is_null() {
            return Err("this run has no Python".into());
        }
        pyo3::Python::attach(|py| {
            // SAFETY: a live Python object, which the host holds until the hook returns.
            let ctx = unsafe { pyo3::Bound::from_borrowed_ptr(py, ctx.cast()) };
            with(&ctx)
        })
        .map_err(Error::from)
    }

    fn answered<T>(answer: u32, value: T) -> Result<Option<T>> {
        match answer {
            answer::GIVEN => Ok(Some(value)),
            answer::NONE => Ok(None),
            answer => Err(Error::of_host(answer.saturating_sub(answer::FAILED))),
        }
    }
}

impl fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("hook", &self.hook())
            .field("epoch", &self.epoch())
            .field("iter", &self.iter())
            .finish_non_exhaustive()
    }
}
