//! What a callback is to the scheduler, and what one written in Rust can reach.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::flow::{Flow, State};
use crate::hook::{HookId, HookSet};
use crate::records::{Mode, Records, Set, Value};
use crate::saved::Saved;

/// The run as a callback written in Rust sees it.
pub trait Context {
    /// Counters, wishes and scopes.
    fn state(&self) -> &State;
    /// Look at or write the run's history.
    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T;
    /// Start the metrics of a set anew.
    fn reset_metrics(&self, set: Set) -> Result<()>;
    /// Feed the batch under way to the loss and the metrics of a set, when its `_end` is over and
    /// nobody has skipped it by then; or earlier, when somebody asks for the values.
    fn update_metrics(&self, set: Set) -> Result<()>;
    /// Write the values of a set's metrics into the records.
    fn log_metrics(&self, set: Set) -> Result<()>;
    /// Draw the progress of the run, when the breakpoint is over.
    fn draw(&self) -> Result<()>;
    /// The loss of the batch under way, of the optimizer under way; `None` when there is none. On an
    /// accelerator this waits for its value.
    fn loss(&self) -> Result<Option<f64>>;
    /// Every loss that the batch under way has so far, under the name of its record.
    fn losses(&self) -> Result<Vec<(String, f64)>>;
    /// A value of an epoch, by default of this one: while the set's pass is under way that of the
    /// metric up to now, else what is recorded.
    fn metric(&self, set: Set, name: &str, epoch: Option<u64>) -> Result<Option<Value>>;
    /// The names that [`Context::metric`] finds in this epoch.
    fn metric_names(&self, set: Set) -> Result<Vec<String>>;
    /// Note the learning rates that the step under way is taken with, for [`Context::step_values`].
    fn note_rates(&self) -> Result<()>;
    /// Tell the values of the training batch under way, by the names of their columns: `samples`, the
    /// losses, the noted learning rates, the norms of the gradients, and what was logged of it.
    /// `None` stands for a value that lies on a device: [`Context::late_values`] has it.
    fn step_values(&self, tell: &mut dyn FnMut(&Arc<str>, Option<f64>)) -> Result<()>;
    /// The samples in the batch under way.
    fn samples(&self) -> Result<f64>;
    /// The values for which [`Context::step_values`] has told `None` since this was last asked, in
    /// that order. This waits for the device.
    fn late_values(&self) -> Result<Vec<f64>>;
    /// The records that the run is going to make, as far as that is known when it begins.
    fn announced(&self) -> Result<Announced>;
    /// Warn the user.
    fn warn(&self, warning: Warning, message: &str) -> Result<()>;
    /// Say one line to the user, if the run is verbose.
    fn say(&self, line: &str) -> Result<()>;
}

/// The records that a run is going to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The names of the loss and the metrics, by set.
    pub metrics: [Vec<String>; 2],
    /// True if there are metrics whose names are not known before they have computed a value.
    pub may_have_others: bool,
    /// True if the user's own code may log what it has not said.
    pub may_log: bool,
    /// The names that callbacks say they log.
    pub logs: Vec<String>,
    /// Which value of a metric is the better one, by set and name as in `valid_acc`, where that is known.
    pub better: Vec<(String, Mode)>,
    /// True if there is validation data.
    pub validates: bool,
}

/// The kinds of warnings that a callback gives; each is a class of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A name is watched that is no metric of the run (yet).
    Monitor,
    /// The loss of a batch is NaN or infinite.
    NonFiniteLoss,
}

/// The language around the core: it says what a callback is handed.
pub trait Host: 'static {
    /// The run, lent for one call.
    type Context<'a>: Context;
}

/// A callback: a Python object, a built-in one, or one of a foreign library.
pub trait Callback<H: Host>: Send + Sync {
    /// The breakpoints it wants to be called at; it costs nothing at the others.
    fn hooks(&self) -> HookSet;

    /// Act at a breakpoint.
    ///
    /// # Errors
    /// Whatever goes wrong ends the run.
    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow>;

    /// The names of metrics that it logs, so that others may watch them.
    fn logs(&self) -> &[String] {
        &[]
    }

    /// Count something of the batch under way, for a callback that is told of it.
    fn count(&self, _amount: f64) {}

    /// What the callback has measured of the pass under way, by name.
    fn rates(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The state that has to be kept for the run to be taken up again; `None` when there is none.
    ///
    /// # Errors
    /// The state cannot be written down.
    fn save(&self) -> Result<Option<Saved>> {
        Ok(None)
    }

    /// Go on from what was saved: the rest of the run is as if it had never been interrupted.
    ///
    /// A callback starts anew when a fit begins. Whoever takes up a run therefore loads after the
    /// callback's own `on_fit_begin`, and before the next breakpoint.
    ///
    /// # Errors
    /// It is no state of such a callback, or the callback keeps none.
    fn load(&self, _saved: &Saved) -> Result<()> {
        Err(Error::Argument(
            "This callback keeps no state, so that there is nothing to load. Give a state to the \
             callback from which it was saved."
                .into(),
        ))
    }
}
