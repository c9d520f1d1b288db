//! A run without Python and torch, to test a callback with `cargo test`.
//!
//! It goes the very way that lumbre goes: through the callback's table.
//!
//! ```
//! use lumbre_abi::testing::{Mounted, Run, Values};
//! use lumbre_abi::{Ctx, Hook, Result, callback};
//!
//! #[derive(Default)]
//! struct Largest(f32);
//!
//! #[callback]
//! impl Largest {
//!     fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
//!         let Some(input) = ctx.input()? else { return Ok(()) };
//!         input.typed::<f32>()?.for_each(|value| self.0 = self.0.max(value));
//!         ctx.log("largest_input", self.0.into())
//!     }
//! }
//!
//! let mut run = Run::new();
//! run.input = Some(Values::new(&[1.0_f32, 4.0, 2.0, 3.0], &[2, 2]));
//! let largest = Mounted::new(Largest::default());
//! run.fire(&largest, Hook::TrainBatchBegin).unwrap();
//! assert_eq!(run.logged, [("train_largest_input".to_owned(), 4.0)]);
//! ```

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use crate::export::{Callback, Exported, OwnedHandle};
use crate::hook::Hook;
use crate::host::{Foreign, Refused, Trouble, lossy};
use crate::layout::{Call, MAJOR, MINOR, Tensor, Text, answer, set, status, which};
use crate::saved::Saved;
use crate::tensor::Element;

/// A callback in the hands of a host.
#[derive(Debug)]
pub struct Mounted<T> {
    foreign: Foreign,
    // After `foreign`, which it has to outlive.
    _handle: OwnedHandle,
    exported: Exported<T>,
}

impl<T> fmt::Debug for Exported<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

impl<T: Callback> Mounted<T> {
    /// Hand a callback over.
    ///
    /// # Panics
    /// A host would refuse it: an `after`, `before` or `logs` is empty, for example.
    #[must_use]
    pub fn new(callback: T) -> Self {
        match Self::open(callback) {
            Ok(mounted) => mounted,
            Err(refused) => panic!("a host would refuse {}: {refused}", T::ABOUT.name),
        }
    }

    /// Hand a callback over, and see whether the host takes it.
    ///
    /// # Errors
    /// It does not.
    pub fn open(callback: T) -> Result<Self, Refused> {
        let exported = Exported::new(callback);
        let handle = exported.handle();
        // SAFETY: the handle is one, and is kept beside what is opened.
        let foreign = unsafe { Foreign::open(handle.as_ptr()) }?;
        Ok(Self {
            foreign,
            _handle: handle,
            exported,
        })
    }

    /// All that the host knows of it.
    #[must_use]
    pub fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    /// Look at the callback itself.
    ///
    /// # Panics
    /// It is being called just now.
    pub fn with<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        match self.exported.with(with) {
            Some(result) => result,
            None => panic!("{} is being called just now", T::ABOUT.name),
        }
    }

    /// Its state, as a checkpoint would have it.
    ///
    /// # Errors
    /// The answer of its `save`.
    pub fn save(&self) -> Result<Option<Saved>, Trouble> {
        self.foreign.save()
    }

    /// Have it take up a state.
    ///
    /// # Errors
    /// The answer of its `load`.
    pub fn load(&self, saved: &Saved) -> Result<(), Trouble> {
        self.foreign.load(saved)
    }
}

/// The elements of a tensor, in rows.
#[derive(Clone)]
pub struct Values {
    // What `data` points into.
    _owner: Arc<dyn Any + Send + Sync>,
    data: *const c_void,
    shape: Arc<[i64]>,
    strides: Arc<[i64]>,
    code: u8,
    bits: u8,
}

