//! The part of `_core.Run` that keeps the history.

use std::sync::{Arc, MutexGuard};

use lumbre_core::lock::lock;
use lumbre_core::records::{Entry, Records, Set, Side, Span, Value, check_epoch};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{Binding, Run};
use crate::error::{exception, raise};
use crate::lumbre::Class;
use crate::value;

impl Run {
    pub(super) fn lock_records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }

    fn set_named(&self, set: Option<&str>) -> PyResult<Set> {
        match set {
            None => Ok(self.state.pass().unwrap_or(Set::Train)),
            Some(name) => Set::from_name(name).ok_or_else(|| {
                let message = format!(
                    "A set of records is \"train\" or \"valid\"; got {name:?}. \
                     Did you mean \"{}\"?",
                    if name.starts_with('t') {
                        "train"
                    } else {
                        "valid"
                    }
                );
                Python::attach(|py| exception(py, Class::ArgumentError, message))
            }),
        }
    }

    fn this_epoch(&self) -> u64 {
        self.state.record_epoch()
    }

    /// What the run was given, while the pass of a set is under way in that epoch: its metrics are
    /// read where they stand, with the batch under way if that is due.
    fn running(
        &self,
        ctx: &Bound<'_, Self>,
        set: Set,
        epoch: Option<u64>,
    ) -> PyResult<Option<Arc<Binding>>> {
        let now = self.this_epoch();
        if epoch.unwrap_or(now) != now || self.state.set() != Some(set) {
            return Ok(None);
        }
        let Some(bound) = self.bound() else {
            return Ok(None);
        };
        self.count_due(ctx, &bound, set)?;
        Ok(Some(bound))
    }

    /// One of the values that `get_metrics` gives; no other one is computed.
    pub fn metric_value(
        &self,
        ctx: &Bound<'_, Self>,
        set: Set,
        name: &str,
        epoch: Option<u64>,
    ) -> PyResult<Option<Value>> {
        if let Some(bound) = self.running(ctx, set, epoch)? {
            let value = bound.meter(set).value(ctx.py(), &self.state, name);
            let value = self.noted(ctx.py(), value)?;
            if value.is_some() {
                return Ok(value);
            }
        }
        let at = epoch.unwrap_or(self.this_epoch());
        Ok(self.lock_records().value(set, at, name).cloned())
    }

    /// The names of the values that `get_metrics` gives of this epoch.
    pub fn metric_names(&self, ctx: &Bound<'_, Self>, set: Set) -> PyResult<Vec<String>> {
        let mut names = match self.running(ctx, set, None)? {
            Some(bound) => bound.meter(set).names_so_far(),
            None => Vec::new(),
        };
        let records = self.lock_records();
        for (name, _) in records.entry(set, self.this_epoch()).into_iter().flatten() {
            if !names.iter().any(|known| **known == **name) {
                names.push(name.to_string());
            }
        }
        Ok(names)
    }
}

#[pymethods]
impl Run {
    /// Log a value of this epoch; the last value of an epoch stays.
    #[pyo3(signature = (name, value, set=None))]
    fn log_metric(&self, name: &str, value: &Bound<'_, PyAny>, set: Option<&str>) -> PyResult<()> {
        let set = self.set_named(set)?;
        if let Some(bound) = self.bound() {
            bound.check_name(value.py(), name, "log_metric")?;
        }
        let value = value::from_python(value)?;
        self.lock_records()
            .log(set, self.this_epoch(), &Arc::from(name), value);
        Ok(())
    }

    /// Log values of an epoch, in addition to those it has or in their place.
    #[pyo3(name = "_log_metrics")]
    fn log_metrics(
        &self,
        set: &str,
        epoch: u64,
        values: &Bound<'_, PyDict>,
        append: bool,
    ) -> PyResult<()> {
        let set = self.set_named(Some(set))?;
        check_epoch(epoch).map_err(raise)?;
        let entry = entry_from_python(values)?;
        let mut records = self.lock_records();
        if !append {
            records.reach(set, epoch).clear();
        }
        for (name, value) in entry {
            records.log(set, epoch, &name, value);
        }
        Ok(())
    }

