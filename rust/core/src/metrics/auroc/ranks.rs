//! Scores of two groups, and how many pairs of them are in order.

/// A score as an integer of the same order, which sorts and compares faster than a float. No score
/// that is a number becomes the first or the last of the keys.
pub(super) trait Key: Copy + Default + Ord {
    fn of(score: f64, positive: bool) -> Self;
    /// The key of a NaN.
    fn of_nan(positive: bool) -> Self;
    fn score(self) -> f64;
}

/// Adding 0 makes one zero of the two, which are ties. A NaN is the first among the positives, the
/// last among the negatives.
macro_rules! key {
    ($key:ty, $float:ty, $narrow:expr) => {
        impl Key for $key {
            #[inline]
            fn of(score: f64, positive: bool) -> Self {
                let narrow: fn(f64) -> $float = $narrow;
                let bits = (narrow(score) + 0.0).to_bits();
                // All ones for a negative number, whose order is the reverse of that of its bits.
                let negative = (bits >> (Self::BITS - 1)).wrapping_neg();
                let key = bits ^ (negative | 1 << (Self::BITS - 1));
                if score.is_nan() {
                    Self::of_nan(positive)
                } else {
                    key
                }
            }

            #[inline]
            fn of_nan(positive: bool) -> Self {
                Self::from(positive).wrapping_sub(1)
            }

            fn score(self) -> f64 {
                if self == Self::MIN || self == Self::MAX {
                    return f64::NAN;
                }
                let positive = self >> (Self::BITS - 1);
                let flipped = positive.wrapping_sub(1) | 1 << (Self::BITS - 1);
                f64::from(<$float>::from_bits(self ^ flipped))
            }
        }
    };
}

#[allow(clippy::cast_possible_truncation)] // only scores that are `f32` come here
const fn single(score: f64) -> f32 {
    score as f32
}

key!(u32, f32, single);
key!(u64, f64, |score| score);

/// The scores of one group. Those before the last batch stand in sorted runs, each less than half
/// as long as the one before it, so that a value between two batches costs little more than what
/// came in since the one before.
#[derive(Clone, Debug, Default)]
struct Group<K> {
    keys: Vec<K>,
    /// Where each of the runs ends.
    runs: Vec<usize>,
    /// Where the last batch begins.
    last: usize,
}

impl<K: Key> Group<K> {
    fn settled(&self) -> usize {
        self.runs.last().copied().unwrap_or_default()
    }

    fn runs(&self) -> impl Iterator<Item = &[K]> {
        let starts = std::iter::once(0).chain(self.runs.iter().copied());
        starts
            .zip(&self.runs)
            .map(|(from, &to)| &self.keys[from..to])
    }

    /// All that came in since the runs were made.
    fn unsorted(&self) -> &[K] {
        &self.keys[self.settled()..]
    }

    /// The same without the last batch.
    fn fresh(&self) -> &[K] {
        &self.keys[self.settled()..self.last]
    }

    /// The last batch.
    fn tail(&self) -> &[K] {
        &self.keys[self.last..]
    }

    fn sort(&mut self) {
        let settled = self.settled();
        self.keys[settled..self.last].sort_unstable();
        self.keys[self.last..].sort_unstable();
    }

    /// Makes a run of what is fresh, and one of runs that are alike in length.
    fn settle(&mut self) {
        if self.settled() == self.last {
            return;
        }
        self.runs.push(self.last);
        while let [.., middle, end] = self.runs[..] {
            let start = self.runs.iter().rev().nth(2).copied().unwrap_or_default();
            if middle - start > 2 * (end - middle) {
                break;
            }
            self.keys[start..end].sort_unstable();
            self.runs.pop();
            self.runs.pop();
            self.runs.push(end);
        }
    }

    /// Puts keys in before the last batch.
    fn insert(&mut self, keys: impl ExactSizeIterator<Item = K>) {
        let count = keys.len();
        self.keys.reserve_exact(count);
        self.keys.extend(keys);
        self.keys[self.last..].rotate_right(count);
        self.last += count;
    }

    fn widened<W: Key>(self, positive: bool) -> Group<W> {
        let keys = self.keys.into_iter();
        Group {
            // The order is kept, and so are the runs.
            keys: keys.map(|key| W::of(key.score(), positive)).collect(),
            runs: self.runs,
            last: self.last,
        }
    }

    fn sorted(&self) -> Vec<K> {
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        keys
    }
}

/// The scores of positives and of negatives, and the share of their pairs that are in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranks<K> {
    positives: Group<K>,
    negatives: Group<K>,
    /// Twice the pairs in order among the runs.
    won: u128,
}

impl<K: Key> Ranks<K> {
    /// Begins a batch: the one before it can no longer be taken back.
    pub fn begin(&mut self) {
        for group in [&mut self.positives, &mut self.negatives] {
            group.last = group.keys.len();
        }
    }

