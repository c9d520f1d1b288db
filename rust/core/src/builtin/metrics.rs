//! The loss and the metrics of each pass.

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::records::Set;

/// Feeds the loss and the metrics batch by batch and writes their values when a pass ends.
#[derive(Debug, Default)]
pub struct Metrics;

impl<H: Host> Callback<H> for Metrics {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[
            Hook::TrainBegin,
            Hook::TrainBatchEnd,
            Hook::TrainEnd,
            Hook::ValidBegin,
            Hook::ValidBatchEnd,
            Hook::ValidEnd,
        ])
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        match hook.hook() {
            Some(Hook::TrainBatchEnd) if !ctx.state().batch_is_skipped() => {
                ctx.update_metrics(Set::Train)?;
            }
            Some(Hook::ValidBatchEnd) if !ctx.state().batch_is_skipped() => {
                ctx.update_metrics(Set::Valid)?;
            }
            Some(Hook::TrainBegin) => ctx.reset_metrics(Set::Train)?,
            Some(Hook::ValidBegin) => ctx.reset_metrics(Set::Valid)?,
            Some(Hook::TrainEnd) => ctx.log_metrics(Set::Train)?,
            Some(Hook::ValidEnd) => ctx.log_metrics(Set::Valid)?,
            _ => {}
        }
        Ok(Flow::Continue)
    }
}
