//! The breakpoints of a run. This enum is the one place where they are listed.

/// A part of a run that opens and closes, listed from the inside out: the order in which open
/// ones are closed when a run is left early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// One batch of a training pass.
    TrainBatch,
    /// One batch of a validation pass.
    ValidBatch,
    /// One batch of `predict`.
    PredictBatch,
    /// One pass over the training data.
    Train,
    /// One pass over the validation data.
    Valid,
    /// One call of `predict`.
    Predict,
    /// One epoch.
    Epoch,
    /// One call of `fit`.
    Fit,
}

impl Scope {
    /// All scopes, from the inside out.
    pub const ALL: [Self; 8] = [
        Self::TrainBatch,
        Self::ValidBatch,
        Self::PredictBatch,
        Self::Train,
        Self::Valid,
        Self::Predict,
        Self::Epoch,
        Self::Fit,
    ];

    /// This scope's bit in a set of open scopes.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The effect of a breakpoint on the scopes around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It opens the scope.
    Begin(Scope),
    /// It closes the scope.
    End(Scope),
    /// It lies inside of the scope.
    Inside(Scope),
    /// It can happen anywhere.
    Anywhere,
}

macro_rules! hooks {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $edge:expr;)+) => {
        /// A breakpoint of the training loop.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Hook { $($(#[doc = $doc])+ $variant),+ }

        impl Hook {
            /// Every breakpoint, in the order in which a fit meets them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name of the method that a callback defines for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Its effect on the scopes around it.
            #[must_use]
            pub const fn edge(self) -> Edge {
                use Edge::{Anywhere, Begin, End, Inside};
                use Scope::{Epoch, Fit, Predict, PredictBatch, Train, TrainBatch, Valid, ValidBatch};
                match self { $(Self::$variant => $edge),+ }
            }

            /// One sentence on when it fires.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

hooks! {
    /// Before the first epoch.
    FitBegin, "on_fit_begin", Begin(Fit);
    /// Before an epoch's training pass.
    EpochBegin, "on_epoch_begin", Begin(Epoch);
    /// Before the first batch of a training pass.
    TrainBegin, "on_train_begin", Begin(Train);
    /// Before a training batch is used; `ctx.batch` is there and on the device.
    TrainBatchBegin, "on_train_batch_begin", Begin(TrainBatch);
    /// After the forward pass; `ctx.pred` may be replaced, with its graph. Gradients are on.
    TrainBatchAfterPred, "on_train_batch_after_pred", Inside(TrainBatch);
    /// After the loss; `ctx.loss_grad` may be replaced, with its graph. Gradients are on.
    TrainBatchAfterLoss, "on_train_batch_after_loss", Inside(TrainBatch);
    /// Right before the backward pass. Gradients are on.
    TrainBatchBeforeBackward, "on_train_batch_before_backward", Inside(TrainBatch);
    /// After the backward pass, before the optimizer steps: the gradients are there.
    TrainBatchBeforeStep, "on_train_batch_before_step", Inside(TrainBatch);
    /// After the optimizer has stepped and its gradients are cleared.
    TrainBatchAfterStep, "on_train_batch_after_step", Inside(TrainBatch);
    /// After a training batch, skipped ones too.
    TrainBatchEnd, "on_train_batch_end", End(TrainBatch);
    /// After the training pass; its metrics are in the records.
    TrainEnd, "on_train_end", End(Train);
    /// Before the first batch of a validation pass.
    ValidBegin, "on_valid_begin", Begin(Valid);
    /// Before a validation batch is used.
    ValidBatchBegin, "on_valid_batch_begin", Begin(ValidBatch);
    /// After the forward pass of a validation batch.
    ValidBatchAfterPred, "on_valid_batch_after_pred", Inside(ValidBatch);
    /// After the loss of a validation batch.
    ValidBatchAfterLoss, "on_valid_batch_after_loss", Inside(ValidBatch);
    /// After a validation batch.
    ValidBatchEnd, "on_valid_batch_end", End(ValidBatch);
    /// After the validation pass; its metrics are in the records.
    ValidEnd, "on_valid_end", End(Valid);
    /// After an epoch.
    EpochEnd, "on_epoch_end", End(Epoch);
    /// After the `on_epoch_end` in which `EarlyStopping` asked for the stop.
    EarlyStopping, "on_early_stopping", Anywhere;
    /// After the last epoch, however the fit ended, unless an exception leaves it.
    FitEnd, "on_fit_end", End(Fit);
    /// Before the first batch of `predict`.
    PredictBegin, "on_predict_begin", Begin(Predict);
    /// Before a batch of `predict` is used.
    PredictBatchBegin, "on_predict_batch_begin", Begin(PredictBatch);
    /// After a batch of `predict`; `ctx.pred` may be replaced.
    PredictBatchEnd, "on_predict_batch_end", End(PredictBatch);
    /// After the last batch of `predict`.
    PredictEnd, "on_predict_end", End(Predict);
    /// After Ctrl-C or a signal that pauses the run, when the batch under way is finished (a second one: at once).
    Interrupt, "on_interrupt", Anywhere;
    /// An exception is leaving the run; `ctx.exception` holds it.
    Exception, "on_exception", Anywhere;
    /// A file that the run keeps, a state or a checkpoint, is on the disk; `ctx.checkpoint` is its path.
    Checkpoint, "on_checkpoint", Anywhere;
}

impl Hook {
    /// True if gradients are on there: what callbacks put into `ctx.pred` or the loss carries its
    /// graph. They are off at all others.
    #[must_use]
    pub const fn has_grad(self) -> bool {
        matches!(
            self,
            Self::TrainBatchAfterPred | Self::TrainBatchAfterLoss | Self::TrainBatchBeforeBackward
        )
    }

    /// The names of all, in their order.
    #[must_use]
    pub fn names() -> Vec<String> {
        Self::ALL
            .iter()
            .map(|hook| hook.name().to_owned())
            .collect()
    }

    /// The breakpoint of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|hook| hook.name() == name)
    }

    /// The breakpoint that closes a scope.
    #[must_use]
    pub fn end_of(scope: Scope) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|hook| hook.edge() == Edge::End(scope))
    }
}

