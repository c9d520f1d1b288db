//! Stop when nothing gets better any more.

use std::sync::{Mutex, MutexGuard};

use crate::callback::{Callback, Context, Host};
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::hook::{Hook, HookId, HookSet};
use crate::lock::lock;
use crate::monitor::Monitor;
use crate::number::format_value;
use crate::saved::{Field, Saved};

/// Stops at the `patience`-th epoch in a row without an improvement of what it watches.
///
/// A fit begins anew. A run that is taken up again loads what was saved at the end of an epoch, after
/// `on_fit_begin`: from then on it decides as a run that was never interrupted.
#[derive(Debug)]
pub struct EarlyStopping {
    monitor: Monitor,
    patience: u64,
    baseline: Option<f64>,
    seen: Mutex<Seen>,
}

/// The state: all that it has seen of the fit.
#[derive(Clone, Debug, Default)]
struct Seen {
    best: Option<f64>,
    /// The epoch of the best value; 0 while that is the baseline, or what was measured before.
    best_epoch: u64,
    waited: u64,
    /// Why it asked for the stop; empty as long as it has not.
    why: String,
}

impl EarlyStopping {
    /// Watch a value, for so many epochs without an improvement; a patience of 0 acts as 1. Without
    /// a baseline the first epoch only sets the best value.
    #[must_use]
    pub fn new(monitor: Monitor, patience: u64, baseline: Option<f64>) -> Self {
        let this = Self {
            monitor,
            patience: patience.max(1),
            baseline,
            seen: Mutex::default(),
        };
        this.begin();
        this
    }

    fn begin(&self) {
        *self.seen() = Seen {
            best: self.baseline,
            ..Seen::default()
        };
    }

