//! From a safe trait to the table that the host calls.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::ctx::Ctx;
use crate::error::{Result, with_causes};
use crate::hook::Hook;
use crate::layout::{
    Call, Filter, Filters, Handle, MAJOR, MINOR, Store, Table, Text, Texts, form, slice, status,
};
use crate::saved::Saved;

/// A callback. [`macro@crate::callback`] writes this impl; by hand it is written seldom.
///
/// ```
/// use lumbre_abi::{About, Callback, Ctx, Hook, Result};
///
/// struct Steps(u64);
///
/// impl Callback for Steps {
///     const ABOUT: About = About {
///         crate_name: env!("CARGO_PKG_NAME"),
///         crate_version: env!("CARGO_PKG_VERSION"),
///         weight: 10.0,
///         ..About::new("Steps", &[Hook::TrainBatchAfterStep])
///     };
///
///     fn call(&mut self, _: Hook, _: &mut Ctx<'_>) -> Result {
///         self.0 += 1;
///         Ok(())
///     }
/// }
///
/// use lumbre_abi::testing::{Mounted, Run};
///
/// let steps = Mounted::new(Steps(0));
/// Run::new().fire(&steps, Hook::TrainBatchAfterStep).unwrap();
/// assert_eq!(steps.with(|steps| steps.0), 1);
/// ```
pub trait Callback: Send + Sized + 'static {
    /// The facts that the host is to know before it calls.
    const ABOUT: About;

    /// Act at a hook; only those in [`About::hooks`] come here.
    ///
    /// # Errors
    /// Whatever goes wrong ends the run.
    fn call(&mut self, hook: Hook, ctx: &mut Ctx<'_>) -> Result<()>;

    /// The state for a checkpoint; asked for when [`About::keeps_state`].
    ///
    /// # Errors
    /// The checkpoint is not written.
    fn save(&self) -> Result<Saved> {
        Err("it keeps no state".into())
    }

    /// Take up a state that [`Callback::save`] gave; asked for when [`About::keeps_state`].
    ///
    /// # Errors
    /// The checkpoint cannot be taken up.
    fn load(&mut self, saved: &Saved) -> Result<()> {
        let _ = saved;
        Err("it keeps no state".into())
    }
}

/// The facts that a host is to know of a callback before it calls.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The name that other callbacks refer to.
    pub name: &'static str,
    /// `env!("CARGO_PKG_NAME")`.
    pub crate_name: &'static str,
    /// `env!("CARGO_PKG_VERSION")`.
    pub crate_version: &'static str,
    /// Where it is called.
    pub hooks: &'static [Hook],
    /// Smaller runs earlier; ±inf allowed, NaN not.
    pub weight: f64,
    /// When it is called there.
    pub filters: &'static [Filter],
    /// Names of callbacks that have to come earlier.
    pub after: &'static [Name],
    /// Names of callbacks that have to come later.
    pub before: &'static [Name],
    /// Names of the values that it logs.
    pub logs: &'static [Name],
    /// True if it can be saved and loaded.
    pub keeps_state: bool,
}

impl About {
    /// A callback of that name at these hooks, with nothing else to say.
    #[must_use]
    pub const fn new(name: &'static str, hooks: &'static [Hook]) -> Self {
        Self {
            name,
            crate_name: "?",
            crate_version: "?",
            hooks,
            weight: 0.0,
            filters: &[],
            after: &[],
            before: &[],
            logs: &[],
            keeps_state: false,
        }
    }
}

/// The answer of a callback that is not to be called any more.
pub(crate) const PANICKED: &str =
    "panicked earlier, so that what it remembers cannot be relied on; make a new one";

/// A name that a table lends: always text that is there.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Name(Text);

impl Name {
    /// The name.
    #[must_use]
    pub const fn of(name: &'static str) -> Self {
        Self(Text::of(name))
    }

    const fn lend(names: &'static [Self]) -> Texts {
        Texts {
            start: names.as_ptr().cast(),
            length: names.len(),
        }
    }
}

struct State<T> {
    callback: T,
    /// A panic may have left it half changed.
    panicked: bool,
}

/// A callback in a form that can be handed to a host, and shared with it.
///
/// With the feature `pyo3`, [`macro@crate::callback`] does it for the Python class. A library without
/// pyo3 does it in a function of its own, and one more that takes the handle back:
///
/// ```
/// use lumbre_abi::layout::Handle;
/// use lumbre_abi::{Exported, OwnedHandle, callback};
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
/// #[unsafe(no_mangle)]
/// pub extern "C" fn steps_new() -> *mut Handle {
///     Exported::new(Steps::default()).handle().into_raw()
/// }
///
/// /// # Safety
/// /// The handle must come from `steps_new`, and this is its end.
/// #[unsafe(no_mangle)]
/// pub unsafe extern "C" fn steps_free(handle: *mut Handle) {
///     // SAFETY: as the caller says.
///     drop(unsafe { OwnedHandle::from_raw(handle) });
/// }
/// # let handle = steps_new();
/// # // SAFETY: it comes from there, and is not used again.
/// # unsafe { steps_free(handle) };
/// ```
pub struct Exported<T>(Arc<Mutex<State<T>>>);

