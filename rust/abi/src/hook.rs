//! The breakpoints of a run, by their numbers in the ABI.

macro_rules! hooks {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// A breakpoint of a run. Its number never changes; new ones are added at the end.
        ///
        /// ```
        /// use lumbre_abi::Hook;
        ///
        /// assert_eq!(Hook::TrainBatchEnd.name(), "on_train_batch_end");
        /// assert_eq!(Hook::from_name("on_train_batch_end"), Some(Hook::TrainBatchEnd));
        /// assert_eq!(Hook::TrainBatchEnd.number(), 9);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Hook { $($(#[doc = $doc])+ $variant = $number),+ }

        impl Hook {
            /// Every breakpoint, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name of the method that a callback has for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

hooks! {
    /// Before the first epoch.
    FitBegin = 0, "on_fit_begin";
    /// Before an epoch's training pass.
    EpochBegin = 1, "on_epoch_begin";
    /// Before the first batch of a training pass.
    TrainBegin = 2, "on_train_begin";
    /// Before a training batch is used.
    TrainBatchBegin = 3, "on_train_batch_begin";
    /// After the forward pass of a training batch.
    TrainBatchAfterPred = 4, "on_train_batch_after_pred";
    /// After the loss of a training batch.
    TrainBatchAfterLoss = 5, "on_train_batch_after_loss";
    /// Right before the backward pass.
    TrainBatchBeforeBackward = 6, "on_train_batch_before_backward";
    /// After the backward pass, before the optimizer steps.
    TrainBatchBeforeStep = 7, "on_train_batch_before_step";
    /// After the optimizer has stepped and its gradients are cleared.
    TrainBatchAfterStep = 8, "on_train_batch_after_step";
    /// After a training batch, skipped ones too.
    TrainBatchEnd = 9, "on_train_batch_end";
    /// After the training pass; its metrics are in the records.
    TrainEnd = 10, "on_train_end";
    /// Before the first batch of a validation pass.
    ValidBegin = 11, "on_valid_begin";
    /// Before a validation batch is used.
    ValidBatchBegin = 12, "on_valid_batch_begin";
    /// After the forward pass of a validation batch.
    ValidBatchAfterPred = 13, "on_valid_batch_after_pred";
    /// After the loss of a validation batch.
    ValidBatchAfterLoss = 14, "on_valid_batch_after_loss";
    /// After a validation batch.
    ValidBatchEnd = 15, "on_valid_batch_end";
    /// After the validation pass; its metrics are in the records.
    ValidEnd = 16, "on_valid_end";
    /// After an epoch.
    EpochEnd = 17, "on_epoch_end";
    /// After the `on_epoch_end` in which `EarlyStopping` asked for the stop.
    EarlyStopping = 18, "on_early_stopping";
    /// After the last epoch, however the fit ended, unless an exception leaves it.
    FitEnd = 19, "on_fit_end";
    /// Before the first batch of `predict`.
    PredictBegin = 20, "on_predict_begin";
    /// Before a batch of `predict` is used.
    PredictBatchBegin = 21, "on_predict_batch_begin";
    /// After a batch of `predict`.
    PredictBatchEnd = 22, "on_predict_batch_end";
    /// After the last batch of `predict`.
    PredictEnd = 23, "on_predict_end";
    /// After Ctrl-C, when the batch under way is finished.
    Interrupt = 24, "on_interrupt";
    /// An exception is leaving the run.
    Exception = 25, "on_exception";
    /// A file that the run keeps, a state or a checkpoint, is on the disk.
    Checkpoint = 26, "on_checkpoint";
}

impl Hook {
    /// Its number, below 64.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The breakpoint of that number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The breakpoint of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|hook| hook.name() == name)
    }

    /// A set of breakpoints, a bit for each.
    #[must_use]
    pub(crate) const fn bits(hooks: &[Self]) -> u64 {
        let (mut bits, mut i) = (0, 0);
        while i < hooks.len() {
            bits |= 1 << hooks[i].number();
            i += 1;
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        assert_eq!(Hook::ALL.len(), 27);
        for (place, &hook) in (0..).zip(Hook::ALL) {
            assert_eq!(hook.number(), place);
            assert_eq!(Hook::from_number(place), Some(hook));
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
        }
        assert_eq!(Hook::from_number(27), None);
        assert_eq!(Hook::bits(&[Hook::FitBegin, Hook::Exception]), 1 | 1 << 25);
    }
}
