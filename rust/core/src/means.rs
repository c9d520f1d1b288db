//! The means of what is logged in a pass.

use std::sync::Arc;

use crate::error::Result;
use crate::metrics::Mean;

/// Means by name, each over the values that were logged of it in a pass.
///
/// A value that is logged without a weight of its own weighs as much as the batch that it is of, which
/// is known when that is counted: until then it is kept apart, and a batch that is left takes along
/// what was logged of it.
#[derive(Clone, Debug, Default)]
pub struct Means {
    all: Vec<Logged>,
    /// What was logged of the batch under way: the mean, the value, its own weight.
    waiting: Vec<(usize, f64, Option<f64>)>,
}

#[derive(Clone, Debug)]
struct Logged {
    name: Arc<str>,
    mean: Mean,
    /// What it was before the batch under way.
    before: Mean,
    /// True if a value was logged, of whatever weight.
    is_there: bool,
    /// The value of the batch under way.
    last: Option<f64>,
}

impl Means {
    /// Start a pass: everything is forgotten.
    pub fn reset(&mut self) {
        self.all.clear();
        self.waiting.clear();
    }

    /// The number of a mean; it is made if it is not there.
    pub fn place(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.all.push(Logged {
                name: name.into(),
                mean: Mean::default(),
                before: Mean::default(),
                is_there: false,
                last: None,
            });
            self.all.len() - 1
        })
    }

    /// The number of a mean, if it is there.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|each| &*each.name == name)
    }

    /// True if something was logged of the batch under way that is not counted yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The names of the means so far.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let there = self.all.iter().filter(|each| each.is_there);
        there.map(|each| &each.name)
    }

    /// The name of a mean.
    #[must_use]
    pub fn name(&self, place: usize) -> Option<&Arc<str>> {
        self.all.get(place).map(|each| &each.name)
    }

    /// Begin a batch: nothing is logged of it yet.
    pub fn begin_batch(&mut self) {
        self.waiting.clear();
        for each in &mut self.all {
            each.last = None;
        }
    }

    /// Log a value of the batch under way, which is counted later.
    pub fn wait(&mut self, place: usize, value: f64, weight: Option<f64>) {
        self.waiting.push((place, value, weight));
        self.show(place, Some(value));
    }

    /// Count the batch under way with its weight, and with it what was logged of it.
    pub fn count(&mut self, weight: f64) {
        for each in &mut self.all {
            each.before = each.mean;
        }
        for index in 0..self.waiting.len() {
            let (place, value, own) = self.waiting[index];
            self.add(place, value, own.unwrap_or(weight));
        }
        self.waiting.clear();
    }

    /// Log a value with its weight at once.
    pub fn add(&mut self, place: usize, value: f64, weight: f64) {
        if let Some(each) = self.all.get_mut(place) {
            each.mean.add(value, weight);
            each.is_there |= weight != 0.0;
        }
    }

    /// Add the mean of many values that do not belong to the batch under way.
    pub fn add_earlier(&mut self, place: usize, mean: f64, weight: f64) {
        self.add(place, mean, weight);
        if let Some(each) = self.all.get_mut(place) {
            each.before.add(mean, weight);
        }
    }

    /// Show a value as that of the batch under way.
    pub fn show(&mut self, place: usize, value: Option<f64>) {
        if let Some(each) = self.all.get_mut(place) {
            each.last = value;
        }
    }

    /// Take the batch under way back out.
    pub fn retract(&mut self) {
        self.waiting.clear();
        for each in &mut self.all {
            each.mean = each.before;
            each.is_there = each.mean != Mean::default();
        }
    }

    /// The means so far.
    pub fn values(&self) -> impl Iterator<Item = (&Arc<str>, f64)> {
        let there = self.all.iter().filter(|each| each.is_there);
        there.map(|each| (&each.name, each.mean.mean()))
    }

    /// What each name has seen so far, for [`Means::load`], in their order.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Vec<f64>)> {
        let there = self.all.iter().filter(|each| each.is_there);
        there
            .map(|each| (each.name.to_string(), each.mean.state()))
            .collect()
    }

    /// Become what [`Means::state`] has described.
    ///
    /// # Errors
    /// It is something else.
    pub fn load(&mut self, state: &[(String, Vec<f64>)]) -> Result<()> {
        let mut loaded = Self::default();
        for (name, numbers) in state {
            let place = loaded.place(name);
            let each = &mut loaded.all[place];
            each.mean.load(numbers)?;
            each.before = each.mean;
            each.is_there = true;
        }
        *self = loaded;
        Ok(())
    }

    /// The values of the batch under way.
    pub fn of_batch(&self) -> impl Iterator<Item = (&Arc<str>, f64)> {
        self.all
            .iter()
            .filter_map(|each| each.last.map(|last| (&each.name, last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(means: &Means) -> Vec<(String, f64)> {
        let values = means.values();
        values
            .map(|(name, mean)| (name.to_string(), mean))
            .collect()
    }

    #[test]
    fn a_value_weighs_as_much_as_its_batch_unless_told_otherwise() {
        let mut means = Means::default();
        for (kl, weight) in [(1.0, 3.0), (5.0, 1.0)] {
            means.begin_batch();
            let (place, own) = (means.place("kl"), means.place("own"));
            means.wait(place, kl, None);
            means.wait(own, kl, Some(2.0));
            means.count(weight);
        }
        assert_eq!(told(&means), [("kl".into(), 2.0), ("own".into(), 3.0)]);
    }

    #[test]
    fn a_batch_that_is_left_takes_its_values_along() {
        let mut means = Means::default();
        let place = means.place("kl");
        means.wait(place, 1.0, None);
        means.begin_batch();
        means.wait(place, 2.0, None);
        means.count(1.0);
        assert_eq!(told(&means), [("kl".into(), 2.0)]);
        means.retract();
        assert_eq!(told(&means), []);
    }

    #[test]
    fn the_values_of_a_batch_go_when_the_next_one_begins() {
        let mut means = Means::default();
        let place = means.place("kl");
        means.wait(place, 1.0, None);
        assert_eq!(means.of_batch().count(), 1);
        means.begin_batch();
        assert_eq!(means.of_batch().count(), 0);
    }

    #[test]
    fn what_was_counted_earlier_stays_when_a_batch_is_taken_back() {
        let mut means = Means::default();
        let place = means.place("kl");
        means.wait(place, 5.0, None);
        means.count(1.0);
        means.add_earlier(place, 1.0, 3.0);
        assert_eq!(told(&means), [("kl".into(), 2.0)]);
        means.retract();
        assert_eq!(told(&means), [("kl".into(), 1.0)]);
    }

    #[test]
    fn a_state_is_gone_on_from_in_the_same_bits() {
        let mut means = Means::default();
        let (kl, other) = (means.place("kl"), means.place("other"));
        for value in [1e16, 1.0, 0.1] {
            means.add(kl, value, 3.0);
        }
        means.add(other, 2.0, 0.0);
        let mut again = Means::default();
        again.load(&means.state()).unwrap();
        for each in [&mut means, &mut again] {
            let place = each.place("kl");
            each.add(place, -1e16, 3.0);
        }
        assert_eq!(told(&means), told(&again));
        assert!(again.load(&[("kl".into(), vec![1.0])]).is_err());
        assert_eq!(told(&means), told(&again), "nothing has changed");
    }

    #[test]
    fn a_name_of_no_weight_has_no_mean() {
        let mut means = Means::default();
        let place = means.place("kl");
        means.add(place, f64::NAN, 0.0);
        assert_eq!(told(&means), []);
        means.add(place, f64::NAN, 1.0);
        assert!(told(&means)[0].1.is_nan());
    }

    proptest! {
        #[test]
        fn batches_that_were_taken_back_never_were(
            batches in proptest::collection::vec((
                proptest::collection::vec((0_usize..3, -1e6..1e6_f64), 0..5),
                1_u32..100, 0_u8..4), 0..30),
        ) {
            let (mut means, mut expected) = (Means::default(), vec![(0.0, 0.0); 3]);
            for name in ["0", "1", "2"] {
                means.place(name);
            }
            for (values, weight, fate) in &batches {
                let weight = f64::from(*weight);
                means.begin_batch();
                for &(place, value) in values {
                    means.wait(place, value, None);
                }
                if *fate == 0 {
                    continue; // left before it was counted
                }
                means.count(weight);
                if *fate == 1 {
                    means.retract();
                    continue;
                }
                for &(place, value) in values {
                    expected[place].0 += value * weight;
                    expected[place].1 += weight;
                }
            }
            for (name, mean) in told(&means) {
                let (sum, weight) = expected[name.parse::<usize>().unwrap()];
                prop_assert!((mean - sum / weight).abs() <= 1e-9 * (1.0 + mean.abs()));
            }
            let there = expected.iter().filter(|(_, weight)| *weight > 0.0).count();
            prop_assert_eq!(told(&means).len(), there);
        }
    }
}