impl<T> Clone for Exported<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Callback> Exported<T> {
    const TABLE: &'static Table = &Table {
        abi_major: MAJOR,
        abi_minor: MINOR,
        size: size_of::<Table>(),
        hooks: Hook::bits(T::ABOUT.hooks),
        weight: T::ABOUT.weight,
        name: Text::of(T::ABOUT.name),
        crate_name: Text::of(T::ABOUT.crate_name),
        crate_version: Text::of(T::ABOUT.crate_version),
        filters: Filters::of(T::ABOUT.filters),
        after: Name::lend(T::ABOUT.after),
        before: Name::lend(T::ABOUT.before),
        call: Some(call::<T>),
        drop: Some(drop_state::<T>),
        logs: Name::lend(T::ABOUT.logs),
        save: if T::ABOUT.keeps_state {
            Some(save::<T>)
        } else {
            None
        },
        load: if T::ABOUT.keeps_state {
            Some(load::<T>)
        } else {
            None
        },
    };

    /// Make a callback ready to be handed over.
    #[must_use]
    pub fn new(callback: T) -> Self {
        const { assert!(!T::ABOUT.weight.is_nan(), "the weight is NaN") };
        Self(Arc::new(Mutex::new(State {
            callback,
            panicked: false,
        })))
    }

    /// A handle on it for one host. The callback lives until the last handle is dropped.
    #[must_use]
    pub fn handle(&self) -> OwnedHandle {
        let handle = Handle {
            table: Self::TABLE,
            state: Arc::into_raw(Arc::clone(&self.0)).cast_mut().cast(),
        };
        OwnedHandle(NonNull::from(Box::leak(Box::new(handle))))
    }

    /// Look at the callback, if it is not being called just now.
    pub fn with<R>(&self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        try_lock(&self.0).map(|mut state| with(&mut state.callback))
    }

    /// Look at the callback if nobody else has a hold on it, no capsule and no call.
    ///
    /// Objects that only this one keeps may be collected with it; those that a run keeps may not.
    #[doc(hidden)]
    pub fn alone<R>(&self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        if Arc::strong_count(&self.0) > 1 {
            return None;
        }
        self.with(with)
    }

    /// True if it has panicked.
    #[cfg(feature = "pyo3")]
    pub(crate) fn has_panicked(&self) -> bool {
        try_lock(&self.0).is_some_and(|state| state.panicked)
    }

    /// Its state, as a host would save it.
    ///
    /// # Errors
    /// The answer of its `save`, or that it is being called just now.
    pub fn save(&self) -> Result<Saved> {
        self.act(|callback| callback.save())
    }

    /// Take up a state, as a host would have it.
    ///
    /// # Errors
    /// The answer of its `load`, or that it is being called just now.
    pub fn load(&self, saved: &Saved) -> Result<()> {
        self.act(|callback| callback.load(saved))
    }

    fn act<R>(&self, act: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let Some(mut state) = try_lock(&self.0) else {
            return Err("it is being called just now".into());
        };
        if state.panicked {
            return Err(format!("{} {PANICKED}", T::ABOUT.name).into());
        }
        act(&mut state.callback)
    }
}

/// A handle that ends its callback's share when it is dropped.
#[derive(Debug)]
pub struct OwnedHandle(NonNull<Handle>);

// SAFETY: a table's functions may be called from any thread, one at a time or refusing each other.
unsafe impl Send for OwnedHandle {}

impl OwnedHandle {
    /// The handle, to be lent to a host for as long as this lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut Handle {
        self.0.as_ptr()
    }

    /// Give the handle away, to a C interface for example. [`OwnedHandle::from_raw`] takes it back.
    #[must_use]
    pub fn into_raw(self) -> *mut Handle {
        let handle = self.0.as_ptr();
        std::mem::forget(self);
        handle
    }

    /// Take a handle back, so that it ends in time.
    ///
    /// # Safety
    /// It must come from [`OwnedHandle::into_raw`] of this very library, once.
    #[must_use]
    pub unsafe fn from_raw(handle: *mut Handle) -> Option<Self> {
        NonNull::new(handle).map(Self)
    }
}

impl Drop for OwnedHandle {
    fn drop(&mut self) {
        let handle = self.0.as_ptr();
        // SAFETY: `handle` made it in a box, with a table of ours, and nobody else frees it.
        unsafe {
            if let Some(drop_state) = (*(*handle).table).drop {
                drop_state(handle);
            }
            drop(Box::from_raw(handle));
        }
    }
}