impl Values {
    /// Elements in row-major order.
    ///
    /// # Panics
    /// The shape has another number of elements.
    #[must_use]
    pub fn new<T: Element + Send + Sync>(values: &[T], shape: &[i64]) -> Self {
        let length = i64::try_from(values.len()).ok();
        assert_eq!(
            length,
            Some(shape.iter().product()),
            "the shape is {shape:?}"
        );
        let mut strides = vec![1; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension] * shape[dimension];
        }
        let owner: Arc<Vec<T>> = Arc::new(values.to_vec());
        let (code, bits) = T::DTYPE.code_and_bits();
        Self {
            data: owner.as_ptr().cast(),
            _owner: owner,
            shape: shape.into(),
            strides: strides.into(),
            code,
            bits,
        }
    }

    fn lend(&self) -> Tensor {
        Tensor {
            data: self.data,
            shape: self.shape.as_ptr(),
            strides: self.strides.as_ptr(),
            dimensions: u32::try_from(self.shape.len()).unwrap_or(0),
            code: self.code,
            bits: self.bits,
            lanes: 1,
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values(shape {:?})", self.shape)
    }
}

/// A run at one breakpoint: what is there, and what was asked for.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The epoch under way.
    pub epoch: u64,
    /// The batch in this pass.
    pub iter: u64,
    /// The training batch in the whole run.
    pub step_count: u64,
    /// True if a training pass is under way.
    pub training: bool,
    /// The samples in the batch.
    pub batch_size: Option<u64>,
    /// The loss of the batch.
    pub loss: Option<f64>,
    /// Values of this epoch, by set and name: `valid_loss`. Of other epochs there are none here.
    pub metrics: HashMap<String, f64>,
    /// The input of the model.
    pub input: Option<Values>,
    /// The target that it is to predict.
    pub target: Option<Values>,
    /// Its prediction.
    pub pred: Option<Values>,
    /// The logged values, by set and name, in their order.
    pub logged: Vec<(String, f64)>,
    /// The values that were logged for a mean, by set and name, with their own weights.
    pub means: Vec<(String, f64, Option<f64>)>,
    /// Why a stop was asked for.
    pub stopped: Option<String>,
    /// True if the batch is to be left.
    pub batch_skipped: bool,
    /// True if the epoch is to be left.
    pub epoch_skipped: bool,
}

impl Run {
    /// In the first batch of the first epoch of training.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epoch: 1,
            iter: 1,
            step_count: 1,
            training: true,
            ..Self::default()
        }
    }

    /// Go to the next batch of the pass.
    pub fn next_batch(&mut self) {
        self.iter += 1;
        self.step_count += u64::from(self.training);
        self.batch_skipped = false;
    }

    /// Call a callback at a breakpoint, if that is one of its own. Its filters are not looked at.
    ///
    /// # Errors
    /// The text of an error that would be an exception in Python.
    ///
    /// ```
    /// use lumbre_abi::testing::{Mounted, Run};
    /// use lumbre_abi::{Hook, callback};
    ///
    /// #[derive(Default)]
    /// struct Bad;
    ///
    /// #[callback]
    /// impl Bad {
    ///     fn on_fit_begin(&mut self) {
    ///         panic!("nothing works");
    ///     }
    /// }
    ///
    /// let trouble = Run::new().fire(&Mounted::new(Bad), Hook::FitBegin).unwrap_err();
    /// assert_eq!(trouble.to_string(), "Bad panicked: nothing works");
    /// ```
    pub fn fire<T: Callback>(&mut self, callback: &Mounted<T>, hook: Hook) -> Result<(), Trouble> {
        if !callback.foreign.hooks.contains(&hook) {
            return Ok(());
        }
        let lent = Lent {
            call: Call {
                abi_major: MAJOR,
                abi_minor: MINOR,
                size: size_of::<Call>(),
                hook: hook.number(),
                training: self.training.into(),
                epoch: self.epoch,
                iter: self.iter,
                step_count: self.step_count,
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
                log_mean,
            },
            run: RefCell::new(self),
            message: RefCell::default(),
        };
        // SAFETY: a whole call, whose functions know that it is the head of a `Lent`.
        let status = unsafe { callback.foreign.call((&raw const lent).cast()) };
        let message = lent.message.take();
        match status {
            status::OK => Ok(()),
            status => Err(Trouble {
                name: callback.foreign.name.clone(),
                status,
                message,
            }),
        }
    }
}

