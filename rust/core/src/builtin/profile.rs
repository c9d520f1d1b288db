//! How long the parts of a run take.

use std::sync::Mutex;
use std::time::Instant;

use crate::callback::{Callback, Context, Host};
use crate::error::Result;
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::lock::lock;
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
        let timed = Hook::ALL.iter().filter(|&&hook| Self::span(hook).is_some());
        timed.map(|&hook| hook.into()).collect()
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        if let Some((span, begins)) = hook.hook().and_then(Self::span) {
            let started = &mut lock(&self.started)[span as usize];
            if begins {
                *started = Some(Instant::now());
            } else if let Some(start) = started.take()
                // What comes before the epochs is a part of none.
                && !(span == Span::Valid && ctx.state().is_before_epochs())
            {
                ctx.records(|records| records.log_span(span, start.elapsed().as_secs_f64()));
            }
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bare, Run};

    #[test]
    fn what_is_measured_before_the_first_epoch_is_a_part_of_none() {
        let (profile, run) = (Profile::default(), Run::new(1));
        let fire = |hook: Hook| {
            run.state().enter(hook);
            Callback::<Bare>::on(&profile, hook.into(), &run).unwrap();
        };
        let passes = || run.records(|records| records.spans(Span::Valid).len());
        for hook in [Hook::FitBegin, Hook::ValidBegin, Hook::ValidEnd] {
            fire(hook);
        }
        assert_eq!(passes(), 0);
        assert!(run.state().next_epoch());
        for hook in [Hook::EpochBegin, Hook::ValidBegin, Hook::ValidEnd] {
            fire(hook);
        }
        assert_eq!(passes(), 1);
    }
}
