//! When the progress is drawn.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};

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
