//! The means of what is logged in a pass: of numbers, and of tensors on a device.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use lumbre_core::lock::lock;
use lumbre_core::means::Means;
use pyo3::prelude::*;

use crate::error::raise;
use crate::lumbre;

/// A value that was logged, or one for a row.
pub enum Cell {
    /// It is known.
    Number(f64),
    /// It lies on a device: a tensor of its own, without a graph.
    Late(Py<PyAny>),
}

/// A value on a device that is not counted yet, with the number of its mean and its own weight.
type Waiting = (usize, Py<PyAny>, Option<f64>);

/// Means by name; `Means` of the core, and those of them that a device sums up.
#[derive(Default)]
pub struct Logged {
    /// Something was logged in this pass: else there is nothing to be done with a batch.
    in_use: AtomicBool,
    core: Mutex<Means>,
    /// `Losses` of Python, made when a value is first seen on a device.
    on_device: Mutex<Option<Py<PyAny>>>,
    /// Of the batch under way, on a device.
    waiting: Mutex<Vec<Waiting>>,
    of_batch: Mutex<Vec<(usize, Py<PyAny>)>>,
}

impl Logged {
    /// Start a pass: everything is forgotten.
    pub fn reset(&self) {
        if !self.in_use.load(Relaxed) {
            return;
        }
        lock(&self.core).reset();
        let held = (
            lock(&self.on_device).take(),
            std::mem::take(&mut *lock(&self.waiting)),
            std::mem::take(&mut *lock(&self.of_batch)),
        );
        // Dropped when no lock is held: dropping may run Python.
        drop(held);
        self.in_use.store(false, Relaxed);
    }

    /// True if a name has a mean in this pass.
    pub fn knows(&self, name: &str) -> bool {
        self.in_use.load(Relaxed) && lock(&self.core).find(name).is_some()
    }

    /// Log a value of the batch under way, which is counted later.
    pub fn wait(&self, py: Python<'_>, name: &str, value: Cell, weight: Option<f64>) {
        self.in_use.store(true, Relaxed);
        let mut core = lock(&self.core);
        let place = core.place(name);
        match value {
            Cell::Number(number) => core.wait(place, number, weight),
            Cell::Late(tensor) => {
                drop(core);
                lock(&self.waiting).push((place, tensor.clone_ref(py), weight));
                self.show(place, tensor);
            }
        }
    }

    /// Log a value at once, with its weight.
    pub fn add(
        &self,
        py: Python<'_>,
        iter: u64,
        name: &str,
        value: Cell,
        weight: f64,
        in_batch: bool,
    ) -> PyResult<()> {
        self.in_use.store(true, Relaxed);
        let mut core = lock(&self.core);
        let place = core.place(name);
        match value {
            Cell::Number(number) => {
                core.add(place, number, weight);
                if in_batch {
                    core.show(place, Some(number));
                }
            }
            Cell::Late(tensor) => {
                drop(core);
                self.sum_up(py, iter, place, tensor.bind(py), weight)?;
                if in_batch {
                    self.show(place, tensor);
                }
            }
        }
        Ok(())
    }

    fn show(&self, place: usize, tensor: Py<PyAny>) {
        let mut of_batch = lock(&self.of_batch);
        let known = of_batch.iter().position(|(known, _)| *known == place);
        let before = known.map(|index| of_batch.swap_remove(index));
        of_batch.push((place, tensor));
        drop(of_batch);
        // Dropped when the lock is not held: dropping may run Python.
        drop(before);
    }

    /// Begin a batch: nothing is logged of it yet.
    pub fn begin_batch(&self) {
        if !self.in_use.load(Relaxed) {
            return;
        }
        lock(&self.core).begin_batch();
        let held = (
            std::mem::take(&mut *lock(&self.waiting)),
            std::mem::take(&mut *lock(&self.of_batch)),
        );
        drop(held);
    }

