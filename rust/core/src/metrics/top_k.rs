//! The share of samples of whose class the score is among the k highest.

use super::argmax::is_nan;
use super::classes::{Counted, Scores, each_run, index};
use super::view::{Element, Run, with_slice};
use super::{BLOCK, View};
use crate::error::Result;

/// The hits of a batch.
///
/// The order of equal scores is that of `Accuracy`: the first ones come first. Where a score is NaN
/// the prediction is a miss.
///
/// Source: scikit-learn, `top_k_accuracy_score`, which puts the last ones of equal scores first.
#[inline(never)]
pub(super) fn hits(k: usize, preds: &View, target: &View) -> Result<u64> {
    let mut hits = 0;
    with_slice!(preds.data(), data => each_run("TopKAccuracy", data, preds, target, |from, run, scores, wanted| {
        hits += if scores.stride == 1 {
            rows(k, from, run, scores, wanted)
        } else {
            planes(k, from, run, scores, wanted)
        }?;
        Ok(())
    }))?;
    Ok(hits)
}

/// Counts hits where the scores of a position lie side by side.
fn rows<T: Element>(k: usize, from: &[T], run: Run, scores: Scores, wanted: &[i64]) -> Counted {
    let mut hits = 0;
    for (position, &class) in wanted.iter().enumerate() {
        let row = &from[position * run.stride..][..scores.classes];
        let class = index(class);
        let Some(score) = row.get(class) else {
            return Err(position);
        };
        let score = score.key();
        let (mut above, mut below, mut equal) = (0_u32, 0_u32, 0_u32);
        for x in row {
            let x = x.key();
            above += u32::from(x > score);
            below += u32::from(x < score);
            equal += u32::from(x == score);
        }
        if ((above + below + equal) as usize) < row.len() {
            continue; // some score is NaN
        }
        if equal > 1 {
            let before = row[..class].iter().filter(|x| x.key() == score).count();
            above = above.saturating_add(u32::try_from(before).unwrap_or(u32::MAX));
        }
        hits += u64::from((above as usize) < k);
    }
    Ok(hits)
}

/// The same where they lie apart, as in images: class by class, so that memory is read in order.
fn planes<T: Element>(k: usize, from: &[T], run: Run, scores: Scores, wanted: &[i64]) -> Counted {
    let (mut own, mut class_of) = ([T::Key::default(); BLOCK], [0; BLOCK]);
    let (mut before, mut nan) = ([0_u32; BLOCK], [false; BLOCK]);
    let at = |class: usize, position: usize| class * scores.stride + position * run.stride;
    for (position, &class) in wanted.iter().enumerate() {
        let class = index(class);
        if class >= scores.classes {
            return Err(position);
        }
        own[position] = from[at(class, position)].key();
        class_of[position] = class;
    }
    for class in 0..scores.classes {
        for position in 0..run.len {
            let x = from[at(class, position)].key();
            before[position] += u32::from(beats(x, own[position], class < class_of[position]));
            nan[position] |= is_nan(x);
        }
    }
    let seen = before[..run.len].iter().zip(nan);
    Ok(seen
        .filter(|&(&before, nan)| !nan && (before as usize) < k)
        .count() as u64)
}

#[inline]
#[allow(clippy::needless_bitwise_bool)] // lazy operators are branches, here unpredictable ones
fn beats<K: Copy + PartialOrd>(x: K, score: K, before: bool) -> bool {
    (x > score) | ((x == score) & before)
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::testing::{number, plain, strides_of, tensor};
    use super::super::{Accuracy, Metric};
    use crate::error::Error;
    use proptest::prelude::*;

    #[test]
    fn with_more_than_there_are_classes_nothing_would_be_measured() {
        let (preds, target) = (
            plain("float32", &[1, 3], &[0.0; 3]),
            plain("int64", &[1], &[0.0]),
        );
        let mut metric = Accuracy::top(4);
        let error = metric.update(&preds.view(), &target.view()).unwrap_err();
        assert!(matches!(error, Error::Shape(_)));
        let error = error.to_string();
        assert!(
            error.contains("k=4) needs scores of at least 4 classes, got 3"),
            "{error}"
        );
        let mut metric = Accuracy::top(3);
        metric.update(&preds.view(), &target.view()).unwrap();
        assert_eq!(number(metric.compute()), 1.0);
    }

    #[test]
    fn only_metrics_of_one_k_merge() {
        let error = Accuracy::top(2)
            .merge(&Accuracy::top(3))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("(k=2) cannot take in the state of TopKAccuracy(k=3)"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn hits_are_where_a_stable_sort_says(
            n in 1..9_usize,
            classes in 1..40_usize,
            inner in 1..4_usize,
            levels in 1..9_usize,
            k in 1..6_usize,
            order in Just(vec![0, 1, 2]).prop_shuffle(),
            seed in any::<usize>(),
        ) {
            let k = k.min(classes);
            let noise = |k: usize| k.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & 0xffff;
            let level =
                |k| if noise(k) % levels == 7 { f64::NAN } else { (noise(k) % levels) as f64 };
            let scores: Vec<f64> = (0..n * classes * inner).map(level).collect();
            let target: Vec<usize> = (0..n * inner).map(|k| noise(k * 31) % classes).collect();
            let mut hits = 0;
            for (position, class) in target.iter().enumerate() {
                let (i, j) = (position / inner, position % inner);
                let score = |c: usize| scores[(i * classes + c) * inner + j];
                let mut ranked: Vec<usize> = (0..classes).collect();
                ranked.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                let nan = (0..classes).any(|c| score(c).is_nan());
                hits += u32::from(!nan && ranked[..k].contains(class));
            }
            let shape = [n, classes, inner].map(|size| i64::try_from(size).unwrap());
            let target: Vec<f64> = target.iter().map(|&class| class as f64).collect();
            let mut metric = Accuracy::top(k);
            let preds = tensor("float16", &shape, &strides_of(&shape, &order, 1), &scores);
            let target = plain("int16", &[shape[0], shape[2]], &target);
            metric.update(&preds.view(), &target.view()).unwrap();
            prop_assert_eq!(metric.state(), [f64::from(hits), (n * inner) as f64]);
        }
    }
}
