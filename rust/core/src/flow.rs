//! Where a run stands and what has been asked of it. A wish is recorded, then honored where the
//! loop looks: the remaining callbacks of the breakpoint still run.
//!
//! One thread writes; the fields are atomics so that a signal handler and other threads may look.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::hook::{Edge, Hook, HookId, Scope};
use crate::lock::lock;
use crate::records::Set;

/// A wish of a callback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Nothing; the run goes on.
    #[default]
    Continue,
    /// Leave this batch: no step, no metric.
    SkipBatch,
    /// Finish this batch, then leave the rest of the epoch.
    SkipEpoch,
    /// Finish this batch, then end the run; the text says why.
    Stop(String),
}

const SKIP_BATCH: u32 = 1;
const SKIP_EPOCH: u32 = 2;
const STOP: u32 = 4;
const INTERRUPT: u32 = 8;

/// How far a batch has come: there is a prediction, there is a loss.
const PREDICTED: u8 = 1;
const COMPARED: u8 = 2;

const BATCHES: u32 = Scope::TrainBatch.bit() | Scope::ValidBatch.bit() | Scope::PredictBatch.bit();

/// What ends a pass or a run, beside the data and the last epoch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Training batches in an epoch.
    pub steps_per_epoch: Option<u64>,
    /// Batches in a pass that does not train.
    pub valid_steps: Option<u64>,
    /// A validation pass is in each epoch whose number this divides, and in the last one.
    pub valid_every: u64,
    /// Training batches in the run.
    pub max_steps: Option<u64>,
    /// Time since the run was begun.
    pub max_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_per_epoch: None,
            valid_steps: None,
            valid_every: 1,
            max_steps: None,
            max_time: None,
        }
    }
}

/// Counters, wishes and open scopes of one run.
#[derive(Debug, Default)]
pub struct State {
    limits: OnceLock<Limits>,
    /// When the run was begun.
    began: OnceLock<Instant>,
    /// Nanoseconds by which a test has moved the clock.
    moved: AtomicU64,
    /// The time has run out, which was seen.
    timed_out: AtomicBool,
    /// The stop that was asked for first is one that the run may go on from.
    paused: AtomicBool,
    data_epoch: AtomicU64,
    epoch: AtomicU64,
    min_epochs: AtomicU64,
    max_epochs: AtomicU64,
    completed: AtomicU64,
    iter: AtomicU64,
    step_count: AtomicU64,
    batch_size: AtomicU64,
    training: AtomicBool,
    open: AtomicU32,
    /// The scope whose `_end` is under way: no longer open, and still where the run stands.
    closing: AtomicU32,
    wishes: AtomicU32,
    reason: Mutex<Option<String>>,
    stage: AtomicU8,
    early_stop: AtomicBool,
    cut: AtomicBool,
    non_finite: AtomicBool,
    /// Somebody wants to know how long the loop waits for data.
    times_data: AtomicBool,
    /// The nanoseconds of that in this pass.
    waited: AtomicU64,
    /// How many passes were begun in this epoch.
    passes: AtomicU64,
    /// How many passes of an epoch another run has done, from which this one goes on; which epoch.
    done: AtomicU64,
    done_in: AtomicU64,
    /// Somebody wants to be called between two batches.
    attention: AtomicBool,
    /// The same, from so many training batches on; 0 for never.
    attention_at: AtomicU64,
}

impl State {
    /// A run that ends after so many epochs, if nobody stops it before.
    #[must_use]
    pub fn new(max_epochs: u64) -> Self {
        Self {
            min_epochs: 1.into(),
            max_epochs: max_epochs.into(),
            ..Self::default()
        }
    }

    /// The epoch under way, from 1; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// How many epochs have come to their end.
    pub fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// The first epoch after which an early stop may end the run.
    pub fn min_epochs(&self) -> u64 {
        self.min_epochs.load(Relaxed)
    }

    /// Say how many epochs there are at least, whatever early stopping wants.
    pub fn set_min_epochs(&self, epochs: u64) {
        self.min_epochs.store(epochs, Relaxed);
    }

