//! States that can go back by one batch.

/// Numbers, and what they were before the last batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept<T> {
    pub now: T,
    before: T,
}

impl<T: Clone> Kept<T> {
    /// The numbers, for a batch to be counted in.
    pub fn step(&mut self) -> &mut T {
        self.before.clone_from(&self.now);
        &mut self.now
    }

    /// Changes the numbers by something that is no batch, and is not taken back with one.
    pub fn aside(&mut self, change: impl Fn(&mut T)) {
        change(&mut self.now);
        change(&mut self.before);
    }

    /// Takes the last batch back out.
    pub fn retract(&mut self) {
        self.now.clone_from(&self.before);
    }

    /// Becomes these numbers, with no batch to take back.
    pub fn set(&mut self, now: T) {
        self.before.clone_from(&now);
        self.now = now;
    }
}

/// The numbers that a batch could be taken back to are no part of the measurement.
impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.now == other.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_batch_is_taken_back_and_what_was_merged_stays() {
        let mut kept = Kept::<u32>::default();
        *kept.step() += 1;
        *kept.step() += 2;
        kept.aside(|x| *x += 10);
        kept.retract();
        assert_eq!(kept.now, 11);
        kept.retract();
        assert_eq!(kept.now, 11, "no batch is left to take back");
        kept.set(5);
        kept.retract();
        assert_eq!(kept.now, 5);
    }
}
