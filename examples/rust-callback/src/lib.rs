//! Callbacks for lumbre that guard a run against bad losses.

use lumbre_abi::{Ctx, Result, callback};

pub struct LossSpike {
    factor: f64,
}

/// Leaves out each training batch whose loss leaps: more than `factor` times the mean of the epoch
/// so far, or not finite. Its loss is logged as `spike`, and the optimizer does not step.
///
/// For models with one optimizer and a loss that is never negative.
#[callback(logs("spike"))]
impl LossSpike {
    #[defaults(factor = 3.0)]
    pub fn new(factor: f64) -> Result<Self> {
        if factor > 1.0 {
            return Ok(Self { factor });
        }
        Err(format!("factor has to be above 1; got {factor}").into())
    }

    fn on_train_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let loss = ctx.loss()?.ok_or("the batch has no loss")?;
        let mean = ctx.metric("train_loss")?.unwrap_or(loss);
        if !loss.is_finite() || loss > self.factor * mean {
            ctx.skip_batch();
            ctx.log("spike", loss)?;
        }
        Ok(())
    }
}

#[cfg(feature = "python")]
lumbre_abi::module!(lossguard: LossSpike);

#[cfg(test)]
mod tests {
    use super::*;
    use lumbre_abi::Hook;
    use lumbre_abi::testing::{Mounted, Run};

    /// A batch with this loss, after others with a mean of 1.
    fn after(loss: f64) -> Run {
        let mut run = Run::new();
        run.metrics.insert("train_loss".into(), 1.0);
        run.loss = Some(loss);
        let spike = Mounted::new(LossSpike::new(3.0).unwrap());
        run.fire(&spike, Hook::TrainBatchAfterLoss).unwrap();
        run
    }

    #[test]
    fn a_loss_that_leaps_is_left_out() {
        for loss in [3.1, f64::NAN, f64::INFINITY] {
            let run = after(loss);
            assert!(run.batch_skipped, "a loss of {loss}");
            assert_eq!(run.logged.len(), 1);
            assert_eq!(run.logged[0].0, "train_spike");
        }
    }

    #[test]
    fn other_losses_are_left_alone() {
        for loss in [0.0, 1.0, 3.0] {
            let run = after(loss);
            assert!(!run.batch_skipped, "a loss of {loss}");
            assert!(run.logged.is_empty());
        }
    }

    #[test]
    fn the_first_batch_has_nothing_to_leap_from() {
        let mut run = Run::new();
        run.loss = Some(1e6);
        let spike = Mounted::new(LossSpike::new(3.0).unwrap());
        run.fire(&spike, Hook::TrainBatchAfterLoss).unwrap();
        assert!(!run.batch_skipped);
    }

    #[test]
    fn a_factor_that_would_leave_out_ordinary_batches_is_refused() {
        for factor in [1.0, -3.0, f64::NAN] {
            let error = LossSpike::new(factor).err().unwrap().to_string();
            assert_eq!(error, format!("factor has to be above 1; got {factor}"));
        }
    }
}