    /// The last epoch there will be.
    pub fn max_epochs(&self) -> u64 {
        self.max_epochs.load(Relaxed)
    }

    /// Move the end of the run.
    pub fn set_max_epochs(&self, epochs: u64) {
        self.max_epochs.store(epochs, Relaxed);
    }

    /// Say what ends passes and the run; once.
    pub fn set_limits(&self, limits: Limits) {
        // A second call has no effect: limits hold for a whole run.
        self.limits.get_or_init(|| limits);
    }

    /// What ends passes and the run.
    pub fn limits(&self) -> Limits {
        self.limits.get().copied().unwrap_or_default()
    }

    /// Start the clock of `max_time`.
    pub fn start_clock(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// Move the clock on, for tests.
    pub fn move_clock(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.moved.fetch_add(nanos, Relaxed);
    }

    /// The pass over the training data under way, from 1, or the last one; 0 before the first.
    pub fn data_epoch(&self) -> u64 {
        self.data_epoch.load(Relaxed)
    }

    /// Begin a pass over the training data.
    pub fn next_data_epoch(&self) {
        self.data_epoch.fetch_add(1, Relaxed);
    }

    /// True if the run has taken all of its steps, or its time is over.
    fn limit_is_reached(&self) -> bool {
        let Some(limits) = self.limits.get() else {
            return false;
        };
        let is_through = limits
            .max_steps
            .is_some_and(|most| self.step_count() >= most);
        is_through || self.is_timed_out(limits)
    }

    fn is_timed_out(&self, limits: &Limits) -> bool {
        let (Some(most), Some(began)) = (limits.max_time, self.began.get()) else {
            return false;
        };
        if !self.timed_out.load(Relaxed) {
            let moved = Duration::from_nanos(self.moved.load(Relaxed));
            if began.elapsed() + moved < most {
                return false;
            }
            self.timed_out.store(true, Relaxed);
            self.pause(format!("max_time: {}", self.place()));
        }
        true
    }

    /// Count how long the loop waits for the data of the pass that begins.
    pub fn time_data(&self) {
        self.times_data.store(true, Relaxed);
        self.waited.store(0, Relaxed);
    }

    /// How long that was by now.
    pub fn waited_for_data(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Relaxed))
    }

    /// Get a batch, and count the time of it if somebody wants to know.
    pub fn data_is_waited_for<T>(&self, get: impl FnOnce() -> T) -> T {
        if !self.times_data.load(Relaxed) {
            return get();
        }
        let began = Instant::now();
        let got = get();
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanos, Relaxed);
        got
    }

    /// Keep the reason of an end from which the run may go on.
    fn pause(&self, why: String) {
        let mut reason = self.reason();
        if reason.is_none() {
            *reason = Some(why);
            self.paused.store(true, Relaxed);
            self.call_attention();
        }
    }

    /// True if what ended the run is something that it may go on from.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// True if the epoch under way has a validation pass.
    pub fn validates(&self) -> bool {
        let (epoch, every) = (self.epoch(), self.limits().valid_every.max(1));
        epoch % every == 0 || epoch >= self.max_epochs() || self.limit_is_reached()
    }

    /// True while the validation pass is under way that comes before the first epoch.
    pub fn is_before_epochs(&self) -> bool {
        self.epoch() == 0 && self.is_open(Scope::Fit) && self.pass() == Some(Set::Valid)
    }

    /// The epoch that a value is recorded for: 0 before the first one, else from 1.
    pub fn record_epoch(&self) -> u64 {
        if self.is_before_epochs() {
            0
        } else {
            self.epoch().max(1)
        }
    }

    /// The batch in this pass, from 1; 0 before the first.
    pub fn iter(&self) -> u64 {
        self.iter.load(Relaxed)
    }

    /// The training batch in the whole run, from 1.
    pub fn step_count(&self) -> u64 {
        self.step_count.load(Relaxed)
    }

    /// The batch's size if somebody has set it.
    pub fn batch_size(&self) -> Option<u64> {
        // Sizes are kept one up, so that 0 can mean "not set".
        self.batch_size.load(Relaxed).checked_sub(1)
    }

    /// Set the batch's size; it counts as the weight of its loss.
    pub fn set_batch_size(&self, size: u64) {
        self.batch_size.store(size.saturating_add(1), Relaxed);
    }

    /// True if a training pass is under way, or was last.
    pub fn training(&self) -> bool {
        self.training.load(Relaxed)
    }

    /// Say by hand which kind of pass is under way.
    pub fn set_training(&self, training: bool) {
        self.training.store(training, Relaxed);
    }

    /// True if the scope is open.
    pub fn is_open(&self, scope: Scope) -> bool {
        self.open.load(Relaxed) & scope.bit() != 0
    }

    /// The set whose pass is open.
    pub fn set(&self) -> Option<Set> {
        set_in(self.open.load(Relaxed))
    }

    /// The set whose pass is under way, its `_end` included.
    pub fn pass(&self) -> Option<Set> {
        set_in(self.open.load(Relaxed) | self.closing.load(Relaxed))
    }

    /// The number that `every(n)` counts here: steps in a training batch, batches in another, else epochs.
    pub fn count(&self, hook: HookId) -> u64 {
        let open = self.open.load(Relaxed) | self.closing.load(Relaxed);
        let inside = match hook.hook().map(Hook::edge) {
            Some(Edge::Begin(scope) | Edge::End(scope) | Edge::Inside(scope)) => scope.bit(),
            Some(Edge::Anywhere) => 0,
            None => open & BATCHES,
        };
        if inside & Scope::TrainBatch.bit() != 0 {
            self.step_count()
        } else if inside & BATCHES != 0 {
            self.iter()
        } else {
            self.epoch().max(1)
        }
    }

    /// True if a batch is under way, its `_end` included.
    pub fn in_batch(&self) -> bool {
        (self.open.load(Relaxed) | self.closing.load(Relaxed)) & BATCHES != 0
    }

    /// True if the model has answered to the batch under way.
    pub fn has_pred(&self) -> bool {
        self.in_batch() && (self.stage.load(Relaxed) >= PREDICTED || self.is_through(BATCHES))
    }

    /// True if the batch under way has a loss.
    pub fn has_loss(&self) -> bool {
        let compared = Scope::TrainBatch.bit() | Scope::ValidBatch.bit();
        self.in_batch() && (self.stage.load(Relaxed) >= COMPARED || self.is_through(compared))
    }

    /// True if a batch of these has come to its end and was not left. A step in which nobody is called
    /// tells of nothing in between; one that was left has told how far it came.
    fn is_through(&self, scopes: u32) -> bool {
        self.closing.load(Relaxed) & scopes != 0 && !self.batch_is_skipped()
    }

    /// Note that a breakpoint is reached: its scope opens or closes.
    pub fn enter(&self, hook: Hook) {
        let open = self.open.load(Relaxed);
        match hook.edge() {
            Edge::Begin(scope) => {
                self.open.store(open | scope.bit(), Relaxed);
                self.closing.store(0, Relaxed);
                self.stage.store(0, Relaxed);
            }
            Edge::End(scope) => {
                self.closing.store(scope.bit(), Relaxed);
                self.open.store(open & !scope.bit(), Relaxed);
                if scope == Scope::Epoch {
                    self.completed.store(self.epoch(), Relaxed);
                }
            }
            Edge::Inside(_) => match hook {
                Hook::TrainBatchAfterPred | Hook::ValidBatchAfterPred => {
                    self.stage.store(PREDICTED, Relaxed);
                }
                Hook::TrainBatchAfterLoss | Hook::ValidBatchAfterLoss => {
                    self.stage.store(COMPARED, Relaxed);
                }
                _ => {}
            },
            Edge::Anywhere => {}
        }
    }

    /// The `_end` breakpoint that is due first if the run is left now, for scopes inside of `limit`
    /// (all of them without a limit). Calling it until `None` closes what is open, inside out.
    pub fn next_end(&self, limit: Option<Scope>) -> Option<Hook> {
        Scope::ALL
            .into_iter()
            .take_while(|&scope| Some(scope) != limit)
            .find(|&scope| self.is_open(scope))
            .and_then(Hook::end_of)
    }

    /// Begin the next epoch, if there is one to come.
    pub fn next_epoch(&self) -> bool {
        let is_last = self.epoch() >= self.max_epochs();
        if self.wishes(STOP | INTERRUPT) || is_last || self.limit_is_reached() {
            return false;
        }
        self.forget(SKIP_EPOCH | SKIP_BATCH);
        self.cut.store(false, Relaxed);
        self.epoch.fetch_add(1, Relaxed);
        self.iter.store(0, Relaxed);
        self.passes.store(0, Relaxed);
        true
    }

    /// Go on after an epoch that another run has completed, with its counts of training batches and of
    /// passes over their data.
    pub fn resume(&self, epoch: u64, step_count: u64, data_epoch: u64) {
        self.epoch.store(epoch, Relaxed);
        self.completed.store(epoch, Relaxed);
        self.data_epoch.store(data_epoch, Relaxed);
        self.step_count.store(step_count, Relaxed);
    }

    /// Leave out so many passes of the epoch that comes, which another run has done; of 0 those before
    /// the first epoch.
    pub fn resume_in(&self, epoch: u64, passes: u64) {
        self.done_in.store(epoch, Relaxed);
        self.done.store(passes, Relaxed);
    }

    /// Go on in a pass that has begun, behind so many of its batches.
    pub fn reopen(&self, iter: u64, step_count: u64) {
        self.iter.store(iter, Relaxed);
        self.step_count.store(step_count, Relaxed);
    }

    /// The pass of this epoch that is under way, or was last, from 1; 0 before the first.
    pub fn pass_number(&self) -> u64 {
        self.passes.load(Relaxed)
    }

    /// Ask to be called between two batches.
    pub fn call_attention(&self) {
        self.attention.store(true, Relaxed);
    }

    /// The same, from so many training batches on; 0 for never.
    pub fn call_attention_at(&self, step_count: u64) {
        self.attention_at.store(step_count, Relaxed);
    }

    /// True if somebody wants to be called now; asked between two batches, it is forgotten.
    pub fn takes_attention(&self) -> bool {
        let at = self.attention_at.load(Relaxed);
        let is_due = at > 0 && self.step_count() >= at;
        (self.attention.load(Relaxed) && self.attention.swap(false, Relaxed)) || is_due
    }

    /// Begin a pass over data, if nothing asks to leave it out.
    pub fn next_pass(&self, training: bool) -> bool {
        let number = self.passes.fetch_add(1, Relaxed);
        if number < self.done.load(Relaxed) && self.epoch() == self.done_in.load(Relaxed) {
            return false;
        }
        if self.wishes(SKIP_EPOCH | STOP | INTERRUPT) {
            self.note_cut(STOP | INTERRUPT);
            return false;
        }
        if !training && !self.validates() {
            return false;
        }
        self.training.store(training, Relaxed);
        self.iter.store(0, Relaxed);
        true
    }

    /// True while predictions are made.
    pub fn predicts(&self) -> bool {
        let open = self.open.load(Relaxed) | self.closing.load(Relaxed);
        open & (Scope::Predict.bit() | Scope::PredictBatch.bit()) != 0
    }

    /// True if a pass over data is open.
    pub fn in_pass(&self) -> bool {
        let passes = Scope::Train.bit() | Scope::Valid.bit() | Scope::Predict.bit();
        self.open.load(Relaxed) & passes != 0
    }

    /// Be done with the batch: a wish to leave it holds for nothing that comes after. Gives whether
    /// there was one.
    pub fn end_batch(&self) -> bool {
        let left = self.batch_is_skipped();
        if left {
            self.forget(SKIP_BATCH);
            self.closing.store(0, Relaxed);
        }
        left
    }

    /// Begin a batch of the pass; gives whether the one before was to be left.
    pub fn next_batch(&self) -> bool {
        let left = self.batch_is_skipped();
        self.forget(SKIP_BATCH);
        self.iter.store(self.iter() + 1, Relaxed);
        self.batch_size.store(0, Relaxed);
        if self.is_open(Scope::Train) {
            self.step_count.store(self.step_count() + 1, Relaxed);
        }
        left
    }

    /// True if the pass ends before its next batch. A stop lets a validation pass finish.
    pub fn pass_is_over(&self) -> bool {
        let ends = if self.is_open(Scope::Valid) {
            INTERRUPT
        } else {
            STOP | INTERRUPT
        };
        let is_over = self.wishes(SKIP_EPOCH | ends);
        if is_over {
            self.note_cut(ends);
        }
        is_over || self.limits.get().is_some_and(|limits| self.is_full(limits))
    }

    /// True if a pass has all the batches that it may have. One that trains has one at least.
    fn is_full(&self, limits: &Limits) -> bool {
        let iter = self.iter();
        if self.is_open(Scope::Train) {
            limits.steps_per_epoch.is_some_and(|most| iter >= most)
                || (iter > 0 && self.limit_is_reached())
        } else {
            limits.valid_steps.is_some_and(|most| iter >= most)
        }
    }

    /// True if the end of the run, not the epoch's own, has left out a part of the epoch.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    fn note_cut(&self, ends: u32) {
        if self.wishes(ends) {
            self.cut.store(true, Relaxed);
        }
    }

    /// Record a wish; `who` is put before a stop's reason.
    pub fn wish(&self, flow: Flow, who: Option<&str>) {
        let bit = match flow {
            Flow::Continue => 0,
            Flow::SkipBatch => SKIP_BATCH,
            Flow::SkipEpoch => SKIP_EPOCH,
            Flow::Stop(why) => {
                // The first reason is the one that ended the run.
                self.reason().get_or_insert(credited(why, who));
                STOP
            }
        };
        self.wishes.fetch_or(bit, Relaxed);
    }

    /// Record a stop that the run may go on from.
    pub fn wish_pause(&self, why: String, who: Option<&str>) {
        self.pause(credited(why, who));
        self.wishes.fetch_or(STOP, Relaxed);
    }

    /// Record a Ctrl-C: like such a stop, but it does not wait for a validation pass to finish.
    pub fn interrupt(&self, reason: &str) {
        self.pause(reason.to_owned());
        self.wishes.fetch_or(INTERRUPT, Relaxed);
    }

    /// True if the batch under way is to be left.
    pub fn batch_is_skipped(&self) -> bool {
        self.wishes(SKIP_BATCH)
    }

    /// True if the rest of the epoch is to be left out.
    pub fn epoch_is_skipped(&self) -> bool {
        self.wishes(SKIP_EPOCH)
    }

    /// True if a stop has been asked for.
    pub fn is_stopped(&self) -> bool {
        self.wishes(STOP | INTERRUPT)
    }

    /// True if Ctrl-C has been pressed.
    pub fn is_interrupted(&self) -> bool {
        self.wishes(INTERRUPT)
    }

    /// Note that the stop is one for want of improvement: it has a breakpoint of its own.
    pub fn stop_early(&self) {
        self.early_stop.store(true, Relaxed);
    }

    /// True if such a stop was noted since this was last asked.
    pub fn take_early_stop(&self) -> bool {
        self.early_stop.swap(false, Relaxed)
    }

    /// True if this is the first time that somebody asks: a run tells of one loss that is not finite.
    pub fn is_first_non_finite(&self) -> bool {
        !self.non_finite.swap(true, Relaxed)
    }

    /// Why the run was stopped, and by whom.
    pub fn stop_reason(&self) -> Option<String> {
        self.reason().clone()
    }

    /// Where the run stands, for people: `epoch 2, iteration 17, training`.
    #[must_use]
    pub fn place(&self) -> String {
        let under_way = self.open.load(Relaxed) | self.closing.load(Relaxed);
        let pass = match self.pass() {
            Some(Set::Train) => Some("training"),
            Some(Set::Valid) => Some("validation"),
            None if under_way & (Scope::Predict.bit() | Scope::PredictBatch.bit()) != 0 => {
                Some("prediction")
            }
            None => None,
        };
        let mut parts = Vec::new();
        if self.epoch() > 0 {
            parts.push(format!("epoch {}", self.epoch()));
        }
        if let Some(pass) = pass {
            if self.iter() > 0 {
                parts.push(format!("iteration {}", self.iter()));
            }
            parts.push(pass.into());
        }
        if parts.is_empty() {
            "before the first epoch".into()
        } else {
            parts.join(", ")
        }
    }

    fn wishes(&self, bits: u32) -> bool {
        self.wishes.load(Relaxed) & bits != 0
    }

    fn forget(&self, bits: u32) {
        if self.wishes(bits) {
            self.wishes.fetch_and(!bits, Relaxed);
        }
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.reason)
    }
}

