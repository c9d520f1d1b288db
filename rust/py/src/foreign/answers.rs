//! What a foreign callback may ask of the run: the functions of a call.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lumbre_abi::host::lossy;
use lumbre_abi::layout::{Call, MAJOR, MINOR, Tensor, Text, answer};
use lumbre_core::Result;
use lumbre_core::callback::Context;
use lumbre_core::hook::Hook;

use super::lent::Lent;
use crate::error::carry;
use crate::grad::switch_off;
use crate::means::Cell;

/// The place of an answer that says nothing but that all went well.
const NOWHERE: *mut () = std::ptr::dangling_mut();

/// A call with these functions, of no breakpoint yet.
pub const CALL: Call = Call {
    abi_major: MAJOR,
    abi_minor: MINOR,
    size: size_of::<Call>(),
    hook: 0,
    training: 0,
    epoch: 0,
    iter: 0,
    step_count: 0,
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
};

/// Answer a foreign callback: what goes wrong is kept for it, and no panic crosses the border.
///
/// # Safety
/// The call must be one that [`super::lent::call`] lends, and `place` writable.
unsafe fn give<T>(
    call: *const Call,
    place: *mut T,
    ask: impl FnOnce(&Lent<'_>) -> Result<Option<T>>,
) -> u32 {
    // SAFETY: as the caller says.
    let lent = unsafe { &*call.cast::<Lent<'_>>() };
    let asked = catch_unwind(AssertUnwindSafe(|| ask(lent)));
    match asked {
        Ok(Ok(Some(value))) => {
            // SAFETY: as the caller says.
            unsafe { place.write(value) };
            answer::GIVEN
        }
        Ok(Ok(None)) => answer::NONE,
        Ok(Err(error)) => {
            let mut errors = lent.errors.borrow_mut();
            errors.push(error);
            u32::try_from(errors.len() - 1).map_or(answer::FAILED, |n| answer::FAILED + n)
        }
        Err(_) => answer::FAILED,
    }
}

unsafe extern "C" fn batch_size(call: *const Call, value: *mut u64) -> u32 {
    // SAFETY: the call is ours, as every callback has to hand back what it was lent; the place is the
    // callback's own. So below.
    unsafe {
        give(call, value, |lent| {
            lent.forget_batch();
            lent.batch_size().map_err(carry)
        })
    }
}

unsafe extern "C" fn loss(call: *const Call, value: *mut f64) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe {
        give(call, value, |lent| {
            lent.forget_batch();
            if lent.frame.state().has_loss() {
                lent.frame.loss()
            } else {
                Ok(None)
            }
        })
    }
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
        let name = lossy(name);
        give(call, value, |lent| {
            lent.forget_batch();
            lent.metric(set, &name, epoch)
        })
    }
}

unsafe extern "C" fn tensor(call: *const Call, which: u32, tensor: *mut Tensor) -> u32 {
    // SAFETY: as in `batch_size`.
    unsafe { give(call, tensor, |lent| lent.lend(which)) }
}

unsafe extern "C" fn log(call: *const Call, set: u32, name: Text, value: f64) -> u32 {
    // SAFETY: as in `metric`.
    unsafe {
        let name: Arc<str> = lossy(name).into();
        give(call, NOWHERE, |lent| {
            let (set, epoch) = (lent.set(set)?, lent.frame.state().record_epoch());
            let run = lent.frame.run;
            if let Some(bound) = run.get().bound() {
                let checked = bound.check_name(run.py(), &name, "log");
                checked.map_err(carry)?;
            }
            let log = |records: &mut lumbre_core::records::Records| {
                records.log(set, epoch, &name, value.into());
            };
            lent.frame.records(log);
            Ok(Some(()))
        })
    }
}

unsafe extern "C" fn log_mean(call: *const Call, name: Text, value: f64, weight: f64) -> u32 {
    // SAFETY: as in `metric`.
    unsafe {
        let name = lossy(name);
        give(call, NOWHERE, |lent| {
            let (run, weight) = (
                lent.frame.run,
                Some(weight).filter(|weight| !weight.is_nan()),
            );
            let logged = run
                .get()
                .add_to_mean(run.py(), &name, Cell::Number(value), weight);
            logged.map(Some).map_err(carry)
        })
    }
}

unsafe extern "C" fn stop(call: *const Call, reason: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let reason = lossy(reason);
        wish(call, |lent| lent.frame.run.get().stop(&reason, false));
    }
}

unsafe extern "C" fn skip_batch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe {
        wish(call, |lent| {
            let run = lent.frame.run;
            run.get().skip_batch(run.py());
        });
    }
}

unsafe extern "C" fn skip_epoch(call: *const Call) {
    // SAFETY: as in `batch_size`.
    unsafe { wish(call, |lent| lent.frame.run.get().skip_epoch()) }
}

unsafe extern "C" fn fail(call: *const Call, message: Text) {
    // SAFETY: as in `metric`.
    unsafe {
        let message = lossy(message);
        wish(call, |lent| lent.message.set(Some(message)));
    }
}

unsafe extern "C" fn python(call: *const Call) -> *mut c_void {
    let mut ctx = std::ptr::null_mut();
    // SAFETY: as in `batch_size`; the run lives as long as the call.
    unsafe {
        give(call, &raw mut ctx, |lent| {
            lent.forget_batch();
            let wants_grad = lent.hook().is_some_and(Hook::has_grad);
            if !wants_grad && !lent.grad.get() {
                let was_on = switch_off(lent.frame.run.py()).map_err(carry)?;
                lent.grad.set(was_on);
            }
            Ok(Some(lent.frame.run.as_ptr().cast()))
        });
    }
    ctx
}

/// # Safety
/// As of [`give`].
unsafe fn wish(call: *const Call, record: impl FnOnce(&Lent<'_>)) {
    // SAFETY: as the caller says; there is no place to write to.
    unsafe {
        give(call, NOWHERE, |lent| {
            record(lent);
            Ok(Some(()))
        });
    }
}
