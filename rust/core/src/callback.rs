//! What a callback is to the scheduler, and what one written in Rust can reach.

use crate::error::Result;
use crate::flow::{Flow, Set, State};
use crate::hook::{HookId, HookSet};
use crate::records::Records;

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
}
