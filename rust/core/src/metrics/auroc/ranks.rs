//! Scores of two groups, and how many pairs of them are in order.

/// A score as an integer of the same order, which sorts and compares faster than a float. No score
/// that is a number becomes the first or the last of the keys.
pub(super) trait Key: Copy + Default + Ord {
    fn of(score: f64, positive: bool) -> Self;
    fn score(self) -> f64;
}

/// Adding 0 makes one zero of the two, which are ties. A NaN loses all its pairs: it is the first
/// among the positives, the last among the negatives.
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
                let lost = Self::from(positive).wrapping_sub(1);
                if score.is_nan() { lost } else { key }
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

    /// What came in since the runs were made, without the last batch.
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
    /// one of equal scores counts half. NaN where there are no pairs.
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
        let won = self.won + self.won_by(Group::tail);
        let [positives, negatives] = self.counts().map(|count| count as u128);
        won as f64 / (2 * positives * negatives) as f64
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
