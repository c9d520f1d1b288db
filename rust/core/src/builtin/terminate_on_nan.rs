//! Stop at a loss that is not finite.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::callback::{Callback, Context, Host, Warning};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::loss::non_finite;

/// Leaves the first training batch whose loss is NaN or infinite and ends the run, so that the
/// weights are those of the last good step.
///
/// A step of the user's own may never reach `on_train_batch_after_loss`; its losses are looked at when
/// the batch ends.
#[derive(Debug, Default)]
pub struct TerminateOnNaN {
    /// The training batch whose loss has been looked at.
    looked: AtomicU64,
}

impl TerminateOnNaN {
    fn look(&self, ctx: &impl Context) -> Result<Flow> {
        self.looked.store(ctx.state().step_count(), Relaxed);
        if ctx.state().batch_is_skipped() {
            // Somebody has left it out already: nothing comes of its loss.
            return Ok(Flow::Continue);
        }
        match ctx.loss()? {
            Some(loss) if !loss.is_finite() => end(ctx),
            _ => Ok(Flow::Continue),
        }
    }

    fn look_late(&self, ctx: &impl Context) -> Result<Flow> {
        let state = ctx.state();
        if state.batch_is_skipped() || self.looked.load(Relaxed) == state.step_count() {
            return Ok(Flow::Continue);
        }
        end(ctx)
    }
}

/// End the run if one of the batch's losses is not finite.
fn end(ctx: &impl Context) -> Result<Flow> {
    let losses = ctx.losses()?;
    let Some((name, loss)) = losses.into_iter().find(|(_, loss)| !loss.is_finite()) else {
        return Ok(Flow::Continue);
    };
    let state = ctx.state();
    let place = state.place();
    // Two wishes: this one goes past what is returned.
    state.wish(Flow::SkipBatch, None);
    if state.is_first_non_finite() {
        // The meter never sees a batch that is left, and the loss must not be hidden.
        let so = "TerminateOnNaN leaves the batch out and ends the run";
        ctx.warn(Warning::NonFiniteLoss, &non_finite(&name, loss, &place, so))?;
    }
    Ok(Flow::Stop(format!("the {name} is {loss} at {place}")))
}

impl<H: Host> Callback<H> for TerminateOnNaN {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[Hook::TrainBatchAfterLoss, Hook::TrainBatchEnd])
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        match hook.hook() {
            Some(Hook::TrainBatchAfterLoss) => self.look(ctx),
            Some(Hook::TrainBatchEnd) => self.look_late(ctx),
            _ => Ok(Flow::Continue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bare, Run};

    fn in_batch() -> Run {
        let run = Run::new(1);
        run.state().next_epoch();
        run.state().next_pass(true);
        run.state().enter(Hook::TrainBegin);
        run.state().next_batch();
        run
    }

    fn on(callback: &TerminateOnNaN, hook: Hook, run: &Run) -> Flow {
        Callback::<Bare>::on(callback, hook.into(), run).unwrap()
    }

    #[test]
    fn the_batch_is_left_and_the_run_ends() {
        for (loss, text) in [
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            let (run, callback) = (in_batch(), TerminateOnNaN::default());
            run.set_losses(&[("loss_a", 1.0), ("loss_b", loss)]);
            let flow = on(&callback, Hook::TrainBatchAfterLoss, &run);
            let why = format!("the loss_b is {text} at epoch 1, iteration 1, training");
            assert_eq!(flow, Flow::Stop(why));
            assert!(run.state().batch_is_skipped());
            let warnings = run.warnings();
            assert_eq!(warnings.len(), 1);
            let (kind, told) = &warnings[0];
            assert_eq!(*kind, Warning::NonFiniteLoss);
            assert!(told.starts_with(&format!("The loss_b is {text} at epoch 1, it")));
            assert_eq!(on(&callback, Hook::TrainBatchEnd, &run), Flow::Continue);
        }
    }

    #[test]
    fn the_first_loss_that_is_not_finite_is_told_once_whoever_tells_it() {
        let (run, callback) = (in_batch(), TerminateOnNaN::default());
        assert!(run.state().is_first_non_finite());
        run.set_losses(&[("loss", f64::NAN)]);
        assert_ne!(
            on(&callback, Hook::TrainBatchAfterLoss, &run),
            Flow::Continue
        );
        assert!(run.warnings().is_empty());
    }

    #[test]
    fn a_finite_loss_and_none_at_all_go_on() {
        let (run, callback) = (in_batch(), TerminateOnNaN::default());
        for losses in [&[][..], &[("loss", f64::MAX)]] {
            run.set_losses(losses);
            for hook in [Hook::TrainBatchAfterLoss, Hook::TrainBatchEnd] {
                assert_eq!(on(&callback, hook, &run), Flow::Continue);
            }
        }
        assert!(!run.state().batch_is_skipped() && run.warnings().is_empty());
    }

    #[test]
    fn the_end_of_a_batch_is_looked_at_only_when_its_loss_was_not_and_it_counts() {
        let (run, callback) = (in_batch(), TerminateOnNaN::default());
        run.set_losses(&[("loss", 1.0)]);
        on(&callback, Hook::TrainBatchAfterLoss, &run);
        run.set_losses(&[("loss", f64::NAN)]);
        assert_eq!(on(&callback, Hook::TrainBatchEnd, &run), Flow::Continue);
        run.state().next_batch();
        run.state().wish(Flow::SkipBatch, None);
        assert_eq!(on(&callback, Hook::TrainBatchEnd, &run), Flow::Continue);
        run.state().next_batch();
        assert_ne!(on(&callback, Hook::TrainBatchEnd, &run), Flow::Continue);
    }
}
