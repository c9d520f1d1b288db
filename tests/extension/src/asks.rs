//! What a callback can ask of a run.

use lumbre_abi::{Ctx, Result, Set, callback};

/// Asks once, in one training batch.
pub struct Asks {
    what: String,
    step: u64,
}

/// Asks for `what` in the training batch number `step` of the run, at `on_train_batch_after_loss`:
/// `"stop"`, `"skip_batch"`, `"skip_epoch"` or `"log"`.
#[callback(logs("asked"))]
impl Asks {
    #[defaults(step = 1)]
    pub fn new(what: String, step: u64) -> Self {
        Self { what, step }
    }

    fn on_train_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
        if ctx.step_count() != self.step {
            return Ok(());
        }
        match self.what.as_str() {
            "stop" => ctx.stop(format!("it was enough after {} steps", self.step)),
            "skip_batch" => ctx.skip_batch(),
            "skip_epoch" => ctx.skip_epoch(),
            "log" => {
                ctx.log("asked", 1.0)?;
                ctx.log("asked", self.step as f64)?;
                ctx.log_to(Set::Valid, "asked", -0.5)?;
            }
            other => return ctx.fail(format!("Asks: there is no {other:?} to ask for")),
        }
        Ok(())
    }
}
