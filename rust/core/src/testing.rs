//! A run without a language around it, for tests.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::callback::{Announced, Context, Host, Warning};
use crate::error::Result;
use crate::flow::State;
use crate::records::{Mode, Records, Set, Value};

/// A host without a language.
pub struct Bare;

impl Host for Bare {
    type Context<'a> = Run;
}

/// A run whose measurements are what a test says.
#[derive(Default)]
pub struct Run {
    state: State,
    records: RefCell<Records>,
    announced: RefCell<Announced>,
    losses: RefCell<Vec<(String, f64)>>,
    warnings: RefCell<Vec<(Warning, String)>>,
    said: RefCell<Vec<String>>,
    values: RefCell<Vec<(Arc<str>, Option<f64>)>>,
    late: RefCell<Vec<f64>>,
    noted: Cell<u64>,
}

impl Run {
    pub fn new(max_epochs: u64) -> Self {
        let state = State::new(max_epochs);
        Self {
            state,
            ..Self::default()
        }
    }

    pub fn announces(&self, metric: &str, validates: bool) {
        let mut announced = self.announced.borrow_mut();
        announced.metrics = [vec![metric.to_owned()], vec![metric.to_owned()]];
        announced.validates = validates;
    }

    pub fn announces_better(&self, name: &str, mode: Mode) {
        let mut announced = self.announced.borrow_mut();
        announced.better.push((name.to_owned(), mode));
    }

    pub fn may_log(&self) {
        self.announced.borrow_mut().may_log = true;
    }

    pub fn logs(&self, name: &str) {
        self.announced.borrow_mut().logs.push(name.to_owned());
    }

    pub fn record(&self, set: Set, name: &str, value: impl Into<Value>) {
        let epoch = self.state.record_epoch();
        self.records
            .borrow_mut()
            .log(set, epoch, &name.into(), value.into());
    }

    /// The losses of the batch; the last one is that of the optimizer under way.
    pub fn set_losses(&self, losses: &[(&str, f64)]) {
        let owned = losses.iter().map(|&(name, loss)| (name.to_owned(), loss));
        *self.losses.borrow_mut() = owned.collect();
    }

    /// The values of the batch; `None` for one that is late.
    pub fn set_values(&self, values: &[(&str, Option<f64>)]) {
        let owned = values.iter().map(|&(name, value)| (name.into(), value));
        *self.values.borrow_mut() = owned.collect();
    }

    pub fn arrives(&self, late: f64) {
        self.late.borrow_mut().push(late);
    }

    /// How often the learning rates were noted.
    pub fn noted(&self) -> u64 {
        self.noted.get()
    }

    pub fn warnings(&self) -> Vec<(Warning, String)> {
        self.warnings.borrow().clone()
    }

    pub fn said(&self) -> Vec<String> {
        self.said.borrow().clone()
    }
}

impl Context for Run {
    fn state(&self) -> &State {
        &self.state
    }
    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T {
        with(&mut self.records.borrow_mut())
    }
    fn reset_metrics(&self, _: Set) -> Result<()> {
        Ok(())
    }
    fn update_metrics(&self, _: Set) -> Result<()> {
        Ok(())
    }
    fn log_metrics(&self, _: Set) -> Result<()> {
        Ok(())
    }
    fn draw(&self) -> Result<()> {
        Ok(())
    }
    fn loss(&self) -> Result<Option<f64>> {
        Ok(self.losses.borrow().last().map(|(_, loss)| *loss))
    }
    fn losses(&self) -> Result<Vec<(String, f64)>> {
        Ok(self.losses.borrow().clone())
    }
    fn metric(&self, set: Set, name: &str, epoch: Option<u64>) -> Result<Option<Value>> {
        let epoch = epoch.unwrap_or(self.state.record_epoch());
        Ok(self.records.borrow().value(set, epoch, name).cloned())
    }
    fn metric_names(&self, set: Set) -> Result<Vec<String>> {
        let records = self.records.borrow();
        let entry = records
            .entry(set, self.state.record_epoch())
            .into_iter()
            .flatten();
        Ok(entry.map(|(name, _)| name.to_string()).collect())
    }
    fn note_rates(&self) -> Result<()> {
        self.noted.set(self.noted.get() + 1);
        Ok(())
    }
    fn step_values(&self, tell: &mut dyn FnMut(&Arc<str>, Option<f64>)) -> Result<()> {
        for (name, value) in self.values.borrow().iter() {
            tell(name, *value);
        }
        Ok(())
    }
    fn samples(&self) -> Result<f64> {
        let values = self.values.borrow();
        let found = values.iter().find(|(name, _)| &**name == "samples");
        Ok(found.and_then(|(_, value)| *value).unwrap_or(0.0))
    }
    fn late_values(&self) -> Result<Vec<f64>> {
        Ok(self.late.take())
    }
    fn announced(&self) -> Result<Announced> {
        Ok(self.announced.borrow().clone())
    }
    fn warn(&self, warning: Warning, message: &str) -> Result<()> {
        self.warnings
            .borrow_mut()
            .push((warning, message.to_owned()));
        Ok(())
    }
    fn say(&self, line: &str) -> Result<()> {
        self.said.borrow_mut().push(line.to_owned());
        Ok(())
    }
}