/// The table's `call`.
unsafe extern "C" fn call<T: Callback>(state: *mut c_void, call: *const Call) -> u32 {
    // SAFETY: the host lends the call until this function returns.
    let Some(mut ctx) = (unsafe { Ctx::lent(call) }) else {
        return status::FAILED;
    };
    let Some(hook) = ctx.hook() else {
        return status::OK;
    };
    // SAFETY: as above; `fail` copies the text.
    let tell = |message: &str| unsafe { ((*call).fail)(call, Text::of(message)) };
    // SAFETY: the state of a handle with this table, which nobody drops during a call.
    let state = unsafe { &*state.cast::<Mutex<State<T>>>() };
    enter(state, tell, |callback| callback.call(hook, &mut ctx))
}

/// The table's `save`.
unsafe extern "C" fn save<T: Callback>(state: *mut c_void, store: *const Store) -> u32 {
    // SAFETY: the host lends the store until this function returns; `fail` copies the text.
    let tell = |message: &str| unsafe { ((*store).fail)(store, Text::of(message)) };
    // SAFETY: as in `call`.
    let state = unsafe { &*state.cast::<Mutex<State<T>>>() };
    enter(state, tell, |callback| {
        let saved = callback.save()?;
        let (form, bytes) = saved.parts();
        // SAFETY: as above; `write` copies the bytes.
        unsafe { ((*store).write)(store, form, bytes.as_ptr(), bytes.len()) };
        Ok(())
    })
}

/// The table's `load`.
unsafe extern "C" fn load<T: Callback>(
    state: *mut c_void,
    store: *const Store,
    form: u32,
    start: *const u8,
    length: usize,
) -> u32 {
    // SAFETY: the host lends the store until this function returns; `fail` copies the text.
    let tell = |message: &str| unsafe { ((*store).fail)(store, Text::of(message)) };
    // SAFETY: as in `call`.
    let state = unsafe { &*state.cast::<Mutex<State<T>>>() };
    // SAFETY: the host lends that many bytes until this function returns.
    let bytes = unsafe { slice(start, length) };
    enter(state, tell, |callback| {
        let saved = match form {
            form::BYTES => Saved::Bytes(bytes.to_vec()),
            form::JSON => Saved::Json(str::from_utf8(bytes)?.to_owned()),
            _ => return Err(format!("the state is in form {form}, which is unknown here").into()),
        };
        callback.load(&saved)
    })
}

/// The table's `drop`.
unsafe extern "C" fn drop_state<T: Callback>(handle: *mut Handle) {
    // SAFETY: a handle with this table; its owner calls this once, when no call is under way.
    let state = unsafe { std::mem::replace(&mut (*handle).state, ptr::null_mut()) };
    if state.is_null() {
        return;
    }
    // SAFETY: `handle` has put it there by `Arc::into_raw`, and it is taken out once.
    let state = unsafe { Arc::from_raw(state.cast::<Mutex<State<T>>>()) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(state))) {
        // The hook of panics has told it; here nobody is left to be told.
        drop(said_by(panic));
    }
}

/// Do something with the callback: never twice at a time, and no panic leaves.
fn enter<T: Callback>(
    state: &Mutex<State<T>>,
    tell: impl Fn(&str),
    act: impl FnOnce(&mut T) -> Result<()>,
) -> u32 {
    let Some(mut state) = try_lock(state) else {
        return status::BUSY;
    };
    if state.panicked {
        return status::BROKEN;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| match act(&mut state.callback) {
        Ok(()) => status::OK,
        Err(error) => match error.into_inner() {
            Err(number) => status::HOST.saturating_add(number),
            Ok(error) => give_up(error, &tell),
        },
    }));
    outcome.unwrap_or_else(|panic| {
        state.panicked = true;
        tell(&said_by(panic));
        status::PANICKED
    })
}

fn try_lock<T>(state: &Mutex<State<T>>) -> Option<MutexGuard<'_, State<T>>> {
    match state.try_lock() {
        Ok(state) => Some(state),
        Err(TryLockError::Poisoned(state)) => {
            // A panic outside of a run, in `save` for example, left it half changed too.
            let mut state = PoisonError::into_inner(state);
            state.panicked = true;
            Some(state)
        }
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg_attr(not(feature = "pyo3"), allow(clippy::needless_pass_by_value))]
fn give_up(error: Box<dyn std::error::Error + Send + Sync>, tell: &impl Fn(&str)) -> u32 {
    #[cfg(feature = "pyo3")]
    let error = match error.downcast::<pyo3::PyErr>() {
        Ok(error) => {
            pyo3::Python::attach(|py| error.restore(py));
            return status::PYTHON;
        }
        Err(error) => error,
    };
    tell(&with_causes(&*error));
    status::FAILED
}

/// The text that a panic was given. A payload that is no text is never dropped, as that may panic again.
pub(crate) fn said_by(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(panic) => {
                std::mem::forget(panic);
                "a panic without a text".to_owned()
            }
        },
    }
}