    /// Takes in scores of the batch, each with whether it is a positive's.
    pub fn extend(&mut self, scores: &[f64], labels: &[bool]) {
        let (positives, negatives) = (&mut self.positives.keys, &mut self.negatives.keys);
        let (mut p, mut n) = (positives.len(), negatives.len());
        // Each key is written to both, and where it does not belong the next one goes over it:
        // which it is nobody could predict.
        positives.resize(p + scores.len(), K::default());
        negatives.resize(n + scores.len(), K::default());
        for (&score, &label) in scores.iter().zip(labels) {
            let key = K::of(score, label);
            positives[p] = key;
            negatives[n] = key;
            p += usize::from(label);
            n += usize::from(!label);
        }
        positives.truncate(p);
        negatives.truncate(n);
    }

    /// Takes the last batch back out.
    pub fn retract(&mut self) {
        for group in [&mut self.positives, &mut self.negatives] {
            group.keys.truncate(group.last);
        }
    }

    /// How many positives and negatives there are.
    pub fn counts(&self) -> [usize; 2] {
        [self.positives.keys.len(), self.negatives.keys.len()]
    }

    /// The share of pairs of a positive and a negative in which the positive has the higher score;
    /// one of equal scores counts half. NaN where there are no pairs, and where a score is NaN.
    ///
    /// Source: Mann and Whitney, "On a test of whether one of two random variables is
    /// stochastically larger than the other" (1947).
    pub fn value(&mut self) -> f64 {
        // Pairs of a union are the sum of the pairs of its parts: those that were counted before
        // stay so, and runs need not be merged.
        self.positives.sort();
        self.negatives.sort();
        self.won += self.won_by(Group::fresh);
        self.positives.settle();
        self.negatives.settle();
        if self.any_nan() {
            return f64::NAN;
        }
        let won = self.won + self.won_by(Group::tail);
        let [positives, negatives] = self.counts().map(|count| count as u128);
        won as f64 / (2 * positives * negatives) as f64
    }

    /// True if a score is NaN: the first key of a sorted run of positives then, the last of negatives.
    pub fn any_nan(&self) -> bool {
        let (first, last) = (K::of_nan(true), K::of_nan(false));
        let (positives, negatives) = (&self.positives, &self.negatives);
        positives.runs().any(|run| run.first() == Some(&first))
            || negatives.runs().any(|run| run.last() == Some(&last))
            || positives.unsorted().contains(&first)
            || negatives.unsorted().contains(&last)
    }

    /// Twice the pairs in order of which at least one lies in a part beyond the runs.
    fn won_by(&self, part: fn(&Group<K>) -> &[K]) -> u128 {
        let (positives, negatives) = (part(&self.positives), part(&self.negatives));
        let one = self
            .negatives
            .runs()
            .map(|run| twice_in_order(positives, run));
        let other = self
            .positives
            .runs()
            .map(|run| twice_in_order(run, negatives));
        one.chain(other).sum::<u128>() + twice_in_order(positives, negatives)
    }

    /// Takes in what another one has seen.
    pub fn merge(&mut self, other: &Self) {
        self.positives.insert(other.positives.keys.iter().copied());
        self.negatives.insert(other.negatives.keys.iter().copied());
    }

    /// The same with keys of another width.
    pub fn widened<W: Key>(self) -> Ranks<W> {
        Ranks {
            positives: self.positives.widened(true),
            negatives: self.negatives.widened(false),
            won: self.won,
        }
    }

    /// The scores of the positives, then of the negatives.
    pub fn scores(&self) -> impl Iterator<Item = f64> {
        let [positives, negatives] = [&self.positives.keys, &self.negatives.keys];
        positives.iter().chain(negatives).map(|key| key.score())
    }
}

/// Equal when they hold the same scores, in whatever order.
impl<K: Key> PartialEq for Ranks<K> {
    fn eq(&self, other: &Self) -> bool {
        self.counts() == other.counts()
            && self.positives.sorted() == other.positives.sorted()
            && self.negatives.sorted() == other.negatives.sorted()
    }
}

/// Twice the pairs of a high and a low in which the high is above; ties count once. Both are sorted.
fn twice_in_order<K: Key>(highs: &[K], lows: &[K]) -> u128 {
    let pairs = highs.len() as u128 * lows.len() as u128;
    let (few, many) = (highs.len().min(lows.len()), highs.len().max(lows.len()));
    if pairs == 0 {
        0
    } else if few * 16 > many {
        side_by_side(highs, lows)
    } else if highs.len() == few {
        highs.iter().map(|high| place_twice(high, lows)).sum()
    } else {
        2 * pairs - lows.iter().map(|low| place_twice(low, highs)).sum::<u128>()
    }
}

/// How many of the keys are below one, plus how many are not above it.
fn place_twice<K: Key>(key: &K, sorted: &[K]) -> u128 {
    let below = sorted.partition_point(|x| x < key);
    let equal = sorted[below..].partition_point(|x| x <= key);
    (2 * below + equal) as u128
}

