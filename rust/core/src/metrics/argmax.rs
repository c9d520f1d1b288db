//! The class that each position predicts.

use super::classes::{Scores, each_run, index};
use super::view::{Element, Run, with_slice};
use super::{BLOCK, View};
use crate::error::Result;

/// Shows `visit` what each position wants and what it predicts, at most [`BLOCK`] of them at a time:
/// the class of its highest score, the first one among equals. A position with a NaN among its
/// scores predicts none: the number of classes stands for that.
///
/// The shapes have been checked. Fails where a class does not exist; `visit` may have seen what is
/// before it.
pub(super) fn each_prediction(
    name: &str,
    preds: &View,
    target: &View,
    mut visit: impl FnMut(&[i64], &[u32]),
) -> Result<()> {
    with_slice!(preds.data(), data => each_run(name, data, preds, target, |from, run, scores, wanted| {
        if let Some(at) = wanted.iter().position(|&class| index(class) >= scores.classes) {
            return Err(at);
        }
        let mut predicted = [0; BLOCK];
        let predicted = &mut predicted[..run.len];
        if scores.stride != 1 {
            planes(from, run, scores, predicted);
        } else if scores.classes < LANES {
            for (k, class) in predicted.iter_mut().enumerate() {
                *class = few(&from[k * run.stride..][..scores.classes]);
            }
        } else {
            many(from, run, scores, predicted);
        }
        visit(wanted, predicted);
        Ok(())
    }))
}

/// How many scores are looked at side by side.
const LANES: usize = 16;
/// The same where one of them is looked for.
const WIDE: usize = 32;

/// Of scores that lie side by side, when there are few. Without branches on the scores, which the
/// processor could not predict.
fn few<T: Element>(row: &[T]) -> u32 {
    let Some(first) = row.first() else { return 0 };
    let (mut best, mut at, mut nan) = (first.key(), 0, false);
    for (j, x) in (0..).zip(row) {
        let x = x.key();
        let better = x > best;
        best = if better { x } else { best };
        at = if better { j } else { at };
        nan |= is_nan(x);
    }
    if nan { none(row.len()) } else { at }
}

/// The same when there are many: first the highest scores of each position, then where the highest
/// one is, as the processor can work ahead in a loop without branches that it cannot predict.
fn many<T: Element>(from: &[T], run: Run, scores: Scores, predicted: &mut [u32]) {
    let mut lanes = [[T::Key::default(); 4]; BLOCK];
    let rows = || (0..run.len).map(|k| &from[k * run.stride..][..scores.classes]);
    let some_nan = in_lanes(rows(), &mut lanes);
    for ((class, row), [a, b, c, d]) in predicted.iter_mut().zip(rows()).zip(lanes) {
        let best = higher(higher(a, b), higher(c, d));
        *class = u32::try_from(first_of(best, row)).unwrap_or(u32::MAX);
    }
    if some_nan {
        for (class, row) in predicted.iter_mut().zip(rows()) {
            if row.iter().any(|x| is_nan(x.key())) {
                *class = none(row.len());
            }
        }
    }
}

/// The highest of every fourth score of each position, and whether there is a NaN in any of them: then
/// those of its position may be wrong. A function of its own, as together with what follows the
/// compiler makes worse SIMD code of it.
#[inline(never)]
fn in_lanes<'a, T: Element + 'a>(
    rows: impl Iterator<Item = &'a [T]>,
    lanes: &mut [[T::Key; 4]],
) -> bool {
    // Masks of all bits, as the processor compares.
    let mut nan = [0; 4];
    for (row, lanes) in rows.zip(lanes) {
        let mut best = [T::Key::default(); 4];
        if let Some(first) = row.first_chunk::<4>() {
            best = first.map(Element::key);
        }
        let mut see = |chunk: &[T; LANES]| {
            for k in 0..4 {
                let [a, b, c, d] = [chunk[k], chunk[k + 4], chunk[k + 8], chunk[k + 12]];
                let [a, b, c, d] = [a, b, c, d].map(Element::key);
                best[k] = higher(higher(higher(a, b), higher(c, d)), best[k]);
                nan[k] |= -i32::from(is_nan(a) | is_nan(b)) | -i32::from(is_nan(c) | is_nan(d));
            }
        };
        row.as_chunks().0.iter().for_each(&mut see);
        // The last scores are a chunk too: it does no harm to look at some of them twice.
        row.last_chunk().into_iter().for_each(see);
        *lanes = best;
    }
    nan != [0; 4]
}

