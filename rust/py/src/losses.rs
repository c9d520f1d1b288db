//! The losses of one set: a mean for each optimizer.

use std::sync::{Arc, Mutex};

use lumbre_core::callback::Warning;
use lumbre_core::flow::State;
use lumbre_core::lock::lock;
use lumbre_core::loss::non_finite;
use lumbre_core::metrics::Mean;
use lumbre_core::records::Value;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{raise, warn, warning_class};
use crate::lumbre;
use crate::now::{Field, Now};
use crate::tensor;

struct Loss {
    /// The optimizer whose loss it is.
    key: String,
    name: Arc<str>,
    /// The mean so far, and what it was before the batch under way.
    mean: Mutex<(Mean, Mean)>,
    /// The loss of the batch that was counted last.
    last: Mutex<Last>,
}

/// A loss as it was counted.
#[derive(Clone, Copy, Default)]
pub enum Last {
    /// There was none.
    #[default]
    Nothing,
    /// A number.
    Number(f64),
    /// One that a device keeps.
    OnDevice,
}

impl Loss {
    fn value(&self) -> Value {
        Value::Number(lock(&self.mean).0.mean())
    }
}

/// The losses of a set, and those of them that a device sums up.
pub struct Losses {
    all: Vec<Loss>,
    /// `Losses` of Python, made when a loss is first seen on a device.
    on_device: Mutex<Option<Py<PyAny>>>,
}

impl Losses {
    /// Losses as (optimizer, record's name).
    pub fn new(named: Vec<(String, String)>) -> Self {
        let loss = |(key, name): (String, String)| Loss {
            key,
            name: name.into(),
            mean: Mutex::default(),
            last: Mutex::default(),
        };
        Self {
            all: named.into_iter().map(loss).collect(),
            on_device: Mutex::default(),
        }
    }

