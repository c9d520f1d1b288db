//! What crosses the border between a callback and its host, byte for byte.
//!
//! Version 1 of the layout. A struct that begins with `abi_major, abi_minor, size` may gain fields
//! at its end, and a reader asks `size` whether a field is there before it touches it; nothing else
//! ever changes within a major version. Numbers of hooks, sets, tensors, answers and statuses may be
//! added, and never change their meaning.
//!
//! No allocation changes its owner: what one side lends, the other one reads or copies.
//!
//! Authors in Rust need nothing of this: [`macro@crate::callback`] makes the table, [`crate::Ctx`]
//! reads the call. It is for hosts, and for authors in other languages, who write these structs down
//! in theirs: a [`Handle`] in a `PyCapsule` that is named [`CAPSULE`], behind it a [`Table`].
//!
//! - A host looks at the capsule's name first, then at `abi_major`, then at `size`, and refuses what
//!   does not fit before it reads anything else.
//! - `call`, `save` and `load` must not unwind, nor let a C++ exception pass.
//! - A callback refuses a second call while one is under way, with [`status::BUSY`].

use std::ffi::{CStr, c_void};

/// The name of the capsule: who finds another one must not look inside.
pub const CAPSULE: &CStr = c"lumbre.callback.v1";

/// The major version of this layout. Another one cannot be read.
pub const MAJOR: u32 = 1;

/// The minor version of this layout: it counts the additions.
pub const MINOR: u32 = 1;

/// Text in UTF-8, without a zero at its end. Lent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// The first byte; anything when there is none.
    pub start: *const u8,
    /// How many bytes there are.
    pub length: usize,
}

impl Text {
    /// Lend a text.
    #[must_use]
    pub const fn of(text: &str) -> Self {
        Self {
            start: text.as_ptr(),
            length: text.len(),
        }
    }
}

/// A slice that may be empty, for which there may be no address.
///
/// # Safety
/// There must be `length` elements at `start`, unchanged for `'a`.
#[must_use]
pub unsafe fn slice<'a, T>(start: *const T, length: usize) -> &'a [T] {
    if length == 0 {
        &[]
    } else {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

/// Texts, one behind the other. Lent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Texts {
    /// The first one; anything when there is none.
    pub start: *const Text,
    /// How many there are.
    pub length: usize,
}

impl Texts {
    /// Lend these.
    #[must_use]
    pub const fn of(texts: &[Text]) -> Self {
        Self {
            start: texts.as_ptr(),
            length: texts.len(),
        }
    }
}

/// When the callback runs at one of its hooks. Several of one hook must all hold.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The hook's number.
    pub hook: u32,
    /// 1 for "once a run", else 0.
    pub once: u32,
    /// Every n-th time, as the hook counts; 1 for each time.
    pub every: u64,
    /// The first epoch, from 1.
    pub first_epoch: u64,
    /// The last epoch, included; all ones for no end.
    pub last_epoch: u64,
}

/// Filters, one behind the other. Lent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Filters {
    /// The first one; anything when there is none.
    pub start: *const Filter,
    /// How many there are.
    pub length: usize,
}

impl Filters {
    /// Lend these.
    #[must_use]
    pub const fn of(filters: &[Filter]) -> Self {
        Self {
            start: filters.as_ptr(),
            length: filters.len(),
        }
    }
}

/// The object that the capsule points at: one callback. Owned by the extension, which ends it with `drop`.
#[repr(C)]
#[derive(Debug)]
pub struct Handle {
    /// The table of its kind of callback. Lives as long as the process.
    pub table: *const Table,
    /// The callback itself, for the table's functions; NULL once it is dropped.
    pub state: *mut c_void,
}

/// The kind of a callback: one constant for each type.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// [`MAJOR`] when it was built.
    pub abi_major: u32,
    /// [`MINOR`] when it was built.
    pub abi_minor: u32,
    /// The bytes of this struct when it was built.
    pub size: usize,
    /// A bit for each hook to be called at, by number.
    pub hooks: u64,
    /// Smaller runs earlier; never NaN.
    pub weight: f64,
    /// The name that other callbacks refer to.
    pub name: Text,
    /// The crate that it comes from.
    pub crate_name: Text,
    /// The version of that crate.
    pub crate_version: Text,
    /// The filters on its hooks.
    pub filters: Filters,
    /// Names of callbacks that have to come earlier.
    pub after: Texts,
    /// Names of callbacks that have to come later.
    pub before: Texts,
    /// Act at the hook that the call tells; gives a [`status`]. The host may call from any thread,
    /// and it is for the callback to refuse a second call while one is under way ([`status::BUSY`]).
    pub call: Option<unsafe extern "C" fn(state: *mut c_void, call: *const Call) -> u32>,
    /// End the callback and set `state` to NULL. Nobody may be calling it.
    pub drop: Option<unsafe extern "C" fn(handle: *mut Handle)>,
    // The first layout ended here: what follows is read only when `size` reaches over it.
    /// Names of the values that it logs, so that others may watch them.
    pub logs: Texts,
    /// Write the state to the store, by one call of its `write`; gives a [`status`].
    pub save: Option<unsafe extern "C" fn(state: *mut c_void, store: *const Store) -> u32>,
    /// Take up a state that `save` has written; gives a [`status`].
    pub load: Option<
        unsafe extern "C" fn(
            state: *mut c_void,
            store: *const Store,
            form: u32,
            start: *const u8,
            length: usize,
        ) -> u32,
    >,
}