/// A call, and what its functions work on.
#[repr(C)]
struct Lent<'a> {
    call: Call,
    run: RefCell<&'a mut Run>,
    message: RefCell<Option<String>>,
}

/// The run that a call's head belongs to.
///
/// # Safety
/// It must come from `Run::fire`, which is under way.
unsafe fn lent<'a>(call: *const Call) -> &'a Lent<'a> {
    // SAFETY: as the caller says.
    unsafe { &*call.cast() }
}

/// # Safety
/// As of `lent`; and `value` must be writable.
unsafe fn give<T>(value: Option<T>, place: *mut T) -> u32 {
    match value {
        Some(value) => {
            // SAFETY: as the caller says.
            unsafe { place.write(value) };
            answer::GIVEN
        }
        None => answer::NONE,
    }
}

unsafe extern "C" fn batch_size(call: *const Call, value: *mut u64) -> u32 {
    // SAFETY: our own call; the callback's place for the answer. So below.
    unsafe { give(lent(call).run.borrow().batch_size, value) }
}

unsafe extern "C" fn loss(call: *const Call, value: *mut f64) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe { give(lent(call).run.borrow().loss, value) }
}

/// As lumbre: of the pass under way, and of training outside of one.
///
/// # Safety
/// As of `lent`; and the name must be there.
unsafe fn record_name(call: *const Call, set: u32, name: Text) -> String {
    // SAFETY: as the caller says.
    let (hook, name) = unsafe { (Hook::from_number((*call).hook), lossy(name)) };
    let set = match (set, hook.map_or("", Hook::name)) {
        (set::TRAIN, _) => "train",
        (set::VALID, _) => "valid",
        (_, hook) if hook.starts_with("on_valid_") => "valid",
        _ => "train",
    };
    format!("{set}_{name}")
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
        let run = lent(call).run.borrow();
        let name = record_name(call, set, name);
        let is_now = epoch == 0 || epoch == run.epoch;
        give(run.metrics.get(&name).copied().filter(|_| is_now), value)
    }
}

unsafe extern "C" fn tensor(call: *const Call, which: u32, tensor: *mut Tensor) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe {
        let run = lent(call).run.borrow();
        let values = match which {
            which::INPUT => &run.input,
            which::TARGET => &run.target,
            _ => &run.pred,
        };
        give(values.as_ref().map(Values::lend), tensor)
    }
}

unsafe extern "C" fn log(call: *const Call, set: u32, name: Text, value: f64) -> u32 {
    // SAFETY: as in `metric`.
    unsafe {
        let mut run = lent(call).run.borrow_mut();
        let name = record_name(call, set, name);
        run.logged.push((name, value));
    }
    answer::GIVEN
}

unsafe extern "C" fn log_mean(call: *const Call, name: Text, value: f64, weight: f64) -> u32 {
    // SAFETY: as in `metric`.
    unsafe {
        let mut run = lent(call).run.borrow_mut();
        let name = record_name(call, set::CURRENT, name);
        let weight = (!weight.is_nan()).then_some(weight);
        run.means.push((name, value, weight));
    }
    answer::GIVEN
}

unsafe extern "C" fn stop(call: *const Call, reason: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let reason = lossy(reason);
        lent(call).run.borrow_mut().stopped.get_or_insert(reason);
    }
}

unsafe extern "C" fn skip_batch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe { lent(call) }.run.borrow_mut().batch_skipped = true;
}

unsafe extern "C" fn skip_epoch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe { lent(call) }.run.borrow_mut().epoch_skipped = true;
}

unsafe extern "C" fn fail(call: *const Call, message: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let message = lossy(message);
        lent(call).message.replace(Some(message));
    }
}

unsafe extern "C" fn python(_: *const Call) -> *mut c_void {
    ptr::null_mut()
}
