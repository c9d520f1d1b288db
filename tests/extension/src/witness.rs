//! All that a callback can know.

use lumbre_abi::pyo3::prelude::*;
use lumbre_abi::pyo3::types::{IntoPyDict, PyDict};
use lumbre_abi::{Ctx, Hook, Result, Tensor, callback};

/// Type, shape and sum of a tensor.
type Look = Option<(&'static str, Vec<i64>, f64)>;

/// Tells a function of Python's what it knows.
pub struct Witness {
    tell: Py<PyAny>,
}

/// Calls `tell(ctx, dict)` at every breakpoint, with all that `Ctx` has to say there.
#[callback(weight = 100)]
impl Witness {
    pub fn new(tell: Py<PyAny>) -> Self {
        Self { tell }
    }

    fn tell(&self, ctx: &mut Ctx<'_>) -> Result {
        let hook = ctx.hook().map(Hook::name);
        let counters = [ctx.epoch(), ctx.iter(), ctx.step_count()];
        let training = ctx.training();
        let sizes = (ctx.batch_size()?, ctx.loss()?);
        let metrics = [
            ctx.metric("loss")?,
            ctx.metric("train_loss")?,
            ctx.metric("valid_loss")?,
            ctx.metric("train_nothing")?,
            ctx.metric_at("train_loss", 1)?,
        ];
        let tensors = [look(ctx.input()?), look(ctx.target()?), look(ctx.pred()?)];
        ctx.python(|ctx| {
            let py = ctx.py();
            let known: Bound<'_, PyDict> = [("training", training)].into_py_dict(py)?;
            known.set_item("hook", hook)?;
            for (name, value) in ["epoch", "iter", "step_count"].into_iter().zip(counters) {
                known.set_item(name, value)?;
            }
            known.set_item("batch_size", sizes.0)?;
            known.set_item("loss", sizes.1)?;
            known.set_item("metrics", metrics.to_vec())?;
            for (name, tensor) in ["input", "target", "pred"].into_iter().zip(tensors) {
                known.set_item(name, tensor)?;
            }
            self.tell.bind(py).call1((ctx, known)).map(drop)
        })
    }

    fn on_fit_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_epoch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_after_pred(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_before_backward(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_before_step(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_after_step(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_batch_after_pred(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_valid_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_early_stopping(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_fit_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_predict_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_predict_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_predict_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_predict_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_checkpoint(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_interrupt(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }

    fn on_exception(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.tell(ctx)
    }
}

fn look(tensor: Option<Tensor<'_>>) -> Look {
    tensor.map(|tensor| {
        let mut sum = 0.0;
        tensor.for_each(|value| sum += value);
        (tensor.dtype().name(), tensor.shape().to_vec(), sum)
    })
}