/// The smallest table there is: up to `drop`.
pub const FIRST_TABLE: usize = std::mem::offset_of!(Table, logs);

/// No table is larger: a greater `size` is nonsense.
pub const LARGEST: usize = 4096;

/// The run at one hook, lent by the host until the callback returns.
///
/// Functions that answer give an [`answer`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The host's [`MAJOR`].
    pub abi_major: u32,
    /// The host's [`MINOR`].
    pub abi_minor: u32,
    /// The bytes of this struct, as the host knows it.
    pub size: usize,
    /// The hook's number.
    pub hook: u32,
    /// 1 while a training pass is under way, or was last; else 0.
    pub training: u32,
    /// The epoch, from 1; 0 before the first.
    pub epoch: u64,
    /// The batch in this pass, from 1; 0 before the first.
    pub iter: u64,
    /// The training batch in the whole run, from 1; 0 before the first.
    pub step_count: u64,
    /// The samples in the batch under way. May run Python.
    pub batch_size: unsafe extern "C" fn(call: *const Call, value: *mut u64) -> u32,
    /// The loss of the batch under way. May run Python.
    pub loss: unsafe extern "C" fn(call: *const Call, value: *mut f64) -> u32,
    /// A metric of a [`set`] by its name in the records; epoch 0 is the one under way. May run Python.
    pub metric: unsafe extern "C" fn(
        call: *const Call,
        set: u32,
        name: Text,
        epoch: u64,
        value: *mut f64,
    ) -> u32,
    /// One of the batch's tensors ([`which`]). What it points at is lent until the callback returns
    /// or calls a function here that may run Python; only the first call of it may.
    pub tensor: unsafe extern "C" fn(call: *const Call, which: u32, tensor: *mut Tensor) -> u32,
    /// Log a value of this epoch into the records of a [`set`].
    pub log: unsafe extern "C" fn(call: *const Call, set: u32, name: Text, value: f64) -> u32,
    /// End the run when the batch under way is finished.
    pub stop: unsafe extern "C" fn(call: *const Call, reason: Text),
    /// Leave the batch under way.
    pub skip_batch: unsafe extern "C" fn(call: *const Call),
    /// Leave the rest of the epoch, when the batch under way is finished.
    pub skip_epoch: unsafe extern "C" fn(call: *const Call),
    /// Say what went wrong, for a status that says that something did.
    pub fail: unsafe extern "C" fn(call: *const Call, message: Text),
    /// The Python object `ctx`, borrowed; NULL when the host is not Python. May run Python.
    pub python: unsafe extern "C" fn(call: *const Call) -> *mut c_void,
    // The first layout ended here: what follows is read only when `size` reaches over it.
    /// Log a value whose mean over the pass under way is recorded, with its weight; NaN stands for
    /// that of the batch, its samples. Since 1.1.
    pub log_mean:
        unsafe extern "C" fn(call: *const Call, name: Text, value: f64, weight: f64) -> u32,
}

/// The smallest call there is: up to `python`. What may follow is read only when `size` reaches over it.
pub const FIRST_CALL: usize = std::mem::offset_of!(Call, log_mean);

/// A tensor in the CPU's memory, to be read and not to be written. Types are numbered as `DLPack`
/// does.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// The first element, aligned for its type; anything when there is none.
    pub data: *const c_void,
    /// The size of each dimension, none negative.
    pub shape: *const i64,
    /// The step from one element to the next in each dimension, counted in elements.
    pub strides: *const i64,
    /// How many dimensions there are.
    pub dimensions: u32,
    /// 0 for integers, 1 for unsigned ones, 2 for floats, 4 for bfloat, 6 for booleans.
    pub code: u8,
    /// The bits of one element.
    pub bits: u8,
    /// Always 1.
    pub lanes: u16,
}

/// Where a state goes to, and where the trouble with it is told. Lent by the host.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// The host's [`MAJOR`].
    pub abi_major: u32,
    /// The host's [`MINOR`].
    pub abi_minor: u32,
    /// The bytes of this struct, as the host knows it.
    pub size: usize,
    /// Take a copy of the state, in one of the [`form`]s.
    pub write:
        unsafe extern "C" fn(store: *const Store, form: u32, start: *const u8, length: usize),
    /// Say what went wrong, for a status that says that something did.
    pub fail: unsafe extern "C" fn(store: *const Store, message: Text),
}

