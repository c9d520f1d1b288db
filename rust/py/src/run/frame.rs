//! The run as the core sees it: what a callback in Rust can reach.

use std::sync::Arc;

use lumbre_core::Result;
use lumbre_core::callback::{Announced, Context, Host, Warning};
use lumbre_core::flow::State;
use lumbre_core::lock::lock;
use lumbre_core::records::{Entry, Mode, Records, Set, Value};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::{carry, warn, warning_class};
use crate::lumbre;
use crate::now::Field;
use crate::tensor;

use super::Run;
use super::flow::validates;

/// Python as the host of the core.
pub struct PyHost;

/// `ctx`, lent for one breakpoint.
pub struct Frame<'a> {
    pub run: &'a Bound<'a, Run>,
}

impl Host for PyHost {
    type Context<'a> = Frame<'a>;
}

fn has(entry: &Entry, name: &str) -> bool {
    entry.iter().any(|(known, _)| &**known == name)
}

impl Context for Frame<'_> {
    fn state(&self) -> &State {
        &self.run.get().state
    }

    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T {
        with(&mut lock(&self.run.get().records))
    }

    fn reset_metrics(&self, set: Set) -> Result<()> {
        let (run, py) = (self.run.get(), self.run.py());
        let Some(bound) = run.bound() else {
            return Ok(());
        };
        run.noted(py, bound.meter(set).reset(py)).map_err(carry)
    }

    fn update_metrics(&self, _: Set) -> Result<()> {
        self.run.get().count_later();
        Ok(())
    }

    fn log_metrics(&self, set: Set) -> Result<()> {
        let (run, py) = (self.run.get(), self.run.py());
        let Some(bound) = run.bound() else {
            return Ok(());
        };
        let values = bound.meter(set).values(py, &run.state, true);
        let values = run.noted(py, values).map_err(carry)?;
        let epoch = self.state().record_epoch();
        self.records(|records| {
            // The pass' own values come first, whatever was logged while it ran.
            let logged = std::mem::take(records.reach(set, epoch));
            for (name, value) in values.into_iter().chain(logged) {
                if records
                    .entry(set, epoch)
                    .is_none_or(|entry| !has(entry, &name))
                {
                    records.log(set, epoch, &name, value);
                }
            }
        });
        Ok(())
    }

    fn draw(&self) -> Result<()> {
        self.run.get().draw_later();
        Ok(())
    }

    fn loss(&self) -> Result<Option<f64>> {
        loss(self.run).map_err(carry)
    }

    fn losses(&self) -> Result<Vec<(String, f64)>> {
        losses(self.run).map_err(carry)
    }

    fn metric(&self, set: Set, name: &str, epoch: Option<u64>) -> Result<Option<Value>> {
        let run = self.run.get();
        run.metric_value(self.run, set, name, epoch).map_err(carry)
    }

    fn metric_names(&self, set: Set) -> Result<Vec<String>> {
        self.run.get().metric_names(self.run, set).map_err(carry)
    }

    fn note_rates(&self) -> Result<()> {
        Run::note_rates_of_batch(self.run).map_err(carry)
    }

    fn step_values(&self, tell: &mut dyn FnMut(&Arc<str>, Option<f64>)) -> Result<()> {
        Run::tell_step(self.run, tell).map_err(carry)
    }

    fn samples(&self) -> Result<f64> {
        Run::samples(self.run).map_err(carry)
    }

    fn late_values(&self) -> Result<Vec<f64>> {
        self.run.get().late_values(self.run.py()).map_err(carry)
    }

    fn announced(&self) -> Result<Announced> {
        announced(self.run).map_err(carry)
    }

    fn warn(&self, warning: Warning, message: &str) -> Result<()> {
        warn(self.run.py(), warning_class(warning), message).map_err(carry)
    }

    fn say(&self, line: &str) -> Result<()> {
        say(self.run, line).map_err(carry)
    }
}

fn loss(ctx: &Bound<'_, Run>) -> PyResult<Option<f64>> {
    let (py, Some(bound)) = (ctx.py(), ctx.get().bound()) else {
        return Ok(None);
    };
    let now = &bound.now;
    let value = now.get(py, Field::LossGrad);
    if !value.is_none() {
        return number(&value);
    }
    let losses = now.get(py, Field::Losses);
    let Ok(losses) = losses.cast_exact::<PyDict>() else {
        return Ok(None);
    };
    let value = losses.get_item(now.get(py, Field::OptName))?;
    value.map_or(Ok(None), |value| number(&value))
}

fn losses(ctx: &Bound<'_, Run>) -> PyResult<Vec<(String, f64)>> {
    let (py, Some(bound)) = (ctx.py(), ctx.get().bound()) else {
        return Ok(Vec::new());
    };
    let meter = bound.meter(Set::Train);
    let mut losses = Vec::new();
    let by_name = ctx
        .getattr(lumbre::Context::loss(py))?
        .cast_into::<PyDict>()?;
    // To ask a value for its number may run Python, which must not find the dict in use.
    let pairs: Vec<_> = by_name.iter().collect();
    for (key, value) in pairs {
        let key = key.extract::<String>()?;
        if let Some(number) = number(&value)? {
            let name = meter.loss_name(&key).map_or(key.clone(), str::to_owned);
            losses.push((name, number));
        }
    }
    Ok(losses)
}

/// The value of a loss, waited for where it lies on a device; `None` of what is no scalar.
fn number(value: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    if let Some(number) = tensor::read(value, |view| view.item())? {
        return Ok(number);
    }
    if !tensor::is_tensor(value)? {
        return Ok(value.extract().ok());
    }
    if value.call_method0("numel")?.extract::<usize>()? != 1 {
        return Ok(None);
    }
    let item = value.call_method0("detach")?.call_method0("item")?;
    Ok(item.extract().ok())
}

fn announced(ctx: &Bound<'_, Run>) -> PyResult<Announced> {
    let py = ctx.py();
    let mut announced = Announced {
        validates: validates(ctx)?,
        ..Announced::default()
    };
    announced.may_log = ctx.getattr(lumbre::Context::may_log(py))?.is_truthy()?;
    if let Some(bound) = ctx.get().bound() {
        announced.logs = bound.plan.logs().cloned().collect();
        announced.metrics = Set::ALL.map(|set| bound.meter(set).names());
        for set in Set::ALL {
            let meter = bound.meter(set);
            announced.may_have_others |= meter.may_have_others(py);
            // Which value is the better one, where that is known.
            for (name, direction) in meter.directions(py)? {
                let mode = Mode::from_name(&direction);
                let better = mode.map(|mode| (format!("{}_{name}", set.name()), mode));
                announced.better.extend(better);
            }
        }
    }
    for callback in ctx.getattr(lumbre::Context::callbacks(py))?.try_iter()? {
        let Some(names) = callback?.getattr_opt(lumbre::Callback::logs(py))? else {
            continue;
        };
        if names.is_instance_of::<PyString>() {
            announced.logs.push(names.extract()?);
            continue;
        }
        for name in names.try_iter()? {
            announced.logs.push(name?.extract()?);
        }
    }
    Ok(announced)
}

fn say(ctx: &Bound<'_, Run>, line: &str) -> PyResult<()> {
    if ctx
        .getattr(lumbre::Context::verbose(ctx.py()))?
        .is_truthy()?
    {
        lumbre::say(ctx.py())?.call1((line,))?;
    }
    Ok(())
}
