//! The default callbacks that are written in Rust.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::{Flow, Set};
use crate::hook::{Hook, HookId, HookSet};
use crate::records::Span;

/// Times the run, its epochs and its passes, in seconds, into the records.
#[derive(Debug, Default)]
pub struct Profile {
    started: Mutex<[Option<Instant>; 4]>,
}

impl Profile {
    fn span(hook: Hook) -> Option<(Span, bool)> {
        Some(match hook {
            Hook::FitBegin => (Span::Fit, true),
            Hook::FitEnd => (Span::Fit, false),
            Hook::EpochBegin => (Span::Epoch, true),
            Hook::EpochEnd => (Span::Epoch, false),
            Hook::TrainBegin => (Span::Train, true),
            Hook::TrainEnd => (Span::Train, false),
            Hook::ValidBegin => (Span::Valid, true),
            Hook::ValidEnd => (Span::Valid, false),
            _ => return None,
        })
    }
}

impl<H: Host> Callback<H> for Profile {
    fn hooks(&self) -> HookSet {
        Hook::ALL
            .iter()
            .filter(|&&hook| Self::span(hook).is_some())
            .fold(HookSet::default(), |set, &hook| set.with(hook.into()))
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        if let Some((span, begins)) = hook.hook().and_then(Self::span) {
            let started =
                &mut self.started.lock().unwrap_or_else(PoisonError::into_inner)[span as usize];
            if begins {
                *started = Some(Instant::now());
            } else if let Some(start) = started.take() {
                ctx.records(|records| records.log_span(span, start.elapsed().as_secs_f64()));
            }
        }
        Ok(Flow::Continue)
    }
}

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

/// Draws the progress at most ten times a second, however short the batches are.
#[derive(Debug)]
pub struct Progress {
    origin: Instant,
    next: AtomicU64,
    pause: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(Duration::from_millis(100))
    }
}

impl Progress {
    /// Draw no more often than once a `pause`.
    #[must_use]
    pub fn new(pause: Duration) -> Self {
        Self {
            origin: Instant::now(),
            next: AtomicU64::new(0),
            pause,
        }
    }

    fn is_due(&self) -> bool {
        let now = self.origin.elapsed();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let due = nanos(now) >= self.next.load(Relaxed);
        if due {
            self.next.store(nanos(now + self.pause), Relaxed);
        }
        due
    }
}

impl<H: Host> Callback<H> for Progress {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[
            Hook::TrainBatchEnd,
            Hook::ValidBatchEnd,
            Hook::PredictBatchEnd,
        ])
    }

    fn on(&self, _: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        if self.is_due() {
            ctx.draw()?;
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_due_at_once_and_then_once_a_pause() {
        let progress = Progress::new(Duration::from_secs(3600));
        let due = (0..1000).filter(|_| progress.is_due()).count();
        assert_eq!(due, 1);
        let eager = Progress::new(Duration::ZERO);
        assert!((0..10).all(|_| eager.is_due()));
    }
}