/// Where a score is first; the number of scores where it is not.
fn first_of<T: Element>(best: T::Key, row: &[T]) -> usize {
    let holds = |chunk: &[T; WIDE]| {
        chunk
            .iter()
            .fold(false, |found, x| found | (x.key() == best))
    };
    let (chunks, rest) = row.as_chunks();
    let Some(chunk) = chunks.iter().position(holds) else {
        let at = rest.iter().position(|x| x.key() == best);
        return at.map_or(row.len(), |at| row.len() - rest.len() + at);
    };
    let mut bits = 0_u32;
    for (k, x) in chunks[chunk].iter().enumerate() {
        bits |= u32::from(x.key() == best) << k;
    }
    WIDE * chunk + bits.trailing_zeros() as usize
}

/// Of scores that lie apart, as in images: class by class, so that memory is read in order.
#[allow(clippy::needless_bitwise_bool)] // lazy operators are branches, here unpredictable ones
fn planes<T: Element>(from: &[T], run: Run, scores: Scores, predicted: &mut [u32]) {
    let (mut best, mut nan) = ([T::Key::default(); BLOCK], [false; BLOCK]);
    for class in 0..scores.classes {
        let plane = &from[class * scores.stride..];
        let number = u32::try_from(class).unwrap_or(u32::MAX);
        let states = best.iter_mut().zip(&mut nan).zip(predicted.iter_mut());
        let see = |((best, nan), at): ((&mut T::Key, &mut bool), &mut u32), x: T| {
            let x = x.key();
            let better = (x > *best) | (class == 0);
            *best = if better { x } else { *best };
            *at = if better { number } else { *at };
            *nan |= is_nan(x);
        };
        if run.stride == 1 {
            states.zip(plane).for_each(|(state, &x)| see(state, x));
        } else {
            states
                .enumerate()
                .for_each(|(k, state)| see(state, plane[k * run.stride]));
        }
    }
    for (class, _) in predicted.iter_mut().zip(nan).filter(|(_, nan)| *nan) {
        *class = none(scores.classes);
    }
}

fn none(classes: usize) -> u32 {
    u32::try_from(classes).unwrap_or(u32::MAX)
}

#[inline]
fn higher<K: Copy + PartialOrd>(x: K, best: K) -> K {
    if x > best { x } else { best }
}

/// Of a number that is no float: never.
#[inline]
#[allow(clippy::eq_op)] // what only NaN is not: equal to itself
pub(super) fn is_nan<K: Copy + PartialEq>(x: K) -> bool {
    x != x
}

#[cfg(test)]
mod tests {
    use super::super::testing::{plain, strides_of, tensor};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_nan_is_seen_wherever_it_is() {
        for classes in (1..50).chain([64, 79]) {
            for bad in 0..classes {
                let mut scores = vec![0.0; 3 * classes];
                scores[classes + bad] = f64::NAN;
                let preds = plain("float32", &[3, i64::try_from(classes).unwrap()], &scores);
                let target = plain("int64", &[3], &[0.0; 3]);
                let mut found = Vec::new();
                let visit = |_: &[i64], predicted: &[u32]| found.extend_from_slice(predicted);
                each_prediction("X", &preds.view(), &target.view(), visit).unwrap();
                assert_eq!(found, [0, u32::try_from(classes).unwrap(), 0], "{bad}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_of_the_highest_scores_is_predicted(
            n in 1..9_usize,
            classes in 1..80_usize,
            inner in 1..5_usize,
            levels in 1..9_usize,
            order in Just(vec![0, 1, 2]).prop_shuffle(),
            dtype in prop::sample::select(vec!["float16", "bfloat16", "float32", "float64", "int8"]),
            seed in any::<usize>(),
        ) {
            let noise = |k: usize| k.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & 0xffff;
            // Few levels make ties, and one of them is NaN, which integers do not have.
            let level = |k| match noise(k) % levels {
                7 if dtype != "int8" => f64::NAN,
                level => level as f64,
            };
            let scores: Vec<f64> = (0..n * classes * inner).map(level).collect();
            let shape = [n, classes, inner].map(|size| i64::try_from(size).unwrap());
            let preds = tensor(dtype, &shape, &strides_of(&shape, &order, 1), &scores);
            let target = tensor("int64", &[shape[0], shape[2]], &[0, 0], &vec![0.0; n * inner]);
            let mut found = Vec::new();
            let visit = |_: &[i64], predicted: &[u32]| found.extend_from_slice(predicted);
            each_prediction("X", &preds.view(), &target.view(), visit).unwrap();
            let mut expected = Vec::new();
            for position in 0..n * inner {
                let (i, j) = (position / inner, position % inner);
                let row: Vec<f64> =
                    (0..classes).map(|c| scores[(i * classes + c) * inner + j]).collect();
                let best = row.iter().copied().fold(f64::MIN, f64::max);
                let first = row.iter().position(|&x| x >= best).unwrap_or_default();
                let nan = row.iter().any(|x| x.is_nan());
                expected.push(u32::try_from(if nan { classes } else { first }).unwrap());
            }
            prop_assert_eq!(found, expected);
        }
    }
}