    /// The names of the records, in their order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.iter().map(|loss| &loss.name)
    }

    /// The name under which an optimizer's loss is recorded.
    pub fn name_of(&self, key: &str) -> Option<&str> {
        let loss = self.all.iter().find(|loss| loss.key == key);
        loss.map(|loss| &*loss.name)
    }

    /// The losses of the batch that was counted last: whose each is, its record's name, its value.
    pub fn last(&self) -> impl Iterator<Item = (&str, &Arc<str>, Last)> {
        let all = self.all.iter();
        all.map(|loss| (loss.key.as_str(), &loss.name, *lock(&loss.last)))
    }

    /// Start a pass: everything is forgotten.
    pub fn reset(&self) {
        for loss in &self.all {
            *lock(&loss.mean) = Default::default();
        }
        self.keep_on_device(None);
    }

    /// Count the losses of the batch under way.
    pub fn count(&self, py: Python<'_>, state: &State, now: &Now, weight: f64) -> PyResult<()> {
        for loss in &self.all {
            let mean = &mut *lock(&loss.mean);
            mean.1 = mean.0;
            *lock(&loss.last) = Last::Nothing;
        }
        let by_name = now.get(py, Field::Losses);
        if let Ok(by_name) = by_name.cast_exact::<PyDict>() {
            for (index, loss) in self.all.iter().enumerate() {
                if let Some(value) = by_name.get_item(&loss.key)? {
                    self.count_one(state, index, &value, weight)?;
                }
            }
            return Ok(());
        }
        let value = now.get(py, Field::LossGrad);
        if value.is_none() {
            Ok(())
        } else {
            self.count_one(state, 0, &value, weight)
        }
    }

    fn count_one(
        &self,
        state: &State,
        index: usize,
        value: &Bound<'_, PyAny>,
        weight: f64,
    ) -> PyResult<()> {
        let Some(loss) = self.all.get(index) else {
            return Ok(());
        };
        let number = match tensor::read(value, |view| view.item())? {
            Some(number) => number,
            // To ask a tensor on a device for its value would be to wait for it.
            None if tensor::is_tensor(value)? => None,
            None => value.extract::<f64>().ok(),
        };
        let py = value.py();
        let Some(number) = number else {
            // On a device, or no plain tensor: nothing here waits for its value.
            *lock(&loss.last) = Last::OnDevice;
            return self
                .device(py)?
                .call_method1(
                    lumbre::Losses::add(py),
                    (index, value, weight, state.iter()),
                )
                .map(drop);
        };
        lock(&loss.mean).0.add(number, weight);
        *lock(&loss.last) = Last::Number(number);
        if number.is_finite() || !state.is_first_non_finite() {
            return Ok(());
        }
        tell_non_finite(py, &loss.name, number, &state.place())
    }

    /// Take the batch under way back out.
    pub fn retract(&self, py: Python<'_>, iter: u64) -> PyResult<()> {
        for loss in &self.all {
            let mean = &mut *lock(&loss.mean);
            mean.0 = mean.1;
        }
        match self.on_device(py) {
            Some(losses) => losses
                .call_method1(lumbre::Losses::retract(py), (iter,))
                .map(drop),
            None => Ok(()),
        }
    }

    /// The means so far, under the names of their records.
    pub fn values(&self, py: Python<'_>, state: &State) -> PyResult<Vec<(Arc<str>, Value)>> {
        self.fetch(py, state)?;
        let value = |loss: &Loss| (Arc::clone(&loss.name), loss.value());
        Ok(self.all.iter().map(value).collect())
    }

    /// What each loss has seen so far, by its record's name.
    pub fn state(&self, py: Python<'_>, state: &State) -> PyResult<Vec<(String, Vec<f64>)>> {
        self.fetch(py, state)?;
        let of = |loss: &Loss| (loss.name.to_string(), lock(&loss.mean).0.state());
        Ok(self.all.iter().map(of).collect())
    }

    /// Go on from a state.
    pub fn restore(&self, state: &[(String, Vec<f64>)]) -> PyResult<()> {
        for (name, numbers) in state {
            let mut mean = Mean::default();
            mean.load(numbers).map_err(raise)?;
            if let Some(loss) = self.all.iter().find(|loss| *loss.name == **name) {
                *lock(&loss.mean) = (mean, mean);
            }
        }
        Ok(())
    }

    /// One of the means so far.
    pub fn value(&self, py: Python<'_>, state: &State, name: &str) -> PyResult<Option<Value>> {
        let Some(loss) = self.all.iter().find(|loss| &*loss.name == name) else {
            return Ok(None);
        };
        self.fetch(py, state)?;
        Ok(Some(loss.value()))
    }

    fn on_device<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let losses = lock(&self.on_device);
        losses.as_ref().map(|losses| losses.bind(py).clone())
    }

    /// The sums on the device, made if it is not there.
    fn device<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(losses) = self.on_device(py) {
            return Ok(losses);
        }
        let made = lumbre::losses(py)?.call0()?;
        self.keep_on_device(Some(made.clone().unbind()));
        Ok(made)
    }

    fn keep_on_device(&self, losses: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *lock(&self.on_device), losses);
        // Dropped when the lock is not held: dropping may run Python.
        drop(before);
    }

    /// Bring what the device has summed up over to the host.
    fn fetch(&self, py: Python<'_>, state: &State) -> PyResult<()> {
        let losses = lock(&self.on_device).take();
        let Some(losses) = losses else {
            return Ok(());
        };
        let fetched: Vec<(usize, f64, f64, u64)> = losses
            .bind(py)
            .call_method0(lumbre::Losses::take(py))?
            .extract()?;
        for (index, mean, weight, first_bad) in fetched {
            let Some(loss) = self.all.get(index) else {
                continue;
            };
            // To both: a batch that is retracted after this takes no others with it.
            {
                let (now, before) = &mut *lock(&loss.mean);
                now.add(mean, weight);
                before.add(mean, weight);
            }
            if first_bad > 0 && state.is_first_non_finite() {
                let epoch = state.epoch().max(1);
                let place = format!("epoch {epoch}, iteration {first_bad}");
                tell_non_finite(py, &loss.name, mean, &place)?;
            }
        }
        Ok(())
    }
}

fn tell_non_finite(py: Python<'_>, name: &str, number: f64, place: &str) -> PyResult<()> {
    warn(
        py,
        warning_class(Warning::NonFiniteLoss),
        &non_finite(name, number, place, "later ones are not reported"),
    )
}
