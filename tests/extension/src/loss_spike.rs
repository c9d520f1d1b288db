//! A guard against losses that jump.

use std::collections::VecDeque;

use lumbre_abi::{Ctx, Result, callback};

/// What happens at a spike.
#[derive(Clone, Copy, PartialEq)]
enum Action {
    Stop,
    Skip,
}

/// Looks at each loss of training before it is used.
pub struct LossSpike {
    factor: f64,
    window: usize,
    action: Action,
    /// The last losses that were no spikes, none longer ago than `window`; all finite.
    seen: VecDeque<f64>,
    /// The same, in order.
    sorted: Vec<f64>,
    /// The largest ratio of a loss to the median in this epoch.
    ratio: f64,
}

/// Leaves out a batch whose loss is more than `factor` times the median of the `window` losses before
/// it, or not finite; with `action="stop"` the run ends with that batch.
///
/// It acts at `on_train_batch_after_loss`, at weight 0, once `window` losses were seen; a spike is not
/// counted among them. It logs `spike_ratio`, the largest ratio of an epoch.
#[callback(logs("spike_ratio"))]
impl LossSpike {
    #[defaults(factor = 3.0, window = 50, action = "stop")]
    pub fn new(factor: f64, window: usize, action: String) -> Result<Self> {
        if factor.is_nan() || factor <= 1.0 {
            return Err(format!("LossSpike: factor is greater than 1; got {factor}").into());
        }
        if window == 0 {
            return Err("LossSpike: window is 1 or more; got 0".into());
        }
        let action = match action.as_str() {
            "stop" => Action::Stop,
            "skip" => Action::Skip,
            _ => {
                let message = format!("LossSpike: action is \"stop\" or \"skip\"; got {action:?}");
                return Err(message.into());
            }
        };
        Ok(Self {
            factor,
            window,
            action,
            seen: VecDeque::with_capacity(window.min(4096)),
            sorted: Vec::with_capacity(window.min(4096)),
            ratio: 0.0,
        })
    }

    fn on_train_begin(&mut self) {
        self.ratio = 0.0;
    }

    fn on_train_batch_after_loss(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let Some(loss) = ctx.loss()? else {
            return Ok(());
        };
        let median = self.median();
        if let Some(median) = median.filter(|_| loss.is_finite()) {
            self.ratio = self.ratio.max(loss / median);
        }
        if !self.is_spike(loss, median) {
            self.see(loss);
            return Ok(());
        }
        ctx.skip_batch();
        if self.action == Action::Stop {
            let median = median.map_or("not known yet".into(), |median| median.to_string());
            ctx.stop(format!("the loss is {loss}, where the median is {median}"));
        }
        Ok(())
    }

    fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        if self.ratio > 0.0 {
            ctx.log("spike_ratio", self.ratio)?;
        }
        Ok(())
    }

    fn save(&self) -> String {
        format!("{:?}", self.seen)
    }

    fn load(&mut self, state: &str) -> Result {
        let losses = state
            .trim()
            .strip_prefix('[')
            .and_then(|state| state.strip_suffix(']'));
        let losses = losses.ok_or("LossSpike: its state is a list of losses")?;
        let losses = losses
            .split(',')
            .map(str::trim)
            .filter(|loss| !loss.is_empty());
        let losses: Vec<f64> = losses.map(str::parse).collect::<Result<_, _>>()?;
        self.seen.clear();
        self.sorted.clear();
        for loss in losses {
            self.see(loss);
        }
        Ok(())
    }

    /// Count a loss in, and the oldest one out.
    fn see(&mut self, loss: f64) {
        if self.seen.len() >= self.window
            && let Some(oldest) = self.seen.pop_front()
        {
            self.sorted.remove(self.place(oldest));
        }
        self.seen.push_back(loss);
        self.sorted.insert(self.place(loss), loss);
    }

    fn place(&self, loss: f64) -> usize {
        self.sorted
            .partition_point(|known| known.total_cmp(&loss).is_lt())
    }

    fn is_spike(&self, loss: f64, median: Option<f64>) -> bool {
        !loss.is_finite() || median.is_some_and(|median| loss > self.factor * median)
    }

    /// The median of the losses; `None` before there are enough.
    fn median(&self) -> Option<f64> {
        if self.seen.len() < self.window {
            return None;
        }
        let (lower, upper) = ((self.window - 1) / 2, self.window / 2);
        Some(f64::midpoint(self.sorted[lower], self.sorted[upper]))
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::testing::{Mounted, Run};

    use super::*;

    fn mounted(window: usize, action: &str) -> Mounted<LossSpike> {
        Mounted::new(LossSpike::new(3.0, window, action.into()).unwrap())
    }

    /// Which of the losses were left out.
    fn skipped(run: &mut Run, spike: &Mounted<LossSpike>, losses: &[f64]) -> Vec<bool> {
        let one = |&loss: &f64| {
            run.next_batch();
            run.loss = Some(loss);
            run.fire(spike, Hook::TrainBatchAfterLoss).unwrap();
            run.batch_skipped
        };
        losses.iter().map(one).collect()
    }

    #[test]
    fn a_spike_is_left_out_and_not_counted() {
        let (mut run, spike) = (Run::new(), mounted(3, "skip"));
        let losses = [9.0, 1.0, 2.0, 6.0, 6.1, 6.1, 7.0, 18.1, f64::NAN, 1.0];
        let left_out = skipped(&mut run, &spike, &losses);
        // Medians: none yet for three; 2 of [9, 1, 2]; then 2 of [1, 2, 6] again and again.
        let expected = [
            false, false, false, false, true, true, true, true, true, false,
        ];
        assert_eq!(left_out, expected);
        assert_eq!(run.stopped, None);
        run.fire(&spike, Hook::TrainEnd).unwrap();
        assert_eq!(run.logged, [("train_spike_ratio".to_owned(), 18.1 / 2.0)]);
    }

    #[test]
    fn it_stops_and_says_why() {
        let (mut run, spike) = (Run::new(), mounted(2, "stop"));
        assert_eq!(
            skipped(&mut run, &spike, &[1.0, 2.0, 5.0]),
            [false, false, true]
        );
        let reason = "the loss is 5, where the median is 1.5";
        assert_eq!(run.stopped.as_deref(), Some(reason));
    }

    #[test]
    fn a_loss_that_is_no_number_is_a_spike_from_the_first_batch() {
        let (mut run, spike) = (Run::new(), mounted(2, "stop"));
        assert_eq!(skipped(&mut run, &spike, &[f64::INFINITY]), [true]);
        let reason = "the loss is inf, where the median is not known yet";
        assert_eq!(run.stopped.as_deref(), Some(reason));
    }

    #[test]
    fn a_state_that_is_taken_up_decides_alike() {
        let (mut run, spike) = (Run::new(), mounted(3, "skip"));
        skipped(&mut run, &spike, &[0.1, 1e300, 1e-300]);
        let other = mounted(3, "skip");
        other.load(&spike.save().unwrap().unwrap()).unwrap();
        let losses = [0.2, 0.31, 1e301, 0.4];
        let decided = skipped(&mut run, &spike, &losses);
        assert_eq!(skipped(&mut run, &other, &losses), decided);
        assert_eq!(decided, [false, false, true, false]);
    }

    #[test]
    fn arguments_are_checked() {
        for (factor, window, action, message) in [
            (1.0, 5, "stop", "LossSpike: factor is greater than 1; got 1"),
            (
                f64::NAN,
                5,
                "stop",
                "LossSpike: factor is greater than 1; got NaN",
            ),
            (2.0, 0, "stop", "LossSpike: window is 1 or more; got 0"),
            (
                2.0,
                5,
                "end",
                "LossSpike: action is \"stop\" or \"skip\"; got \"end\"",
            ),
        ] {
            let error = LossSpike::new(factor, window, action.into()).err().unwrap();
            assert_eq!(error.to_string(), message);
        }
    }
}
