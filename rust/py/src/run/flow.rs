//! The part of `_core.Run` that counts, and that records and honors wishes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lumbre_core::flow::{Flow, Limits};
use lumbre_core::hook::{Hook, Scope};
use lumbre_core::records::Set;
use pyo3::prelude::*;

use super::Run;
use crate::batch::size_of_pair;
use crate::error::exception;
use crate::lumbre::{self, Class, Context};

/// True if there is validation data, or may be.
pub fn validates(ctx: &Bound<'_, Run>) -> PyResult<bool> {
    Ok(ctx.get().own_loop() || !ctx.getattr(Context::valid_data(ctx.py()))?.is_none())
}

#[pymethods]
impl Run {
    /// Begin the next epoch; False when there is none to come.
    #[pyo3(name = "_next_epoch")]
    fn next_epoch(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        this.noted.store(0, Relaxed);
        let begins = this.state.next_epoch();
        if begins {
            this.show_skipped(slf.py(), false);
            let validates = validates(slf)?;
            let mut records = this.lock_records();
            records.reach(Set::Train, this.state.epoch());
            if validates && !this.own_loop() {
                records.reach(Set::Valid, this.state.epoch());
            }
        }
        Ok(begins)
    }

    /// Begin a pass; False when something asks to leave it out.
    #[pyo3(name = "_next_pass")]
    fn next_pass(&self, training: bool) -> bool {
        self.state.next_pass(training)
    }