    /// Count the batch under way, which has that weight.
    pub fn count(&self, py: Python<'_>, iter: u64, weight: f64) -> PyResult<()> {
        if !self.in_use.load(Relaxed) {
            return Ok(());
        }
        lock(&self.core).count(weight);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for (place, tensor, own) in waiting {
            self.sum_up(py, iter, place, tensor.bind(py), own.unwrap_or(weight))?;
        }
        Ok(())
    }

    /// True if something was logged of the batch under way that is not counted yet.
    pub fn is_waiting(&self) -> bool {
        self.in_use.load(Relaxed)
            && (lock(&self.core).is_waiting() || !lock(&self.waiting).is_empty())
    }

    /// Take the batch under way back out.
    pub fn retract(&self, py: Python<'_>, iter: u64) -> PyResult<()> {
        if !self.in_use.load(Relaxed) {
            return Ok(());
        }
        lock(&self.core).retract();
        match self.device(py) {
            Some(sums) => sums
                .call_method1(lumbre::Losses::retract(py), (iter,))
                .map(drop),
            None => Ok(()),
        }
    }

    /// The means so far; what lies on a device is waited for.
    pub fn values(&self, py: Python<'_>) -> PyResult<Vec<(Arc<str>, f64)>> {
        if !self.in_use.load(Relaxed) {
            return Ok(Vec::new());
        }
        self.fetch(py)?;
        let core = lock(&self.core);
        let values = core.values();
        Ok(values
            .map(|(name, mean)| (Arc::clone(name), mean))
            .collect())
    }

    /// The names of the means so far.
    pub fn names(&self) -> Vec<Arc<str>> {
        if !self.in_use.load(Relaxed) {
            return Vec::new();
        }
        lock(&self.core).names().cloned().collect()
    }

    /// Tell the values of the batch under way.
    pub fn of_batch(&self, py: Python<'_>, tell: &mut dyn FnMut(&Arc<str>, Cell)) {
        if !self.in_use.load(Relaxed) {
            return;
        }
        let core = lock(&self.core);
        for (name, value) in core.of_batch() {
            tell(name, Cell::Number(value));
        }
        for (place, tensor) in lock(&self.of_batch).iter() {
            if let Some(name) = core.name(*place) {
                tell(name, Cell::Late(tensor.clone_ref(py)));
            }
        }
    }

    /// What each name has seen so far; what lies on a device is waited for.
    pub fn state(&self, py: Python<'_>) -> PyResult<Vec<(String, Vec<f64>)>> {
        self.fetch(py)?;
        Ok(lock(&self.core).state())
    }

    /// Go on from a state.
    pub fn restore(&self, py: Python<'_>, state: Vec<(String, Vec<f64>)>) -> PyResult<()> {
        self.reset();
        if !state.is_empty() {
            lock(&self.core).load(&state).map_err(raise)?;
            self.in_use.store(true, Relaxed);
        }
        self.fetch(py)
    }

    fn device<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let sums = lock(&self.on_device);
        sums.as_ref().map(|sums| sums.bind(py).clone())
    }

    fn sum_up(
        &self,
        py: Python<'_>,
        iter: u64,
        place: usize,
        tensor: &Bound<'_, PyAny>,
        weight: f64,
    ) -> PyResult<()> {
        let sums = if let Some(sums) = self.device(py) {
            sums
        } else {
            let made = lumbre::losses(py)?.call0()?;
            *lock(&self.on_device) = Some(made.clone().unbind());
            made
        };
        sums.call_method1(lumbre::Losses::add(py), (place, tensor, weight, iter))
            .map(drop)
    }

    /// Bring what the device has summed up over to the host.
    fn fetch(&self, py: Python<'_>) -> PyResult<()> {
        let Some(sums) = lock(&self.on_device).take() else {
            return Ok(());
        };
        let fetched: Vec<(usize, f64, f64, u64)> = sums
            .bind(py)
            .call_method0(lumbre::Losses::take(py))?
            .extract()?;
        let mut core = lock(&self.core);
        for (place, mean, weight, _) in fetched {
            core.add_earlier(place, mean, weight);
        }
        Ok(())
    }
}