    fn look(&self, ctx: &impl Context) -> Result<Flow> {
        let Some(value) = self.monitor.value(ctx)? else {
            return Ok(Flow::Continue);
        };
        let (state, mut seen) = (ctx.state(), self.seen());
        let better = |best: &f64| self.monitor.improves(value, *best);
        let Some(best) = seen.best.filter(|best| !better(best)) else {
            seen.best = Some(value);
            seen.best_epoch = state.epoch();
            seen.waited = 0;
            return Ok(Flow::Continue);
        };
        if state.epoch() == 0 {
            return Ok(Flow::Continue); // nothing was trained that could have been better
        }
        seen.waited += 1;
        if seen.waited < self.patience || state.epoch() < state.min_epochs() {
            return Ok(Flow::Continue);
        }
        let place = match seen.best_epoch {
            0 if self.baseline == Some(best) => "of the baseline".into(),
            0 => "from before the first epoch".into(),
            epoch => format!("of epoch {epoch}"),
        };
        seen.why = format!(
            "{} has not improved for {} epoch{}; the best is {} {place}",
            self.monitor.watched(),
            seen.waited,
            if seen.waited > 1 { "s" } else { "" },
            format_value(best)
        );
        state.stop_early();
        Ok(Flow::Stop(seen.why.clone()))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl<H: Host> Callback<H> for EarlyStopping {
    fn hooks(&self) -> HookSet {
        HookSet::of(&[
            Hook::FitBegin,
            Hook::ValidEnd,
            Hook::EpochEnd,
            Hook::EarlyStopping,
        ])
    }

    fn on(&self, hook: HookId, ctx: &H::Context<'_>) -> Result<Flow> {
        match hook.hook() {
            Some(Hook::FitBegin) => {
                self.begin();
                self.monitor.check(ctx)?;
                self.monitor.check_mode(ctx)?;
            }
            Some(Hook::ValidEnd) if ctx.state().is_before_epochs() => return self.look(ctx),
            Some(Hook::EpochEnd) => return self.look(ctx),
            Some(Hook::EarlyStopping) => {
                let why = self.seen().why.clone();
                // Of several, the one that asked for it says so.
                if !why.is_empty() {
                    let epoch = ctx.state().epoch();
                    ctx.say(&format!("Early stopping at epoch {epoch}: {why}."))?;
                }
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }

    fn save(&self) -> Result<Option<Saved>> {
        let seen = self.seen().clone();
        let fields = [
            ("best", seen.best.map_or(Field::Nothing, Field::of_number)),
            ("best_epoch", Field::Count(seen.best_epoch)),
            ("waited", Field::Count(seen.waited)),
            ("why", Field::Text(seen.why)),
        ];
        let fields = fields.map(|(name, field)| (name.to_owned(), field));
        Ok(Some(Saved::Fields(fields.into())))
    }

    fn load(&self, saved: &Saved) -> Result<()> {
        let seen = read(saved).ok_or_else(|| {
            Error::Argument(format!(
                "EarlyStopping cannot go on from this state: it takes \"best\" (a number, or null), \
                 \"best_epoch\" and \"waited\" (whole numbers) and \"why\" (a text); got {saved}. Load \
                 what an EarlyStopping has saved."
            ))
        })?;
        *self.seen() = seen;
        Ok(())
    }
}

fn read(saved: &Saved) -> Option<Seen> {
    let best = match saved.field("best")? {
        Field::Nothing => None,
        field => Some(field.number()?),
    };
    let rest = ["best_epoch", "waited", "why"].map(|name| saved.field(name));
    let [
        Some(&Field::Count(best_epoch)),
        Some(&Field::Count(waited)),
        Some(Field::Text(why)),
    ] = rest
    else {
        return None;
    };
    Some(Seen {
        best,
        best_epoch,
        waited,
        why: why.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Set;
    use crate::testing::{Bare, Run};
    use proptest::prelude::*;

    fn stopping(mode: &str, patience: u64, baseline: Option<f64>) -> EarlyStopping {
        let monitor = Monitor::new("EarlyStopping", "train_loss", mode, 0.0).unwrap();
        EarlyStopping::new(monitor, patience, baseline)
    }

    fn on(callback: &EarlyStopping, hook: Hook, run: &Run) -> Flow {
        Callback::<Bare>::on(callback, hook.into(), run).unwrap()
    }

    fn saved(callback: &EarlyStopping) -> Saved {
        Callback::<Bare>::save(callback).unwrap().unwrap()
    }

    /// The state that it has saved, with another value under one of the names; without that, unless given.
    fn changed(saved: &Saved, name: &str, value: Option<Field>) -> Saved {
        let Saved::Fields(mut fields) = saved.clone() else {
            panic!("it has names")
        };
        fields.retain(|(known, _)| known != name);
        fields.extend(value.map(|value| (name.to_owned(), value)));
        Saved::Fields(fields)
    }

    fn load(callback: &EarlyStopping, saved: &Saved) -> Result<()> {
        Callback::<Bare>::load(callback, saved)
    }

    /// Every epoch's decision, with the callback put away and taken up again after some of them.
    fn decisions(values: &[f64], breaks: &[bool], patience: u64, min: u64) -> Vec<(Flow, Saved)> {
        let begun = || {
            let run = Run::new(values.len() as u64);
            run.announces("loss", false);
            let callback = stopping("min", patience, None);
            on(&callback, Hook::FitBegin, &run);
            callback
        };
        let run = Run::new(values.len() as u64);
        run.state().set_min_epochs(min);
        let mut callback = begun();
        let decide = |(value, interrupted): (&f64, &bool)| {
            run.state().next_epoch();
            run.record(Set::Train, "loss", *value);
            let flow = on(&callback, Hook::EpochEnd, &run);
            let state = saved(&callback);
            if *interrupted {
                callback = begun();
                load(&callback, &state).unwrap();
            }
            (flow, state)
        };
        values.iter().zip(breaks).map(decide).collect()
    }

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => any::<f64>(),
            2 => (0..4i32).prop_map(f64::from),
            1 => Just(f64::NAN),
            1 => Just(f64::NEG_INFINITY),
        ]
    }

    proptest! {
        #[test]
        fn a_run_taken_up_anywhere_decides_as_one_never_interrupted(
            epochs in prop::collection::vec((any_value(), any::<bool>()), 1..12),
            patience in 0u64..4,
            min in 0u64..6,
        ) {
            let (values, breaks): (Vec<f64>, Vec<bool>) = epochs.into_iter().unzip();
            let never = vec![false; values.len()];
            prop_assert_eq!(
                decisions(&values, &breaks, patience, min),
                decisions(&values, &never, patience, min)
            );
        }
    }

    #[test]
    fn it_stops_at_the_patience_th_epoch_and_says_why() {
        let run = Run::new(9);
        run.announces("loss", false);
        let callback = stopping("max", 2, Some(0.5));
        on(&callback, Hook::FitBegin, &run);
        let mut flows = vec![];
        for value in [0.25, 0.75, 0.5, 0.75] {
            run.state().next_epoch();
            run.record(Set::Train, "loss", value);
            flows.push(on(&callback, Hook::EpochEnd, &run));
        }
        let why = "train_loss has not improved for 2 epochs; the best is 0.7500 of epoch 2";
        assert_eq!(flows[..3], [Flow::Continue, Flow::Continue, Flow::Continue]);
        assert_eq!(flows[3], Flow::Stop(why.into()));
        assert!(run.state().take_early_stop() && !run.state().take_early_stop());
        on(&callback, Hook::EarlyStopping, &run);
        assert_eq!(run.said(), [format!("Early stopping at epoch 4: {why}.")]);
        on(&stopping("max", 2, None), Hook::EarlyStopping, &run);
        assert_eq!(run.said().len(), 1, "another one has nothing to say");
    }

    #[test]
    fn what_was_measured_before_the_first_epoch_is_a_value_that_none_has_waited_for() {
        let monitor = Monitor::new("EarlyStopping", "valid_loss", "min", 0.0).unwrap();
        for (baseline, place) in [
            (None, "from before the first epoch"),
            (Some(0.25), "of the baseline"),
        ] {
            let (stopping, run) = (
                EarlyStopping::new(monitor.clone(), 2, baseline),
                Run::new(9),
            );
            run.announces("loss", true);
            let state = run.state();
            state.enter(Hook::FitBegin);
            on(&stopping, Hook::FitBegin, &run);
            state.enter(Hook::ValidBegin);
            run.record(Set::Valid, "loss", 0.5);
            state.enter(Hook::ValidEnd);
            assert_eq!(on(&stopping, Hook::ValidEnd, &run), Flow::Continue);
            let mut ends = Vec::new();
            for _ in 0..2 {
                state.next_epoch();
                state.enter(Hook::EpochBegin);
                run.record(Set::Valid, "loss", 0.75);
                ends.push(on(&stopping, Hook::EpochEnd, &run));
            }
            assert!(
                matches!(&ends[..], [Flow::Continue, Flow::Stop(_)]),
                "{ends:?}"
            );
            let why = saved(&stopping).field("why").cloned();
            assert!(matches!(why, Some(Field::Text(why)) if why.contains(place)));
        }
    }

    #[test]
    fn a_fit_begins_anew() {
        let run = Run::new(2);
        run.announces("loss", false);
        let callback = stopping("min", 1, Some(3.0));
        let fresh = saved(&callback);
        run.state().next_epoch();
        run.record(Set::Train, "loss", 4.0);
        assert_ne!(on(&callback, Hook::EpochEnd, &run), Flow::Continue);
        assert_ne!(saved(&callback), fresh);
        on(&callback, Hook::FitBegin, &run);
        assert_eq!(saved(&callback), fresh);
    }

    #[test]
    fn a_state_that_is_none_is_refused_and_changes_nothing() {
        let callback = stopping("min", 1, Some(3.0));
        let fresh = saved(&callback);
        let text = |text: &str| Some(Field::Text(text.into()));
        let states = [
            Saved::Fields(vec![]),
            Saved::Json("{}".into()),
            Saved::Bytes(vec![1, 2]),
            changed(&fresh, "best", text("nan")),
            changed(&fresh, "best", Some(Field::Number(f64::NAN))),
            changed(&fresh, "best_epoch", Some(Field::Number(1.0))),
            changed(&fresh, "waited", Some(Field::Other("-1".into()))),
            changed(&fresh, "waited", None),
            changed(&fresh, "why", Some(Field::Nothing)),
        ];
        for state in &states {
            let error = load(&callback, state).unwrap_err();
            assert!(matches!(error, Error::Argument(_)), "{error}");
            assert!(
                error.to_string().contains(&format!("got {state}. Load")),
                "{error}"
            );
        }
        assert_eq!(saved(&callback), fresh);
        let other = changed(&fresh, "best", Some(Field::Count(2)));
        load(&callback, &other).unwrap();
        let best = Some(Field::Number(2.0));
        assert_eq!(saved(&callback).field("best"), best.as_ref());
    }
}
