//! One class against the others, exactly or between thresholds.

use super::bins::{Bins, Thresholds, cells_of};
use super::ranks::Ranks;

/// All that is known of the scores of one class. Kept exactly they take 4 bytes each, or 8 where the
/// dtype has numbers that a `float32` has not: which group a score is in says its label.
#[derive(Clone, Debug)]
pub(super) enum Curve {
    Narrow(Ranks<u32>),
    Wide(Ranks<u64>),
    Binned(Bins),
}

impl Curve {
    pub fn new(thresholds: Option<&Thresholds>) -> Self {
        match thresholds {
            None => Self::Narrow(Ranks::default()),
            Some(thresholds) => Self::Binned(Bins::new(thresholds)),
        }
    }

    /// Begins a batch: of scores that are `float32` or fit in it, unless they are wide.
    pub fn begin(&mut self, wide: bool) {
        if wide {
            self.widen();
        }
        match self {
            Self::Narrow(ranks) => ranks.begin(),
            Self::Wide(ranks) => ranks.begin(),
            Self::Binned(bins) => bins.begin(wide),
        }
    }

    /// Takes in scores of the batch, each with whether its target is this class.
    pub fn extend(&mut self, scores: &[f64], labels: &[bool], thresholds: Option<&Thresholds>) {
        match (self, thresholds) {
            (Self::Narrow(ranks), _) => ranks.extend(scores, labels),
            (Self::Wide(ranks), _) => ranks.extend(scores, labels),
            (Self::Binned(bins), Some(thresholds)) => bins.extend(scores, labels, thresholds),
            (Self::Binned(_), None) => {} // never: it was made of thresholds
        }
    }

    pub fn retract(&mut self) {
        match self {
            Self::Narrow(ranks) => ranks.retract(),
            Self::Wide(ranks) => ranks.retract(),
            Self::Binned(bins) => bins.retract(),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        if matches!(other, Self::Wide(_)) {
            self.widen();
        }
        match (self, other) {
            (Self::Narrow(ranks), Self::Narrow(other)) => ranks.merge(other),
            (Self::Wide(ranks), Self::Wide(other)) => ranks.merge(other),
            (Self::Wide(ranks), Self::Narrow(other)) => ranks.merge(&other.clone().widened()),
            (Self::Binned(bins), Self::Binned(other)) => bins.merge(other),
            _ => {} // never: metrics with the same thresholds have the same curves
        }
    }

    /// How many targets are this class, and how many are others.
    pub fn counts(&self) -> [usize; 2] {
        match self {
            Self::Narrow(ranks) => ranks.counts(),
            Self::Wide(ranks) => ranks.counts(),
            Self::Binned(bins) => bins.counts(),
        }
    }

    /// True if a score is NaN.
    pub fn any_nan(&self) -> bool {
        match self {
            Self::Narrow(ranks) => ranks.any_nan(),
            Self::Wide(ranks) => ranks.any_nan(),
            Self::Binned(bins) => bins.any_nan(),
        }
    }

    /// The area under the curve; NaN unless there are both, and where a score is NaN.
    pub fn value(&mut self) -> f64 {
        match self {
            Self::Narrow(ranks) => ranks.value(),
            Self::Wide(ranks) => ranks.value(),
            Self::Binned(bins) => bins.value(),
        }
    }

    /// The numbers that [`Curve::read`] takes.
    pub fn write(&self, state: &mut Vec<f64>) {
        let mut scores = |counts: [usize; 2], scores: &mut dyn Iterator<Item = f64>| {
            state.extend(counts.map(|count| count as f64));
            state.extend(scores);
        };
        match self {
            Self::Narrow(ranks) => scores(ranks.counts(), &mut ranks.scores()),
            Self::Wide(ranks) => scores(ranks.counts(), &mut ranks.scores()),
            Self::Binned(bins) => state.extend(bins.cells().iter().map(|&count| count as f64)),
        }
    }

    /// A curve from the head of a state, and what follows it; `None` where that is no state.
    pub fn read<'a>(
        state: &'a [f64],
        thresholds: Option<&Thresholds>,
        whole: impl Fn(f64) -> Option<u64>,
    ) -> Option<(Self, &'a [f64])> {
        if let Some(thresholds) = thresholds {
            let (cells, rest) = state.split_at_checked(cells_of(thresholds))?;
            let cells = cells.iter().map(|&count| whole(count));
            return Some((
                Self::Binned(Bins::from_cells(cells.collect::<Option<_>>()?)),
                rest,
            ));
        }
        let ([positives, negatives], rest) = state.split_first_chunk()?;
        let [positives, negatives] = [*positives, *negatives].map(&whole);
        let (positives, rest) = rest.split_at_checked(usize::try_from(positives?).ok()?)?;
        let (negatives, rest) = rest.split_at_checked(usize::try_from(negatives?).ok()?)?;
        #[allow(clippy::cast_possible_truncation, clippy::float_cmp)] // whether anything was lost
        let is_wide = |x: &f64| f64::from(*x as f32) != *x && !x.is_nan();
        let mut curve = Self::new(None);
        curve.begin(positives.iter().chain(negatives).any(is_wide));
        for (scores, label) in [(positives, true), (negatives, false)] {
            for scores in scores.chunks(super::BLOCK) {
                curve.extend(scores, &[label; super::BLOCK][..scores.len()], None);
            }
        }
        curve.begin(false);
        Some((curve, rest))
    }

    fn widen(&mut self) {
        if let Self::Narrow(ranks) = self {
            *self = Self::Wide(std::mem::take(ranks).widened());
        }
    }
}

/// Equal when they have seen the same; how wide it is kept is no part of that.
impl PartialEq for Curve {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Narrow(one), Self::Narrow(two)) => one == two,
            (Self::Wide(one), Self::Wide(two)) => one == two,
            (Self::Wide(wide), Self::Narrow(narrow)) | (Self::Narrow(narrow), Self::Wide(wide)) => {
                narrow.clone().widened() == *wide
            }
            (Self::Binned(one), Self::Binned(two)) => one == two,
            _ => false,
        }
    }
}
