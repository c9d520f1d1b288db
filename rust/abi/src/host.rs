//! The host's side of the border: opening a handle that somebody brings, and calling it.
//!
//! An author of callbacks needs nothing of this; [`crate::testing`] uses it as lumbre does.

use std::cell::RefCell;
use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;

use crate::export::PANICKED;
use crate::hook::Hook;
use crate::layout::{
    Call, FIRST_TABLE, Filter, Filters, Handle, LARGEST, MAJOR, MINOR, Store, Table, Text, Texts,
    form, status,
};
use crate::saved::Saved;

/// More names or filters than this are nonsense.
const MOST: usize = 1024;

/// Why a handle is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was built for another major version.
    Version {
        /// The version it was built for.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// Its table is of a size that none has.
    Size(usize),
    /// Something in it is missing or makes no sense.
    Broken(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { major, minor } => write!(
                f,
                "it was built for version {major}.{minor} of lumbre's callback ABI, and version \
                 {MAJOR}.{MINOR} runs here"
            ),
            Self::Size(size) => write!(
                f,
                "its table has {size} bytes, where one of version {MAJOR} of lumbre's callback ABI \
                 has {FIRST_TABLE} to {LARGEST} in steps of 8 (here {})",
                size_of::<Table>()
            ),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Refused {}

fn broken(what: impl Into<String>) -> Refused {
    Refused::Broken(what.into())
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The callback's name.
    pub name: String,
    /// One of [`status`].
    pub status: u32,
    /// The callback's words, if it said anything.
    pub message: Option<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, message) = (&self.name, self.message.as_deref());
        match self.status {
            status::PANICKED => write!(
                f,
                "{name} panicked: {}",
                message.unwrap_or("without a text")
            ),
            status::BROKEN => write!(f, "{name} {PANICKED}"),
            status::GONE => write!(f, "{name} has been dropped, and cannot be called any more"),
            status::BUSY => write!(
                f,
                "{name} is being called already: by another run in another thread, or by a breakpoint \
                 that it has itself fired. Give each run a callback of its own."
            ),
            _ => match message {
                Some(message) => f.write_str(message),
                None => write!(f, "{name} failed and did not say why"),
            },
        }
    }
}

impl std::error::Error for Trouble {}

/// A callback of a foreign library, checked and ready to be called.
///
/// ```
/// use lumbre_abi::host::{Foreign, Refused};
/// use lumbre_abi::{Exported, Hook, callback};
///
/// #[derive(Default)]
/// struct Steps(u64);
///
/// #[callback(weight = 10)]
/// impl Steps {
///     fn on_train_batch_after_step(&mut self) {
///         self.0 += 1;
///     }
/// }
///
/// let handle = Exported::new(Steps::default()).handle();
/// // SAFETY: a handle, which lives longer than `foreign`.
/// let foreign = unsafe { Foreign::open(handle.as_ptr()) }?;
/// assert_eq!((foreign.name.as_str(), foreign.weight), ("Steps", 10.0));
/// assert_eq!(foreign.hooks, [Hook::TrainBatchAfterStep]);
/// # Ok::<(), Refused>(())
/// ```
#[derive(Debug)]
pub struct Foreign {
    handle: *const Handle,
    call: unsafe extern "C" fn(*mut c_void, *const Call) -> u32,
    save: Option<unsafe extern "C" fn(*mut c_void, *const Store) -> u32>,
    load: Option<unsafe extern "C" fn(*mut c_void, *const Store, u32, *const u8, usize) -> u32>,
    /// Its name.
    pub name: String,
    /// The crate that it comes from.
    pub crate_name: String,
    /// The version of that crate.
    pub crate_version: String,
    /// Where it wants to be called.
    pub hooks: Vec<Hook>,
    /// Its weight; never NaN.
    pub weight: f64,
    /// Its filters; the hook of each is one of `hooks`.
    pub filters: Vec<(Hook, Filter)>,
    /// Names of callbacks that have to come earlier.
    pub after: Vec<String>,
    /// Names of callbacks that have to come later.
    pub before: Vec<String>,
    /// Names of the values that it logs.
    pub logs: Vec<String>,
}