    /// The `_end` that is due next if the run is left now: of the scopes inside of the epoch, or of all.
    #[pyo3(name = "_next_end", signature = (inside_epoch=false))]
    fn next_end(&self, inside_epoch: bool) -> Option<&'static str> {
        self.state
            .next_end(inside_epoch.then_some(Scope::Epoch))
            .map(Hook::name)
    }

    /// End the run when the batch under way is finished, and say why. It is done then, unless it is
    /// `resumable`: a pause, from which it may go on later.
    #[pyo3(signature = (reason="", *, resumable=false))]
    pub fn stop(&self, reason: &str, resumable: bool) {
        let bound = self.bound();
        let who = bound.as_ref().and_then(|bound| bound.plan.current());
        if resumable {
            self.state.wish_pause(reason.to_owned(), who);
        } else {
            self.state.wish(Flow::Stop(reason.to_owned()), who);
        }
    }

    /// Say what ends passes and the run, beside the data and the last epoch; once.
    #[pyo3(
        name = "_set_limits",
        signature = (*, steps_per_epoch=None, valid_steps=None, valid_every=1, max_steps=None, max_time=None)
    )]
    fn set_limits(
        &self,
        steps_per_epoch: Option<u64>,
        valid_steps: Option<u64>,
        valid_every: u64,
        max_steps: Option<u64>,
        max_time: Option<f64>,
    ) {
        self.state.set_limits(Limits {
            steps_per_epoch,
            valid_steps,
            valid_every,
            max_steps,
            // What is longer than any run is no limit.
            max_time: max_time.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        });
    }

    /// Start the clock of `max_time`.
    #[pyo3(name = "_start_clock")]
    fn start_clock(&self) {
        self.state.start_clock();
    }

    /// Move that clock on by so many seconds, for tests.
    #[pyo3(name = "_move_clock")]
    fn move_clock(&self, seconds: f64) {
        self.state.move_clock(Duration::from_secs_f64(seconds));
    }

    /// Begin a pass over the training data; gives its number.
    #[pyo3(name = "_next_data_epoch")]
    fn next_data_epoch(&self) -> u64 {
        self.state.next_data_epoch();
        self.state.data_epoch()
    }

    /// The pass over the training data, from 1; 0 before the first. Other than `epoch` where an epoch
    /// is so many steps.
    #[getter]
    fn data_epoch(&self) -> u64 {
        self.state.data_epoch()
    }

    /// The training batches of an epoch, where `steps_per_epoch` says so.
    #[getter(_steps_per_epoch)]
    fn steps_per_epoch(&self) -> Option<u64> {
        self.state.limits().steps_per_epoch
    }

    /// The batches of a pass that does not train, where `valid_steps` says so.
    #[getter(_valid_steps)]
    fn valid_steps(&self) -> Option<u64> {
        self.state.limits().valid_steps
    }

    /// The training batches of the run, where `max_steps` says so.
    #[getter]
    fn max_steps(&self) -> Option<u64> {
        self.state.limits().max_steps
    }

    /// True while the validation pass is under way that comes before the first epoch.
    #[getter(_is_before_epochs)]
    fn is_before_epochs(&self) -> bool {
        self.state.is_before_epochs()
    }

    /// True if what ended the run is something that it may go on from.
    #[getter]
    fn paused(&self) -> bool {
        self.state.is_paused()
    }

    /// Finish the batch under way, then leave out the rest of the epoch.
    pub fn skip_epoch(&self) {
        self.state.wish(Flow::SkipEpoch, None);
    }

    /// Leave the batch under way: no step, no metric.
    pub fn skip_batch(&self, py: Python<'_>) {
        self.state.wish(Flow::SkipBatch, None);
        self.show_skipped(py, true);
    }

    /// Be done with the batch: whether it was left holds for nothing that comes after.
    #[pyo3(name = "_end_batch")]
    pub fn end_batch(&self, py: Python<'_>) {
        if self.state.end_batch() {
            self.show_skipped(py, false);
        }
    }

    /// Record a Ctrl-C, or a signal of that name.
    #[pyo3(name = "_interrupt", signature = (name="Ctrl-C"))]
    fn interrupt(&self, name: &str) {
        self.state
            .interrupt(&format!("{name}: {}", self.state.place()));
    }

    /// True if Ctrl-C has been pressed, or a signal came that pauses the run.
    #[getter]
    fn interrupted(&self) -> bool {
        self.state.is_interrupted()
    }

    /// True if a stop has been asked for.
    #[getter]
    fn stopped(&self) -> bool {
        self.state.is_stopped()
    }

    /// True if the rest of the epoch is to be left out.
    #[getter(_skips_epoch)]
    fn skips_epoch(&self) -> bool {
        self.state.epoch_is_skipped()
    }

    /// True if the batch under way is to be left.
    #[getter]
    fn skipped(&self) -> bool {
        self.state.batch_is_skipped()
    }

    /// True if an early stop was asked for since this was last looked at.
    #[pyo3(name = "_take_early_stop")]
    fn take_early_stop(&self) -> bool {
        self.state.take_early_stop()
    }

    /// The name of who stopped the run, and why; None when nobody did.
    #[getter]
    fn stop_reason(&self) -> Option<String> {
        self.state.stop_reason()
    }

    /// The place where the run stands: `epoch 2, iteration 17, training`.
    #[getter]
    fn place(&self) -> String {
        self.state.place()
    }

    /// Note on an exception where it was raised, unless it has its note already.
    #[pyo3(name = "_note_exception")]
    fn note_exception(&self, error: &Bound<'_, PyAny>, who: &str) {
        self.note(error.py(), &PyErr::from_value(error.clone()), who);
    }

    /// The epoch under way, from 1; 0 before the first.
    #[getter]
    fn epoch(&self) -> u64 {
        self.state.epoch()
    }

    /// True if a stop or Ctrl-C has left out a part of the epoch.
    #[getter(_is_cut)]
    fn is_cut(&self) -> bool {
        self.state.is_cut()
    }

    /// The first epoch after which `EarlyStopping` may stop.
    #[getter]
    fn min_epochs(&self) -> u64 {
        self.state.min_epochs()
    }

    #[setter]
    fn set_min_epochs(&self, epochs: u64) {
        self.state.set_min_epochs(epochs);
    }

    /// The last epoch there will be, if nobody stops before; None where it is steps or time that end
    /// the run, 0 where it is no fit.
    #[getter]
    fn max_epochs(&self) -> Option<u64> {
        Some(self.state.max_epochs()).filter(|&epochs| epochs != u64::MAX)
    }

    #[setter]
    fn set_max_epochs(&self, epochs: Option<u64>) {
        self.state.set_max_epochs(epochs.unwrap_or(u64::MAX));
    }

    /// The batch in this pass, from 1.
    #[getter]
    fn iter(&self) -> u64 {
        self.state.iter()
    }

    /// The training batch in the whole run, from 1.
    #[getter]
    fn step_count(&self) -> u64 {
        self.state.step_count()
    }

    /// True if a training pass is under way, or was last.
    #[getter]
    fn training(&self) -> bool {
        self.state.training()
    }

    #[setter]
    fn set_training(&self, training: bool) {
        self.state.set_training(training);
    }

    /// The first dimension of the target, else of the input: the weight of the batch's loss.
    #[getter]
    fn batch_size<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(size) = slf.get().state.batch_size() {
            return Ok(size.into_pyobject(py)?.into_any());
        }
        let batch = slf.getattr(Context::batch(py))?;
        if let Some(size) = size_of_pair(&batch)? {
            return Ok(size.into_pyobject(py)?.into_any());
        }
        lumbre::batch_size_of(py)?.call1((batch,))
    }

    #[setter]
    fn set_batch_size(&self, size: &Bound<'_, PyAny>) -> PyResult<()> {
        match size.extract() {
            Ok(number) if number > 0 => {
                self.state.set_batch_size(number);
                Ok(())
            }
            _ => {
                let got = size.repr()?;
                let message = format!(
                    "ctx.batch_size is the number of samples in the batch, a whole number from 1; got {got}."
                );
                Err(exception(size.py(), Class::ArgumentError, message))
            }
        }
    }
}