fn side_by_side<K: Key>(highs: &[K], lows: &[K]) -> u128 {
    let (mut below, mut not_above) = (0, 0);
    let mut twice = 0;
    for high in highs {
        while lows.get(below).is_some_and(|low| low < high) {
            below += 1;
        }
        not_above = not_above.max(below);
        while lows.get(not_above).is_some_and(|low| low <= high) {
            not_above += 1;
        }
        twice += (below + not_above) as u128;
    }
    twice
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAN: f64 = f64::NAN;

    /// Each pair looked at.
    pub fn by_pairs(scores: &[f64], labels: &[bool]) -> f64 {
        if scores.iter().any(|score| score.is_nan()) {
            return NAN;
        }
        let group = |label: bool| {
            let of = move |(_, l): &(&f64, &bool)| **l == label;
            scores
                .iter()
                .zip(labels)
                .filter(of)
                .map(|(&score, _)| score)
        };
        let (mut twice, mut pairs) = (0, 0);
        for high in group(true) {
            for low in group(false) {
                twice += i32::from(high > low) * 2 + i32::from(high == low);
                pairs += 2;
            }
        }
        f64::from(twice) / f64::from(pairs)
    }

    /// Numbers with ties, extremes and NaN.
    pub fn scores() -> impl Strategy<Value = f64> {
        prop_oneof![
            80 => (-4..4_i32).prop_map(f64::from),
            80 => (-4.0..4.0_f64).prop_map(|x| (x * 64.0).round() / 64.0),
            9 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, -0.0]),
            1 => Just(NAN),
        ]
    }

    fn in_order<K: Key + std::fmt::Debug>(numbers: &[f64]) {
        for pair in numbers.windows(2) {
            let keys = [K::of(pair[0], true), K::of(pair[1], true)];
            assert!(keys[0] < keys[1], "{pair:?}");
            assert_eq!(keys.map(Key::score), pair);
        }
        for label in [true, false] {
            assert_eq!(K::of(-0.0, label), K::of(0.0, label));
            for nan in [NAN, -NAN, f64::from_bits(u64::MAX)] {
                assert!(K::of(nan, label).score().is_nan());
            }
        }
        let all = numbers.iter().map(|&x| K::of(x, false));
        assert!(all.clone().all(|key| K::of(NAN, true) < key));
        assert!(all.clone().all(|key| K::of(NAN, false) > key));
    }

    #[test]
    fn keys_are_in_the_order_of_the_scores() {
        let single = [
            f64::NEG_INFINITY,
            f64::from(f32::MIN),
            -1.5,
            -f64::from(f32::from_bits(1)),
            0.0,
            f64::from(f32::from_bits(1)),
            f64::from(f32::MIN_POSITIVE),
            1.0,
            1.5,
            f64::from(f32::MAX),
            f64::INFINITY,
        ];
        in_order::<u32>(&single);
        in_order::<u64>(&single);
        in_order::<u64>(&[
            f64::MIN,
            -1.0,
            -1.0 + 1e-16,
            0.0,
            5e-324,
            1.0,
            1.0 + 3e-16,
            f64::MAX,
        ]);
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Batch(Vec<(f64, bool)>),
        Merge(Vec<(f64, bool)>),
        Value,
        Retract,
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let batch = || prop::collection::vec((scores(), any::<bool>()), 0..40);
        let deed = prop_oneof![
            6 => batch().prop_map(Deed::Batch),
            1 => batch().prop_map(Deed::Merge),
            3 => Just(Deed::Value),
            2 => Just(Deed::Retract),
        ];
        prop::collection::vec(deed, 0..40)
    }

    proptest! {
        #[test]
        fn whatever_is_done_the_value_is_that_of_the_pairs(deeds in deeds(), wide in 0..40_usize) {
            let mut ranks = Ranks::<u32>::default();
            let mut wider = Ranks::<u64>::default();
            let (mut settled, mut batch) = (Vec::new(), Vec::new());
            for (step, deed) in deeds.into_iter().enumerate() {
                if step == wide {
                    wider = std::mem::take(&mut ranks).widened();
                }
                macro_rules! both {
                    ($ranks:ident => $body:expr) => {
                        if step < wide { let $ranks = &mut ranks; $body } else { let $ranks = &mut wider; $body }
                    };
                }
                match deed {
                    Deed::Batch(new) => {
                        settled.append(&mut batch);
                        batch = new;
                        let (scores, labels): (Vec<_>, Vec<_>) = batch.iter().copied().unzip();
                        both!(ranks => { ranks.begin(); ranks.extend(&scores, &labels); });
                    }
                    Deed::Merge(new) => {
                        let (scores, labels): (Vec<_>, Vec<_>) = new.iter().copied().unzip();
                        let mut other = Ranks::<u32>::default();
                        other.extend(&scores, &labels);
                        if step < wide { ranks.merge(&other) } else { wider.merge(&other.widened()) }
                        settled.extend(new);
                    }
                    Deed::Retract => {
                        batch.clear();
                        both!(ranks => ranks.retract());
                    }
                    Deed::Value => {
                        let all = settled.iter().chain(&batch).copied();
                        let (scores, labels): (Vec<_>, Vec<_>) = all.unzip();
                        let expected = by_pairs(&scores, &labels);
                        let value = both!(ranks => ranks.value());
                        prop_assert!(value == expected || value.is_nan() && expected.is_nan());
                    }
                }
            }
        }
    }
}