// SAFETY: the ABI lets the host call from any thread; a callback refuses a second call by itself.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// Look at a handle: version and size first, and nothing else if these do not fit.
    ///
    /// # Errors
    /// It is not one that can be called.
    ///
    /// # Safety
    /// What the pointer leads to must have been found under the name [`crate::layout::CAPSULE`] (or
    /// be known to be a handle): it is a [`Handle`] or NULL, its table is readable as far as its own
    /// `size` says, and what these point at is there or NULL. It outlives the value that is given
    /// back.
    pub unsafe fn open(handle: *const Handle) -> Result<Self, Refused> {
        if handle.is_null() || !handle.is_aligned() {
            return Err(broken("it leads to no handle"));
        }
        // SAFETY: the caller says that it is a handle.
        let (table, state) = unsafe { ((*handle).table, (*handle).state) };
        // SAFETY: the caller says that the table is readable as far as its size says.
        let table = unsafe { read(table) }?;
        let Some(call) = table.call else {
            return Err(broken("its `call` is NULL"));
        };
        if table.drop.is_none() {
            return Err(broken("its `drop` is NULL"));
        }
        if state.is_null() {
            return Err(broken("its state is NULL: the callback has been dropped"));
        }
        if table.weight.is_nan() {
            return Err(broken("its weight is NaN"));
        }
        let hooks = hooks(table.hooks)?;
        // SAFETY: the caller says that what the table points at is there or NULL.
        unsafe {
            Ok(Self {
                handle,
                call,
                save: table.save,
                load: table.load,
                name: text(table.name, "name")?,
                crate_name: text(table.crate_name, "crate's name")?,
                crate_version: text(table.crate_version, "crate's version")?,
                filters: filters(table.filters, &hooks)?,
                after: texts(table.after, "`after`")?,
                before: texts(table.before, "`before`")?,
                logs: texts(table.logs, "`logs`")?,
                hooks,
                weight: table.weight,
            })
        }
    }

    /// Call it; gives a [`status`].
    ///
    /// # Safety
    /// It must be a call of this version, with functions of the host's that fit it, and stay until
    /// this returns.
    #[inline]
    #[must_use]
    pub unsafe fn call(&self, call: *const Call) -> u32 {
        let Some(state) = self.state() else {
            return status::GONE;
        };
        // SAFETY: the state belongs to this function, and is alive as long as the handle has it.
        unsafe { (self.call)(state, call) }
    }

    /// The callback itself; `None` when somebody has dropped it.
    #[inline]
    fn state(&self) -> Option<*mut c_void> {
        // SAFETY: the handle outlives us, as `open` says.
        let state = unsafe { (*self.handle).state };
        (!state.is_null()).then_some(state)
    }

    /// True if it can be saved and loaded.
    #[must_use]
    pub fn keeps_state(&self) -> bool {
        self.save.is_some() && self.load.is_some()
    }

    /// Its state; `None` when it keeps none.
    ///
    /// # Errors
    /// It says that something is wrong, or gives no state, or one in no known form.
    pub fn save(&self) -> Result<Option<Saved>, Trouble> {
        let Some(save) = self.save.filter(|_| self.keeps_state()) else {
            return Ok(None);
        };
        let storing = Storing::default();
        let store = (&raw const storing).cast();
        // SAFETY: state and function belong together; the store stays until the call returns.
        let save = |state| unsafe { save(state, store) };
        let status = self.state().map_or(status::GONE, save);
        self.outcome(&storing, status)?;
        let written = storing.written.take();
        let (form, bytes) = written.ok_or_else(|| self.trouble("its `save` gave no state"))?;
        let json = match form {
            form::BYTES => return Ok(Some(Saved::Bytes(bytes))),
            form::JSON => String::from_utf8(bytes).ok(),
            _ => None,
        };
        let wrong = || format!("its `save` gave a state that is not in form {form}");
        json.map(|text| Some(Saved::Json(text)))
            .ok_or_else(|| self.trouble(&wrong()))
    }

    /// Have it take up a state.
    ///
    /// # Errors
    /// It says that something is wrong, or keeps no state.
    pub fn load(&self, saved: &Saved) -> Result<(), Trouble> {
        let Some(load) = self.load.filter(|_| self.keeps_state()) else {
            return Err(self.trouble("it keeps no state"));
        };
        let storing = Storing::default();
        let (form, bytes) = saved.parts();
        let store = (&raw const storing).cast();
        // SAFETY: as in `save`; the bytes stay too.
        let load = |state| unsafe { load(state, store, form, bytes.as_ptr(), bytes.len()) };
        let status = self.state().map_or(status::GONE, load);
        self.outcome(&storing, status)
    }

    fn outcome(&self, storing: &Storing, status: u32) -> Result<(), Trouble> {
        if status == status::OK {
            return Ok(());
        }
        Err(Trouble {
            name: self.name.clone(),
            status,
            message: storing.message.take(),
        })
    }

    fn trouble(&self, message: &str) -> Trouble {
        Trouble {
            name: self.name.clone(),
            status: status::FAILED,
            message: Some(message.into()),
        }
    }
}

/// The store that is lent, and what came into it.
#[repr(C)]
struct Storing {
    store: Store,
    written: RefCell<Option<(u32, Vec<u8>)>>,
    message: RefCell<Option<String>>,
}

impl Default for Storing {
    fn default() -> Self {
        Self {
            store: Store {
                abi_major: MAJOR,
                abi_minor: MINOR,
                size: size_of::<Store>(),
                write: Self::write,
                fail: Self::fail,
            },
            written: RefCell::default(),
            message: RefCell::default(),
        }
    }
}

impl Storing {
    unsafe extern "C" fn write(store: *const Store, form: u32, start: *const u8, length: usize) {
        // SAFETY: the store is the first field of one of these, lent whole; the callee's bytes are
        // there until we return.
        unsafe {
            let bytes = bytes(start, length).unwrap_or_default().to_vec();
            (*store.cast::<Self>()).written.replace(Some((form, bytes)));
        }
    }