/// The status that a callback's function comes back with.
pub mod status {
    /// All is well.
    pub const OK: u32 = 0;
    /// It failed; `fail` was told why.
    pub const FAILED: u32 = 1;
    /// It panicked; `fail` was told how.
    pub const PANICKED: u32 = 2;
    /// It is being called already, further up or in another thread.
    pub const BUSY: u32 = 3;
    /// A Python exception is set.
    pub const PYTHON: u32 = 4;
    /// It panicked in an earlier call, and does nothing any more.
    pub const BROKEN: u32 = 5;
    /// It has been dropped, and was not called at all: the host's own word.
    pub const GONE: u32 = 6;
    /// From here on: the host said [`super::answer::FAILED`], or as much above it as this is above
    /// here, and the callback gives up for it; the host knows why.
    pub const HOST: u32 = 0x100;
}

/// The answer that a function of the host comes back with.
pub mod answer {
    /// There is no such thing now.
    pub const NONE: u32 = 0;
    /// Here it is.
    pub const GIVEN: u32 = 1;
    /// From here on: it went wrong. The host keeps the errors of a call, and this numbers them.
    pub const FAILED: u32 = 0x100;
}

/// The sets of records.
pub mod set {
    /// That of the pass under way; the training set outside of one.
    pub const CURRENT: u32 = 0;
    /// The training set.
    pub const TRAIN: u32 = 1;
    /// The validation set.
    pub const VALID: u32 = 2;
}

/// The tensors of a batch.
pub mod which {
    /// The input of the model.
    pub const INPUT: u32 = 0;
    /// The target that it is to predict.
    pub const TARGET: u32 = 1;
    /// Its prediction.
    pub const PRED: u32 = 2;
}

/// The forms of a saved state.
pub mod form {
    /// Bytes that nobody else understands.
    pub const BYTES: u32 = 0;
    /// JSON, in UTF-8.
    pub const JSON: u32 = 1;
}

/// The places of every field. A change here is a change of the ABI.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};

    assert!(size_of::<Text>() == 16 && offset_of!(Text, length) == 8);
    assert!(size_of::<Texts>() == 16 && offset_of!(Texts, length) == 8);
    assert!(size_of::<Filters>() == 16 && offset_of!(Filters, length) == 8);
    assert!(size_of::<Filter>() == 32 && offset_of!(Filter, once) == 4);
    assert!(offset_of!(Filter, every) == 8 && offset_of!(Filter, first_epoch) == 16);
    assert!(offset_of!(Filter, last_epoch) == 24);
    assert!(size_of::<Handle>() == 16 && offset_of!(Handle, table) == 0);
    assert!(offset_of!(Handle, state) == 8);

    assert!(align_of::<Table>() == 8 && size_of::<Table>() == 176);
    assert!(offset_of!(Table, abi_major) == 0 && offset_of!(Table, abi_minor) == 4);
    assert!(offset_of!(Table, size) == 8 && offset_of!(Table, hooks) == 16);
    assert!(offset_of!(Table, weight) == 24 && offset_of!(Table, name) == 32);
    assert!(offset_of!(Table, crate_name) == 48 && offset_of!(Table, crate_version) == 64);
    assert!(offset_of!(Table, filters) == 80 && offset_of!(Table, after) == 96);
    assert!(offset_of!(Table, before) == 112 && offset_of!(Table, call) == 128);
    assert!(offset_of!(Table, drop) == 136 && FIRST_TABLE == 144);
    assert!(offset_of!(Table, logs) == 144 && offset_of!(Table, save) == 160);
    assert!(offset_of!(Table, load) == 168);

    assert!(align_of::<Call>() == 8 && size_of::<Call>() == 136);
    assert!(offset_of!(Call, abi_major) == 0 && offset_of!(Call, abi_minor) == 4);
    assert!(offset_of!(Call, size) == 8 && offset_of!(Call, hook) == 16);
    assert!(offset_of!(Call, training) == 20 && offset_of!(Call, epoch) == 24);
    assert!(offset_of!(Call, iter) == 32 && offset_of!(Call, step_count) == 40);
    assert!(offset_of!(Call, batch_size) == 48 && offset_of!(Call, loss) == 56);
    assert!(offset_of!(Call, metric) == 64 && offset_of!(Call, tensor) == 72);
    assert!(offset_of!(Call, log) == 80 && offset_of!(Call, stop) == 88);
    assert!(offset_of!(Call, skip_batch) == 96 && offset_of!(Call, skip_epoch) == 104);
    assert!(offset_of!(Call, fail) == 112 && offset_of!(Call, python) == 120);
    assert!(offset_of!(Call, log_mean) == 128 && FIRST_CALL == 128);

    assert!(size_of::<Tensor>() == 32 && offset_of!(Tensor, shape) == 8);
    assert!(offset_of!(Tensor, strides) == 16 && offset_of!(Tensor, dimensions) == 24);
    assert!(offset_of!(Tensor, code) == 28 && offset_of!(Tensor, bits) == 29);
    assert!(offset_of!(Tensor, lanes) == 30);

    assert!(size_of::<Store>() == 32 && offset_of!(Store, size) == 8);
    assert!(offset_of!(Store, write) == 16 && offset_of!(Store, fail) == 24);
};
