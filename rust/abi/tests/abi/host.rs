//! A host that the tests have in hand: it says what it is told to, and keeps what it hears.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

use lumbre_abi::host::{Foreign, lossy};
use lumbre_abi::layout::{Call, MAJOR, MINOR, Tensor, Text, answer, status};
use lumbre_abi::{Callback, Exported, OwnedHandle};

/// A call with fields behind today's, as a later version may have them.
#[repr(C)]
pub struct Host {
    pub call: Call,
    later: [u64; 4],
    /// What every question is answered with.
    pub answer: u32,
    /// The tensor that is lent, if one is.
    pub tensor: Cell<Option<Tensor>>,
    pub message: RefCell<Option<String>>,
    pub logged: RefCell<Vec<(String, f64)>>,
    pub means: RefCell<Vec<(String, f64, f64)>>,
    pub stopped: RefCell<Option<String>>,
}

impl Host {
    /// At the breakpoint of that number.
    pub fn at(hook: u32) -> Self {
        Self {
            call: Call {
                abi_major: MAJOR,
                abi_minor: MINOR,
                size: size_of::<Call>(),
                hook,
                training: 1,
                epoch: 1,
                iter: 1,
                step_count: 1,
                batch_size,
                loss,
                metric,
                tensor,
                log,
                stop,
                skip_batch: nothing,
                skip_epoch: nothing,
                fail,
                python,
                log_mean,
            },
            later: [u64::MAX; 4],
            answer: answer::NONE,
            tensor: Cell::default(),
            message: RefCell::default(),
            logged: RefCell::default(),
            means: RefCell::default(),
            stopped: RefCell::default(),
        }
    }

    /// The status and what was said with it, unless all is well.
    pub fn fire(&self, foreign: &Foreign) -> Result<(), (u32, Option<String>)> {
        // SAFETY: a whole call, at the head of this host, as its functions expect.
        match unsafe { foreign.call(ptr::from_ref(self).cast()) } {
            status::OK => Ok(()),
            status => Err((status, self.message.take())),
        }
    }
}

/// Hand a callback over and open it. The handle has to outlive what was opened.
pub fn hand_over<T: Callback>(callback: T) -> (Foreign, OwnedHandle) {
    let handle = Exported::new(callback).handle();
    // SAFETY: a handle of this library's making.
    let foreign = unsafe { Foreign::open(handle.as_ptr()) };
    (foreign.expect("the host takes it"), handle)
}

fn host<'a>(call: *const Call) -> &'a Host {
    // SAFETY: the call is the head of a `Host`, lent by `Host::fire`, which is under way.
    unsafe { &*call.cast() }
}

unsafe extern "C" fn batch_size(call: *const Call, value: *mut u64) -> u32 {
    // SAFETY: the callback's place for the answer. So below.
    unsafe { value.write(32) };
    host(call).answer
}

unsafe extern "C" fn loss(call: *const Call, value: *mut f64) -> u32 {
    // SAFETY: as above.
    unsafe { value.write(0.5) };
    host(call).answer
}

unsafe extern "C" fn metric(call: *const Call, _: u32, _: Text, _: u64, value: *mut f64) -> u32 {
    // SAFETY: as above.
    unsafe { value.write(0.25) };
    host(call).answer
}

unsafe extern "C" fn tensor(call: *const Call, _: u32, place: *mut Tensor) -> u32 {
    match host(call).tensor.get() {
        Some(tensor) => {
            // SAFETY: as above.
            unsafe { place.write(tensor) };
            answer::GIVEN
        }
        None => answer::NONE,
    }
}

unsafe extern "C" fn log(call: *const Call, _: u32, name: Text, value: f64) -> u32 {
    // SAFETY: the callback's text is there until we return. So below.
    let name = unsafe { lossy(name) };
    host(call).logged.borrow_mut().push((name, value));
    answer::GIVEN
}

unsafe extern "C" fn log_mean(call: *const Call, name: Text, value: f64, weight: f64) -> u32 {
    // SAFETY: as in `log`.
    let name = unsafe { lossy(name) };
    host(call).means.borrow_mut().push((name, value, weight));
    answer::GIVEN
}

unsafe extern "C" fn stop(call: *const Call, reason: Text) {
    // SAFETY: as in `log`.
    let reason = unsafe { lossy(reason) };
    host(call).stopped.replace(Some(reason));
}

unsafe extern "C" fn nothing(_: *const Call) {}

unsafe extern "C" fn fail(call: *const Call, message: Text) {
    // SAFETY: as in `log`.
    let message = unsafe { lossy(message) };
    host(call).message.replace(Some(message));
}

unsafe extern "C" fn python(_: *const Call) -> *mut c_void {
    ptr::null_mut()
}