    unsafe extern "C" fn fail(store: *const Store, message: Text) {
        // SAFETY: as above.
        unsafe {
            let message = lossy(message);
            (*store.cast::<Self>()).message.replace(Some(message));
        }
    }
}

/// A text that a callback tells, whatever is wrong with it.
///
/// # Safety
/// Its bytes must be there, or its start NULL.
#[must_use]
pub unsafe fn lossy(text: Text) -> String {
    // SAFETY: as the caller says.
    let bytes = unsafe { bytes(text.start, text.length) };
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// A copy of the table, with zeros where its author's version had no field yet.
///
/// # Safety
/// It must be NULL or readable: its first 16 bytes, and then as far as its size says.
unsafe fn read(table: *const Table) -> Result<Table, Refused> {
    if table.is_null() || !table.is_aligned() {
        return Err(broken("its table is NULL"));
    }
    // SAFETY: version and size stand first, and the caller says that these are readable.
    let (major, minor, size) = unsafe { ((*table).abi_major, (*table).abi_minor, (*table).size) };
    if major != MAJOR {
        return Err(Refused::Version { major, minor });
    }
    if !(FIRST_TABLE..=LARGEST).contains(&size) || !size.is_multiple_of(8) {
        return Err(Refused::Size(size));
    }
    let mut known = MaybeUninit::<Table>::zeroed();
    // SAFETY: the caller says that `size` bytes are readable, and no more than fit are taken. Zeros
    // are a good value for every field: numbers, pointers, and functions that may be absent.
    unsafe {
        let size = size.min(size_of::<Table>());
        ptr::copy_nonoverlapping(table.cast::<u8>(), known.as_mut_ptr().cast(), size);
        Ok(known.assume_init())
    }
}

fn hooks(bits: u64) -> Result<Vec<Hook>, Refused> {
    let numbers = (0..u64::BITS).filter(|number| bits >> number & 1 == 1);
    let hook = |number| {
        Hook::from_number(number).ok_or_else(|| {
            broken(format!(
                "it wants to be called at breakpoint number {number}, and there are {} here: it needs \
                 a newer lumbre",
                Hook::ALL.len()
            ))
        })
    };
    numbers.map(hook).collect()
}

/// # Safety
/// The filters must be there, or their start NULL.
unsafe fn filters(filters: Filters, hooks: &[Hook]) -> Result<Vec<(Hook, Filter)>, Refused> {
    // SAFETY: as the caller says.
    let Some(filters) = (unsafe { slice(filters.start, filters.length) }) else {
        return Err(broken("its filters are not there"));
    };
    let checked = |filter: &Filter| {
        let hook = Hook::from_number(filter.hook).filter(|hook| hooks.contains(hook));
        let epochs = 1..=filter.last_epoch;
        let makes_sense =
            filter.every > 0 && epochs.contains(&filter.first_epoch) && filter.once <= 1;
        match hook {
            Some(hook) if makes_sense => Ok((hook, *filter)),
            _ => Err(broken(format!(
                "one of its filters makes no sense: {filter:?}"
            ))),
        }
    };
    filters.iter().map(checked).collect()
}

/// # Safety
/// The texts must be there, or their start NULL; so each text's bytes.
unsafe fn texts(texts: Texts, what: &str) -> Result<Vec<String>, Refused> {
    // SAFETY: as the caller says.
    let Some(texts) = (unsafe { slice(texts.start, texts.length) }) else {
        return Err(broken(missing(what, texts.length)));
    };
    // SAFETY: as the caller says.
    let text = |&each: &Text| unsafe { text(each, what) };
    texts.iter().map(text).collect()
}

fn missing(what: &str, length: usize) -> String {
    if length > MOST {
        format!("its {what} is longer than {MOST}: {length}")
    } else {
        format!("its {what} is not there")
    }
}

/// # Safety
/// The text's bytes must be there, or its start NULL.
unsafe fn text(text: Text, what: &str) -> Result<String, Refused> {
    // SAFETY: as the caller says.
    let Some(bytes) = (unsafe { slice(text.start, text.length) }) else {
        return Err(broken(missing(what, text.length)));
    };
    match str::from_utf8(bytes) {
        Ok("") => Err(broken(format!("its {what} is empty"))),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(broken(format!("its {what} is not UTF-8"))),
    }
}

/// A short list that somebody lends; `None` when it cannot be one.
///
/// # Safety
/// The elements must be there, or `start` NULL.
unsafe fn slice<'a, T>(start: *const T, length: usize) -> Option<&'a [T]> {
    if length == 0 {
        return Some(&[]);
    }
    if start.is_null() || !start.is_aligned() || length > MOST {
        return None;
    }
    // SAFETY: as the caller says.
    Some(unsafe { std::slice::from_raw_parts(start, length) })
}

/// # Safety
/// The bytes must be there, or `start` NULL.
unsafe fn bytes<'a>(start: *const u8, length: usize) -> Option<&'a [u8]> {
    let there = !start.is_null() && length > 0 && length <= isize::MAX.unsigned_abs();
    // SAFETY: as the caller says.
    there.then(|| unsafe { std::slice::from_raw_parts(start, length) })
}
