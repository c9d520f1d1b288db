//! A panic in a callback that has more to do before the run is over.
#![allow(
    clippy::unused_self,
    reason = "hooks have the signatures that they have"
)]

use lumbre_abi::{Ctx, callback};

/// Panics in the second batch.
#[derive(Default)]
pub struct Bursts;

/// Panics at `on_train_batch_end` of the second batch; it is due at every end, and when things go wrong.
#[callback]
impl Bursts {
    /// # Panics
    /// In the second batch.
    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) {
        assert!(ctx.iter() != 2, "the boiler burst");
    }

    fn on_train_end(&mut self) {}

    fn on_valid_end(&mut self) {}

    fn on_epoch_end(&mut self) {}

    fn on_fit_end(&mut self) {}

    fn on_interrupt(&mut self) {}

    fn on_exception(&mut self) {}
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::layout::status;
    use lumbre_abi::testing::{Mounted, Run};

    use super::*;

    #[test]
    fn after_its_panic_every_hook_is_refused_as_broken() {
        let (mut run, bursts) = (Run::new(), Mounted::new(Bursts));
        run.fire(&bursts, Hook::EpochEnd).unwrap();
        run.next_batch();
        let statuses = [Hook::TrainBatchEnd, Hook::Exception, Hook::EpochEnd]
            .map(|hook| run.fire(&bursts, hook).unwrap_err().status);
        assert_eq!(statuses, [status::PANICKED, status::BROKEN, status::BROKEN]);
    }
}
