//! Filters on a hook: decided here, before anything is called.

use crate::error::{Error, Result};

/// When a callback's hook runs. The default lets every time through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    every: u64,
    first: u64,
    last: u64,
    once: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            every: 1,
            first: 1,
            last: u64::MAX,
            once: false,
        }
    }
}

impl Filter {
    /// Every n-th time, counted as the breakpoint counts: steps, batches or epochs.
    ///
    /// # Errors
    /// `n` is 0.
    pub fn every(n: u64) -> Result<Self> {
        if n == 0 {
            return Err(Error::Schedule(
                "every(0) would never run; every(1) runs each time.".into(),
            ));
        }
        Ok(Self {
            every: n,
            ..Self::default()
        })
    }

    /// Once a run.
    #[must_use]
    pub fn once() -> Self {
        Self {
            once: true,
            ..Self::default()
        }
    }

    /// In the epochs from `first` to `last`, both included; without `last`, to the end.
    ///
    /// # Errors
    /// Epochs count from 1 and `last` comes before `first`.
    pub fn epochs(first: u64, last: Option<u64>) -> Result<Self> {
        let end = last.unwrap_or(u64::MAX);
        if first == 0 || end < first {
            return Err(Error::Schedule(format!(
                "epochs({first}, {}) holds no epoch: they count from 1, and both ends are included.",
                last.map_or("None".into(), |last| last.to_string())
            )));
        }
        Ok(Self {
            first,
            last: end,
            ..Self::default()
        })
    }

    /// Both filters at once.
    ///
    /// # Errors
    /// No epoch is left in which both hold.
    pub fn and(self, other: Self) -> Result<Self> {
        let both = Self {
            every: lcm(self.every, other.every),
            first: self.first.max(other.first),
            last: self.last.min(other.last),
            once: self.once || other.once,
        };
        if both.first > both.last {
            return Err(Error::Schedule(format!(
                "The filters {self} and {other} on one hook never hold together."
            )));
        }
        Ok(both)
    }

    /// True if it holds now; `count` is what the breakpoint counts. `once` is the caller's to keep.
    #[must_use]
    pub fn holds(&self, count: u64, epoch: u64) -> bool {
        let is_in = if epoch == 0 {
            // What comes before the first epoch is in none that was named.
            self.first <= 1 && self.last == u64::MAX
        } else {
            (self.first..=self.last).contains(&epoch)
        };
        is_in && (self.every == 1 || count.is_multiple_of(self.every))
    }

    /// True if it may hold once a run only.
    #[must_use]
    pub fn is_once(&self) -> bool {
        self.once
    }

    /// True if it lets everything through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if self.every != 1 {
            parts.push(format!("every({})", self.every));
        }
        if self.once {
            parts.push("once".into());
        }
        match (self.first, self.last) {
            (1, u64::MAX) => {}
            (first, u64::MAX) => parts.push(format!("epochs({first}, None)")),
            (first, last) => parts.push(format!("epochs({first}, {last})")),
        }
        f.write_str(&parts.join(" & "))
    }
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    // Past u64 the two never meet in any run.
    (a / x).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_included() {
        let filter = Filter::epochs(2, Some(3)).unwrap();
        assert_eq!(
            [1, 2, 3, 4].map(|epoch| filter.holds(1, epoch)),
            [false, true, true, false]
        );
        assert!(Filter::epochs(5, None).unwrap().holds(1, 1_000_000));
    }

    #[test]
    fn what_can_never_hold_is_refused() {
        assert!(Filter::every(0).is_err());
        assert!(Filter::epochs(0, None).is_err());
        assert!(Filter::epochs(3, Some(2)).is_err());
        let error = Filter::epochs(1, Some(2))
            .unwrap()
            .and(Filter::epochs(3, None).unwrap());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("epochs(1, 2) and epochs(3, None)")
        );
    }

    #[test]
    fn it_prints_as_it_is_written() {
        let filter = Filter::every(4)
            .unwrap()
            .and(Filter::epochs(2, None).unwrap())
            .unwrap();
        assert_eq!(
            filter.and(Filter::once()).unwrap().to_string(),
            "every(4) & once & epochs(2, None)"
        );
        assert_eq!(Filter::default().to_string(), "");
    }

    proptest! {
        #[test]
        fn and_means_both(a in 1..20_u64, b in 1..20_u64, f in 1..6_u64, l in 6..9_u64, count in 1..400_u64, epoch in 1..10_u64) {
            let one = Filter::every(a).unwrap().and(Filter::epochs(f, None).unwrap()).unwrap();
            let two = Filter::every(b).unwrap().and(Filter::epochs(1, Some(l)).unwrap()).unwrap();
            let both = one.and(two).unwrap();
            prop_assert_eq!(both.holds(count, epoch), one.holds(count, epoch) && two.holds(count, epoch));
        }
    }
}