/// A reason, and who has it.
fn credited(why: String, who: Option<&str>) -> String {
    match (who, why.is_empty()) {
        (Some(who), false) => format!("{who}: {why}"),
        (Some(who), true) => who.to_owned(),
        (None, _) => why,
    }
}

fn set_in(scopes: u32) -> Option<Set> {
    let any = |pass: Scope, batch: Scope| scopes & (pass.bit() | batch.bit()) != 0;
    if any(Scope::Train, Scope::TrainBatch) {
        Some(Set::Train)
    } else if any(Scope::Valid, Scope::ValidBatch) {
        Some(Set::Valid)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_train() -> State {
        let state = State::new(3);
        assert!(state.next_epoch() && state.next_pass(true));
        state.enter(Hook::TrainBegin);
        state.next_batch();
        state
    }

    #[test]
    fn epochs_end_at_the_last_or_at_a_stop() {
        let state = State::new(2);
        assert!(state.next_epoch() && state.next_epoch() && !state.next_epoch());
        assert_eq!(state.epoch(), 2);
        let state = State::new(2);
        state.wish(Flow::Stop("enough".into()), Some("Judge"));
        state.wish(Flow::Stop("later".into()), Some("Other"));
        assert!(!state.next_epoch());
        assert_eq!(state.stop_reason().as_deref(), Some("Judge: enough"));
    }

    #[test]
    fn what_a_fit_measures_before_its_epochs_is_of_epoch_0() {
        let state = State::new(1);
        state.enter(Hook::ValidBegin);
        assert!(!state.is_before_epochs(), "an evaluation has no epochs");
        assert_eq!(state.record_epoch(), 1);
        let state = State::new(1);
        state.enter(Hook::FitBegin);
        assert_eq!(state.record_epoch(), 1);
        state.enter(Hook::ValidBegin);
        assert!(state.is_before_epochs());
        assert_eq!(state.record_epoch(), 0);
        state.enter(Hook::ValidEnd);
        assert!(state.is_before_epochs());
        state.next_epoch();
        state.enter(Hook::EpochBegin);
        state.enter(Hook::ValidBegin);
        assert!(!state.is_before_epochs());
    }

    #[test]
    fn the_wait_for_data_is_counted_anew_in_each_pass() {
        let state = State::new(1);
        let wait = || state.data_is_waited_for(|| std::thread::sleep(Duration::from_millis(1)));
        wait();
        assert_eq!(
            state.waited_for_data(),
            Duration::ZERO,
            "nobody wants to know"
        );
        state.time_data();
        wait();
        assert!(state.waited_for_data() >= Duration::from_millis(1));
        state.time_data();
        assert_eq!(state.waited_for_data(), Duration::ZERO);
    }

    #[test]
    fn a_skipped_epoch_is_forgotten_by_the_next() {
        let state = in_train();
        state.wish(Flow::SkipEpoch, None);
        assert!(state.pass_is_over() && !state.next_pass(false));
        assert!(state.next_epoch() && state.next_pass(true) && !state.pass_is_over());
    }

    #[test]
    fn a_stop_lets_validation_finish_and_an_interrupt_does_not() {
        let state = State::new(1);
        state.next_epoch();
        state.enter(Hook::ValidBegin);
        state.wish(Flow::Stop(String::new()), None);
        assert!(!state.pass_is_over());
        state.interrupt("Ctrl-C");
        assert!(state.pass_is_over());
    }

    #[test]
    fn an_epoch_is_cut_by_the_end_of_the_run_and_by_nothing_else() {
        let state = in_train();
        state.wish(Flow::SkipEpoch, None);
        assert!(state.pass_is_over() && !state.next_pass(false) && !state.is_cut());
        state.next_epoch();
        state.next_pass(true);
        state.enter(Hook::TrainBegin);
        state.wish(Flow::Stop(String::new()), None);
        assert!(!state.is_cut(), "the wish alone leaves nothing out");
        assert!(state.pass_is_over() && state.is_cut());

        let state = State::new(2);
        state.next_epoch();
        state.enter(Hook::ValidBegin);
        state.wish(Flow::Stop(String::new()), None);
        assert!(!state.pass_is_over() && !state.is_cut());
        state.interrupt("Ctrl-C");
        assert!(state.pass_is_over() && state.is_cut());

        let state = State::new(2);
        state.next_epoch();
        state.wish(Flow::Stop(String::new()), None);
        assert!(!state.next_pass(false) && state.is_cut());
    }

    #[test]
    fn a_batch_that_was_left_is_done_with_when_the_pass_goes_on() {
        let state = in_train();
        state.enter(Hook::TrainBatchBegin);
        state.enter(Hook::TrainBatchAfterLoss);
        state.wish(Flow::SkipBatch, None);
        state.enter(Hook::TrainBatchEnd);
        assert!(state.end_batch() && !state.end_batch());
        assert!(!state.batch_is_skipped() && !state.has_loss() && !state.has_pred());
    }

    #[test]
    fn a_pass_is_open_until_its_end() {
        let state = State::new(1);
        for (begin, end) in [
            (Hook::TrainBegin, Hook::TrainEnd),
            (Hook::ValidBegin, Hook::ValidEnd),
            (Hook::PredictBegin, Hook::PredictEnd),
        ] {
            assert!(!state.in_pass());
            state.enter(begin);
            assert!(state.in_pass());
            state.enter(end);
        }
        state.enter(Hook::EpochBegin);
        assert!(!state.in_pass());
    }

    #[test]
    fn a_skip_belongs_to_its_batch() {
        let state = in_train();
        state.set_batch_size(0);
        state.wish(Flow::SkipBatch, None);
        assert!(state.batch_is_skipped() && !state.pass_is_over());
        assert_eq!(state.batch_size(), Some(0));
        state.next_batch();
        assert!(!state.batch_is_skipped());
        assert_eq!((state.iter(), state.step_count()), (2, 2));
        assert_eq!(state.batch_size(), None);
    }

    #[test]
    fn open_ends_come_from_the_inside_out() {
        let state = State::new(1);
        for hook in [
            Hook::FitBegin,
            Hook::EpochBegin,
            Hook::TrainBegin,
            Hook::TrainBatchBegin,
        ] {
            state.enter(hook);
        }
        let mut ends = Vec::new();
        while let Some(hook) = state.next_end(Some(Scope::Epoch)) {
            state.enter(hook);
            ends.push(hook);
        }
        assert_eq!(ends, [Hook::TrainBatchEnd, Hook::TrainEnd]);
        assert_eq!(state.next_end(None), Some(Hook::EpochEnd));
    }

    #[test]
    fn the_place_is_told_as_far_as_it_is_known() {
        assert_eq!(State::new(1).place(), "before the first epoch");
        let state = in_train();
        assert_eq!(state.place(), "epoch 1, iteration 1, training");
        state.enter(Hook::TrainEnd);
        assert_eq!(state.place(), "epoch 1, iteration 1, training");
        state.enter(Hook::EpochEnd);
        assert_eq!(state.place(), "epoch 1");
    }

    fn limited(max_epochs: u64, limits: Limits) -> State {
        let state = State::new(max_epochs);
        state.set_limits(limits);
        state.start_clock();
        state
    }

    /// Take steps in a training pass until it is over; gives how many.
    fn train(state: &State) -> u64 {
        assert!(state.next_pass(true));
        state.enter(Hook::TrainBegin);
        while !state.pass_is_over() {
            state.next_batch();
        }
        state.enter(Hook::TrainEnd);
        state.iter()
    }

    #[test]
    fn an_epoch_has_its_steps_and_the_last_one_what_is_left() {
        let limits = Limits {
            steps_per_epoch: Some(4),
            max_steps: Some(10),
            ..Limits::default()
        };
        let state = limited(u64::MAX, limits);
        let mut taken = Vec::new();
        while state.next_epoch() {
            taken.push(train(&state));
            assert!(!state.is_cut());
        }
        assert_eq!(taken, [4, 4, 2]);
        assert_eq!((state.stop_reason(), state.is_paused()), (None, false));
    }

    #[test]
    fn validation_has_its_steps_and_its_epochs() {
        let limits = Limits {
            valid_steps: Some(2),
            valid_every: 3,
            steps_per_epoch: Some(1),
            ..Limits::default()
        };
        let state = limited(5, limits);
        let mut epochs = Vec::new();
        while state.next_epoch() {
            train(&state);
            if state.next_pass(false) {
                epochs.push(state.epoch());
                state.enter(Hook::ValidBegin);
                while !state.pass_is_over() {
                    state.next_batch();
                }
                assert_eq!(state.iter(), 2);
                state.enter(Hook::ValidEnd);
            }
        }
        assert_eq!(epochs, [3, 5]);
    }

    #[test]
    fn time_ends_a_run_in_order_and_as_a_pause() {
        let limits = Limits {
            max_time: Some(Duration::from_secs(3600)),
            valid_every: 100,
            ..Limits::default()
        };
        let state = limited(u64::MAX, limits);
        assert!(state.next_epoch() && state.next_pass(true));
        state.enter(Hook::TrainBegin);
        state.next_batch();
        assert!(!state.pass_is_over() && !state.validates());
        state.move_clock(Duration::from_secs(3600));
        assert!(state.pass_is_over() && !state.is_stopped() && !state.is_cut());
        state.enter(Hook::TrainEnd);
        assert!(state.next_pass(false), "the last epoch is validated");
        assert!(!state.next_epoch() && state.is_paused());
        let reason = state.stop_reason().unwrap();
        assert_eq!(reason, "max_time: epoch 1, iteration 1, training");
    }

    #[test]
    fn the_first_reason_says_whether_a_stop_is_a_pause() {
        let state = State::new(1);
        state.wish_pause("for now".into(), Some("Judge"));
        state.wish(Flow::Stop("enough".into()), None);
        assert!(state.is_stopped() && state.is_paused());
        assert_eq!(state.stop_reason().as_deref(), Some("Judge: for now"));
        let state = State::new(1);
        state.wish(Flow::Stop("enough".into()), None);
        state.interrupt("Ctrl-C");
        assert!(!state.is_paused());
    }

    #[test]
    fn filters_count_what_is_around_them() {
        let state = in_train();
        let custom = HookId::new(40).unwrap();
        assert_eq!(state.count(custom), 1, "an epoch");
        state.next_batch();
        state.next_batch();
        state.enter(Hook::TrainBatchBegin);
        assert_eq!(state.count(custom), 3, "a step");
        assert_eq!(state.count(Hook::TrainBatchEnd.into()), 3);
        assert_eq!(state.count(Hook::EpochEnd.into()), 1);
    }
}
