//! Means that are logged from Rust.
#![allow(
    clippy::unused_self,
    reason = "hooks have the signatures that they have"
)]

use lumbre_abi::{Ctx, Result, callback};

/// Logs the loss of each batch for a mean, under a name of the user's choice.
pub struct Means {
    name: String,
}

/// Logs the loss at the end of each batch, and at `on_train_end` once more with a weight of its own.
#[callback]
impl Means {
    pub fn new(name: String) -> Self {
        Self { name }
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.log(ctx)
    }

    fn on_valid_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.log(ctx)
    }

    fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.log_mean_weighted("ends", 3.0, 2.0)?;
        ctx.log_mean_weighted("ends", 6.0, 1.0)
    }

    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        // Outside of a pass there is none.
        match self.name.as_str() {
            "outside" => ctx.log_mean("outside", 1.0),
            _ => Ok(()),
        }
    }
}

impl Means {
    fn log(&self, ctx: &mut Ctx<'_>) -> Result {
        match ctx.loss()? {
            Some(loss) => ctx.log_mean(&self.name, loss),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::testing::{Mounted, Run};

    use super::*;

    #[test]
    fn the_loss_is_logged_with_the_weight_of_its_batch() {
        let mut run = Run {
            loss: Some(0.5),
            ..Run::new()
        };
        let means = Mounted::new(Means::new("mine".into()));
        run.fire(&means, Hook::TrainBatchEnd).unwrap();
        run.fire(&means, Hook::TrainEnd).unwrap();
        let logged = [
            ("train_mine".to_owned(), 0.5, None),
            ("train_ends".to_owned(), 3.0, Some(2.0)),
            ("train_ends".to_owned(), 6.0, Some(1.0)),
        ];
        assert_eq!(run.means, logged);
    }
}
