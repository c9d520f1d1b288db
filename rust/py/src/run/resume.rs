//! The part of `_core.Run` that goes on where another run has stopped.

use std::sync::Arc;

use lumbre_core::builtin::Throughput;
use lumbre_core::flow::Flow;
use lumbre_core::lock::lock;
use lumbre_core::records::{Set, Side, Span, check_epoch};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Run;
use super::records::entry_from_python;
use crate::error::raise;

#[pymethods]
impl Run {
    /// Go on after an epoch that is complete, with the training batches that were counted by then
    /// and, where a stop was asked for, its reason.
    #[pyo3(name = "_resume", signature = (epoch, step_count, data_epoch, stop_reason=None))]
    fn resume(
        &self,
        epoch: u64,
        step_count: u64,
        data_epoch: u64,
        stop_reason: Option<String>,
    ) -> PyResult<()> {
        check_epoch(epoch).map_err(raise)?;
        self.state.resume(epoch, step_count, data_epoch);
        if let Some(reason) = stop_reason {
            self.state.wish(Flow::Stop(reason), None);
        }
        Ok(())
    }

    /// Leave out so many passes of the epoch that comes: the run before has done them.
    #[pyo3(name = "_resume_in")]
    fn resume_in(&self, epoch: u64, passes: u64) {
        self.state.resume_in(epoch, passes);
    }

    /// Go on in a pass that has begun, behind so many of its batches.
    #[pyo3(name = "_reopen")]
    fn reopen(&self, iter: u64, step_count: u64) {
        self.state.reopen(iter, step_count);
    }

    /// The pass of this epoch that is under way, or was last, from 1; 0 before the first.
    #[getter(_pass_number)]
    fn pass_number(&self) -> u64 {
        self.state.pass_number()
    }

    /// Have `_attend` called between two batches.
    #[pyo3(name = "_call_attention")]
    fn call_attention(&self) {
        self.state.call_attention();
    }

    /// The same, from so many training batches on; 0 for never.
    #[pyo3(name = "_call_attention_at")]
    fn call_attention_at(&self, step_count: u64) {
        self.state.call_attention_at(step_count);
    }

    /// Return the state of the losses and the means of the pass under way; what lies on a device is
    /// waited for.
    #[pyo3(name = "_pass_state")]
    fn pass_state<'py>(&self, py: Python<'py>, training: bool) -> PyResult<Bound<'py, PyDict>> {
        let state = PyDict::new(py);
        let Some(bound) = self.bound() else {
            return Ok(state);
        };
        let set = if training { Set::Train } else { Set::Valid };
        bound.meter(set).state(py, &self.state, &state)?;
        state.set_item("norms", self.measured.norms.state(py)?)?;
        Ok(state)
    }

    /// Go on from what `_pass_state` gave.
    #[pyo3(name = "_restore_pass")]
    fn restore_pass(
        &self,
        py: Python<'_>,
        training: bool,
        state: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let Some(bound) = self.bound() else {
            return Ok(());
        };
        let set = if training { Set::Train } else { Set::Valid };
        bound.meter(set).restore(state)?;
        let norms = state.as_any().get_item("norms")?;
        self.measured.norms.restore(py, norms.extract()?)
    }

    /// The callbacks and breakpoints whose `once` has been used up.
    #[pyo3(name = "_used_once")]
    pub(super) fn used_once(&self) -> Vec<(String, String)> {
        let Some(bound) = self.bound() else {
            return lock(&self.used_once).clone();
        };
        let used = bound.plan.used_once().into_iter();
        used.map(|(name, hook)| (name.to_owned(), hook.to_owned()))
            .collect()
    }

    /// Use up what `used_once` gave.
    #[allow(clippy::needless_pass_by_value)] // extracted
    #[pyo3(name = "_use_once")]
    fn use_once(&self, used: Vec<(String, String)>) {
        if let Some(bound) = self.bound() {
            for (name, hook) in &used {
                bound.plan.use_once(name, hook);
            }
        }
    }

    /// Put a history, as `history` gives it, in the place of what was recorded.
    #[pyo3(name = "_restore_history", signature = (metrics, profile, optimizer=None, before=None))]
    fn restore_history(
        &self,
        metrics: &Bound<'_, PyDict>,
        profile: &Bound<'_, PyDict>,
        optimizer: Option<&Bound<'_, PyDict>>,
        before: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let mut sets = Vec::new();
        for set in Set::ALL {
            let mut entries = Vec::new();
            if let Some(epochs) = metrics.get_item(set.name())? {
                for values in epochs.try_iter()? {
                    entries.push(entry_from_python(values?.cast::<PyDict>()?)?);
                }
            }
            sets.push((set, entries));
        }
        let mut spans = Vec::new();
        for span in Span::ALL {
            if let Some(seconds) = profile.get_item(span.name())? {
                spans.push((span, seconds.extract::<Vec<f64>>()?));
            }
        }
        let mut first = Vec::new();
        if let Some(before) = before {
            for set in Set::ALL {
                if let Some(values) = before.get_item(set.name())? {
                    first.push((set, entry_from_python(values.cast::<PyDict>()?)?));
                }
            }
        }
        let columns = |columns: &Bound<'_, PyDict>| {
            let read = columns
                .iter()
                .map(|(name, numbers)| Ok((name.extract::<String>()?.into(), numbers.extract()?)));
            read.collect::<PyResult<Vec<(Arc<str>, Vec<f64>)>>>()
        };
        let optimizer = optimizer.map(columns).transpose()?.unwrap_or_default();
        let mut speed = Vec::new();
        for (name, numbers) in profile.iter() {
            let name = name.extract::<String>()?;
            if Throughput::NAMES.contains(&name.as_str()) {
                speed.push((name.into(), numbers.extract()?));
            }
        }
        let mut records = self.lock_records();
        for (set, entry) in first {
            *records.reach(set, 0) = entry;
        }
        records.restore_side(Side::Optimizer, optimizer);
        records.restore_side(Side::Speed, speed);
        for (set, entries) in sets {
            records.restore_entries(set, entries);
        }
        for (span, seconds) in spans {
            records.restore_spans(span, seconds);
        }
        Ok(())
    }
}