/// A breakpoint by number: the built-in ones first, then the run's custom ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookId(u8);

impl HookId {
    /// As many as fit a set of 64 bits.
    pub const MAX: usize = 64;

    /// The number's breakpoint, if there is room for it.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        (index < Self::MAX).then(|| u8::try_from(index).ok().map(Self))?
    }

    /// Its number, below [`HookId::MAX`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The built-in breakpoint, or `None` for a custom one.
    #[must_use]
    pub fn hook(self) -> Option<Hook> {
        Hook::ALL.get(self.index()).copied()
    }
}

impl From<Hook> for HookId {
    fn from(hook: Hook) -> Self {
        Self(hook as u8)
    }
}

/// A set of breakpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookSet(pub u64);

impl HookSet {
    /// The set of these.
    #[must_use]
    pub fn of(hooks: &[Hook]) -> Self {
        hooks.iter().map(|&hook| hook.into()).collect()
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, hook: HookId) -> Self {
        Self(self.0 | 1 << hook.0)
    }

    /// True if it holds that one.
    #[must_use]
    pub const fn contains(self, hook: HookId) -> bool {
        self.0 & 1 << hook.0 != 0
    }
}

impl FromIterator<HookId> for HookSet {
    fn from_iter<I: IntoIterator<Item = HookId>>(hooks: I) -> Self {
        hooks.into_iter().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_hooks() {
        assert_eq!(Hook::ALL.len(), 27);
        for (index, &hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(HookId::from(hook).index(), index);
            assert_eq!(HookId::new(index).and_then(HookId::hook), Some(hook));
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
            assert!(hook.name().starts_with("on_") && !hook.doc().is_empty());
        }
        assert_eq!(Hook::from_name("on_batch_end"), None);
        assert_eq!(HookId::new(64), None);
    }

    #[test]
    fn every_scope_has_one_begin_and_one_end() {
        for scope in Scope::ALL {
            for edge in [Edge::Begin(scope), Edge::End(scope)] {
                let found = Hook::ALL.iter().filter(|hook| hook.edge() == edge);
                assert_eq!(found.count(), 1);
            }
            assert!(Hook::end_of(scope).is_some());
        }
    }
}