    /// The values of an epoch, by default of this one, 0 for what was measured before the first: those logged so far and, while the set's pass
    /// is under way, those of its metrics up to now.
    #[pyo3(signature = (set, epoch=None))]
    fn get_metrics<'py>(
        slf: &Bound<'py, Self>,
        set: &str,
        epoch: Option<i64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let this = slf.get();
        let epoch = match epoch.map(u64::try_from) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => {
                let got = epoch.unwrap_or_default();
                let message = format!(
                    "get_metrics: epochs are counted from 1, and 0 is what comes before; got {got}."
                );
                return Err(exception(slf.py(), Class::ArgumentError, message));
            }
        };
        let set = this.set_named(Some(set))?;
        let mut entry = match this.running(slf, set, epoch)? {
            Some(bound) => {
                let values = bound.meter(set).values(slf.py(), &this.state, false);
                this.noted(slf.py(), values)?
            }
            None => Entry::new(),
        };
        let at = epoch.unwrap_or(this.this_epoch());
        let logged = this.lock_records().entry(set, at).cloned();
        for (name, value) in logged.unwrap_or_default() {
            if !entry.iter().any(|(known, _)| *known == name) {
                entry.push((name, value));
            }
        }
        entry_to_python(slf.py(), &entry)
    }

    /// The whole history: `{"metrics": {set: [{name: value}]}, "profile": {part: [seconds]}}`, and
    /// where there are such `"optimizer": {name: [number]}` and `"before": {set: {name: value}}`.
    #[pyo3(name = "_history")]
    fn history<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let records = self.lock_records().without_steps();
        let metrics = PyDict::new(py);
        for set in Set::ALL {
            let entries = records
                .entries(set)
                .iter()
                .map(|entry| entry_to_python(py, entry));
            metrics.set_item(
                set.name(),
                PyList::new(py, entries.collect::<PyResult<Vec<_>>>()?)?,
            )?;
        }
        let profile = PyDict::new(py);
        for span in Span::ALL {
            profile.set_item(span.name(), records.spans(span))?;
        }
        for (name, numbers) in records.side(Side::Speed) {
            profile.set_item(&*name, numbers)?;
        }
        let history = PyDict::new(py);
        history.set_item("metrics", metrics)?;
        history.set_item("profile", profile)?;
        let optimizer = PyDict::new(py);
        for (name, numbers) in records.side(Side::Optimizer) {
            optimizer.set_item(&*name, numbers)?;
        }
        if !optimizer.is_empty() {
            history.set_item("optimizer", optimizer)?;
        }
        let before = PyDict::new(py);
        for set in Set::ALL {
            if let Some(entry) = records.entry(set, 0).filter(|entry| !entry.is_empty()) {
                before.set_item(set.name(), entry_to_python(py, entry)?)?;
            }
        }
        if !before.is_empty() {
            history.set_item("before", before)?;
        }
        Ok(history)
    }

    /// The numbers that are recorded of an epoch's training beside its metrics: rates, norms, speed.
    #[pyo3(name = "_sides")]
    fn sides<'py>(&self, py: Python<'py>, epoch: u64) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(py);
        let records = self.lock_records();
        for side in [Side::Optimizer, Side::Speed] {
            for (name, value) in records.side_entry(side, epoch).into_iter().flatten() {
                values.set_item(&**name, value::to_python(py, value)?)?;
            }
        }
        Ok(values)
    }

    /// Drop what was recorded of an epoch that was not completed.
    #[pyo3(name = "_drop_open_epoch")]
    fn drop_open_epoch(&self) {
        self.lock_records().truncate(self.state.completed());
    }
}

/// The values of an epoch, from `{name: value}`.
pub(super) fn entry_from_python(values: &Bound<'_, PyDict>) -> PyResult<Entry> {
    // To ask a value for its numbers may run Python, which must not find the dict in use.
    let pairs: Vec<_> = values.iter().collect();
    let pairs = pairs.into_iter().map(|(name, value)| {
        Ok((
            Arc::from(name.extract::<String>()?),
            value::from_python(&value)?,
        ))
    });
    pairs.collect()
}

fn entry_to_python<'py>(py: Python<'py>, entry: &Entry) -> PyResult<Bound<'py, PyDict>> {
    let values = PyDict::new(py);
    for (name, value) in entry {
        values.set_item(&**name, value::to_python(py, value)?)?;
    }
    Ok(values)
}
