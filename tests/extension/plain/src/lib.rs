//! Callbacks for lumbre without Python: the tests put the handle into a capsule by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use lumbre_abi::layout::Handle;
use lumbre_abi::{Ctx, Exported, OwnedHandle, Result, callback};

static DROPS: AtomicU64 = AtomicU64::new(0);

struct Plain {
    batches: u64,
    most: u64,
}

#[callback(weight = 0.5, name = "PlainCounter", logs("plain_batches"))]
impl Plain {
    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.batches += 1;
        ctx.log("plain_batches", self.batches as f64)?;
        if self.batches == self.most {
            ctx.stop(format!("{} batches are enough", self.most));
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        self.batches.to_le_bytes().into()
    }

    fn load(&mut self, state: &[u8]) -> Result {
        self.batches = u64::from_le_bytes(state.try_into()?);
        Ok(())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handle on a callback that stops after so many batches. It goes back by [`plain_free`].
#[unsafe(no_mangle)]
pub extern "C" fn plain_new(most: u64) -> *mut Handle {
    Exported::new(Plain { batches: 0, most })
        .handle()
        .into_raw()
}

/// End a handle that came from [`plain_new`]; NULL is none.
///
/// # Safety
/// It must come from there, be given back once, and be in nobody's hands any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plain_free(handle: *mut Handle) {
    // SAFETY: as the caller says.
    drop(unsafe { OwnedHandle::from_raw(handle) });
}

/// How many callbacks have ended so far.
#[unsafe(no_mangle)]
pub extern "C" fn plain_drops() -> u64 {
    DROPS.load(Ordering::Relaxed)
}
