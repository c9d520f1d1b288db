//! What is asked of a run, and what comes of two questions that fail.

use lumbre_abi::{Ctx, Result, callback};

/// Asks two questions that may fail, and then says which failure it goes by.
pub struct Both {
    goes_by: String,
}

/// Asks for the input and for the target at `on_train_batch_begin`, and fails as the one that is named:
/// `"input"` or `"target"`; as neither otherwise.
#[callback]
impl Both {
    pub fn new(goes_by: String) -> Self {
        Self { goes_by }
    }

    fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let (input, target) = (ctx.input().map(drop), ctx.target().map(drop));
        match self.goes_by.as_str() {
            "input" => input,
            "target" => target,
            _ => Ok(()),
        }
    }
}

/// Looks at the ends of batches, and nowhere else: a training step may be a quiet one.
#[derive(Default)]
pub struct Glimpse {
    seen: Vec<String>,
}

/// Remembers, at the end of every batch and at `on_exception`, where it is, the loss and the sum of the
/// prediction; they are its state.
#[callback(weight = 100)]
impl Glimpse {
    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.look(ctx)
    }

    fn on_valid_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.look(ctx)
    }

    fn on_predict_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.look(ctx)
    }

    fn on_exception(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.look(ctx)
    }

    fn look(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let number =
            |value: Option<f64>| value.map_or("null".to_owned(), |value| value.to_string());
        let (hook, iter) = (ctx.hook().map_or("?", |hook| hook.name()), ctx.iter());
        let loss = number(ctx.loss()?);
        let pred = number(ctx.pred()?.map(|pred| {
            let mut sum = 0.0;
            pred.for_each(|value| sum += value);
            sum
        }));
        self.seen
            .push(format!(r#"["{hook}", {iter}, {loss}, {pred}]"#));
        Ok(())
    }

    fn save(&self) -> String {
        format!("[{}]", self.seen.join(", "))
    }

    fn load(&mut self, state: &str) {
        let _ = state;
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::testing::{Mounted, Run, Values};
    use lumbre_abi::{Hook, Saved};

    use super::*;

    #[test]
    fn what_is_not_there_is_null() {
        let (mut run, glimpse) = (Run::new(), Mounted::new(Glimpse::default()));
        run.fire(&glimpse, Hook::TrainBatchEnd).unwrap();
        run.next_batch();
        run.loss = Some(0.5);
        run.pred = Some(Values::new(&[1.0_f32, 2.0], &[2]));
        run.fire(&glimpse, Hook::Exception).unwrap();
        let told = r#"[["on_train_batch_end", 1, null, null], ["on_exception", 2, 0.5, 3]]"#;
        assert_eq!(glimpse.save().unwrap(), Some(Saved::Json(told.into())));
    }
}
