//! The share of samples whose highest score is that of their class.

use super::classes::{Counted, ONE_SCORE, Scores, check, each_run};
use super::view::{Element, Run, with_slice};
use super::{BLOCK, Batch, Fit, Form, Hits, Kept, Metric, View, top_k, unmergeable};
use crate::error::{Error, Result};
use crate::records::Value;

/// Multi-class accuracy, `hits / count`.
///
/// Predictions are scores of shape (n, classes, ...), targets class numbers of shape (n, ...). Each
/// position is one prediction: the class of its highest score, the first one among equals, as
/// `torch.argmax` has it. Where a score is NaN the prediction is a miss.
///
/// Source: scikit-learn, `accuracy_score`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// How many of the highest scores are looked at, where it is top-k accuracy.
    top: Option<usize>,
    hits: Kept<Hits>,
}

impl Accuracy {
    /// Top-k accuracy: a hit is where the score of the class is among the k highest.
    #[must_use]
    pub fn top(k: usize) -> Self {
        let top = Some(k);
        Self {
            top,
            ..Self::default()
        }
    }

    fn described(&self) -> String {
        match self.top {
            Some(k) => format!("TopKAccuracy(k={k})"),
            None => "Accuracy".into(),
        }
    }
}

impl Metric for Accuracy {
    fn name(&self) -> &'static str {
        match self.top {
            Some(_) => "TopKAccuracy",
            None => "Accuracy",
        }
    }

    #[inline]
    fn check(&self, preds: &Form, target: &Form, _: usize) -> Result<Batch> {
        check(self.name(), preds, target, ONE_SCORE)?;
        let classes = preds.shape[1];
        match self.top {
            Some(k) if i64::try_from(k).is_ok_and(|k| k > classes) => Err(too_few(k, classes)),
            _ => Ok(Batch::of_any_width(Fit::Exact)),
        }
    }

    #[inline]
    fn feed(&mut self, _: usize, preds: &View, target: &View) -> Result<()> {
        let hits = match self.top {
            Some(k) => top_k::hits(k, preds, target),
            None => with_slice!(preds.data(), scores => count_hits(scores, preds, target)),
        }?;
        self.hits.step().add(Hits {
            hits,
            count: target.numel() as u64,
        });
        Ok(())
    }

    fn retract(&mut self) {
        self.hits.retract();
    }

    fn compute(&mut self) -> Value {
        self.hits.now.ratio()
    }

    fn reset(&mut self) {
        self.hits = Kept::default();
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.top != other.top {
            return Err(unmergeable(&self.described(), &other.described()));
        }
        self.hits.aside(|hits| hits.add(other.hits.now));
        Ok(())
    }

    fn state(&self) -> Vec<f64> {
        self.hits.now.state()
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        self.hits.set(Hits::from_state(self.name(), state)?);
        Ok(())
    }
}

#[cold]
fn too_few(k: usize, classes: i64) -> Error {
    Error::Shape(format!(
        "TopKAccuracy(k={k}) needs scores of at least {k} classes, got {classes}; with all of them \
         among the k highest nothing is measured, take a smaller k"
    ))
}

fn count_hits<T: Element>(data: &[T], preds: &View, target: &View) -> Result<u64> {
    let mut hits = 0;
    each_run(
        "Accuracy",
        data,
        preds,
        target,
        |from, run, scores, wanted| {
            hits += match (scores.stride, scores.classes, run.stride) {
                (1, 2, 2) => few(from.as_chunks::<2>().0, wanted),
                (1, 3, 3) => few(from.as_chunks::<3>().0, wanted),
                (1, 4, 4) => few(from.as_chunks::<4>().0, wanted),
                (1, ..) => rows(from, run, scores, wanted),
                _ => planes(from, run, scores, wanted),
            }?;
            Ok(())
        },
    )?;
    Ok(hits)
}

/// Counts hits where the scores of a position lie side by side.
///
/// A hit needs no argmax: the score of the class beats all before it and is reached by none after
/// it. NaN compares false with everything, so it makes a miss without being looked for.
fn rows<T: Element>(from: &[T], run: Run, scores: Scores, wanted: &[i64]) -> Counted {
    let mut hits = 0;
    for (k, &class) in wanted.iter().enumerate() {
        let row = &from[k * run.stride..][..scores.classes];
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        let Some(best) = row.get(class) else {
            return Err(k);
        };
        let (best, (before, after)) = (best.key(), row.split_at(class));
        hits += u64::from(all(before, |x| x < best) && all(after, |x| x <= best));
    }
    Ok(hits)
}

/// The same for rows so short that the branches of `rows` would be all the work. Which of equal
/// scores comes first is asked only where there are some.
fn few<T: Element, const N: usize>(rows: &[[T; N]], wanted: &[i64]) -> Counted {
    let mut hits = 0;
    for (k, (&class, row)) in wanted.iter().zip(rows).enumerate() {
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        let Some(best) = row.get(class) else {
            return Err(k);
        };
        let best = best.key();
        let (mut hit, mut equal) = (true, 0_u8);
        for x in row {
            hit &= x.key() <= best;
            equal += u8::from(x.key() == best);
        }
        if equal > 1 {
            hit &= row[..class].iter().all(|x| x.key() < best);
        }
        hits += u64::from(hit);
    }
    Ok(hits)
}

/// True if the test holds for all. Looks up only now and then, so that the loop is SIMD code.
#[inline]
fn all<T: Element>(scores: &[T], test: impl Fn(T::Key) -> bool) -> bool {
    let chunk_holds = |chunk: &[T]| chunk.iter().fold(true, |ok, x| ok & test(x.key()));
    scores.chunks(64).all(chunk_holds)
}

/// True if the score `x` leaves the prediction to `best`, the score of the wanted class.
#[inline]
#[allow(clippy::needless_bitwise_bool)] // lazy operators are branches, here unpredictable ones
fn loses<K: Copy + PartialOrd>(x: K, best: K, not_before: bool) -> bool {
    (x < best) | ((x == best) & not_before)
}

/// Counts hits where they lie apart, as in images: class by class, so that memory is read in order.
fn planes<T: Element>(from: &[T], run: Run, scores: Scores, wanted: &[i64]) -> Counted {
    // 32 bits are as wide as a float32, which lets one SIMD loop compare both.
    let (mut best, mut ok) = ([T::Key::default(); BLOCK], [true; BLOCK]);
    let mut class_of = [0_u32; BLOCK];
    let at = |class: usize, k: usize| class * scores.stride + k * run.stride;
    for (k, &class) in wanted.iter().enumerate() {
        match usize::try_from(class) {
            Ok(class) if class < scores.classes => best[k] = from[at(class, k)].key(),
            _ => return Err(k),
        }
        class_of[k] = u32::try_from(class).unwrap_or(u32::MAX);
    }
    let (best, class_of, ok) = (&best[..run.len], &class_of[..run.len], &mut ok[..run.len]);
    for (j, class) in (0..).zip(0..scores.classes) {
        let keep = |ok: &mut bool, x: T, best: T::Key, class: u32| {
            *ok &= loses(x.key(), best, class <= j);
        };
        let others = ok.iter_mut().zip(best).zip(class_of);
        if run.stride == 1 {
            let plane = &from[at(class, 0)..];
            others
                .zip(plane)
                .for_each(|(((ok, &best), &class), &x)| keep(ok, x, best, class));
        } else {
            let plane = (0..).map(|k| from[at(class, k)]);
            others
                .zip(plane)
                .for_each(|(((ok, &best), &class), x)| keep(ok, x, best, class));
        }
    }
    Ok(ok.iter().filter(|&&ok| ok).count() as u64)
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::Data;
    use super::super::testing::{number, plain, strides_of, tensor};
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;

    const NAN: f64 = f64::NAN;

    /// Of one batch of scores (n, classes) against int64.
    fn accuracy(shape: &[i64], scores: &[f64], target: &[f64]) -> Result<f64> {
        let mut metric = Accuracy::default();
        let target = plain("int64", &shape[..1], target);
        metric.update(&plain("float32", shape, scores).view(), &target.view())?;
        Ok(number(metric.compute()))
    }

    fn refused(p_shape: &[i64], t_dtype: &str, t_shape: &[i64]) -> (Error, String) {
        let count =
            |shape: &[i64]| vec![0.0; usize::try_from(shape.iter().product::<i64>()).unwrap()];
        let (p, t) = (count(p_shape), count(t_shape));
        let mut metric = Accuracy::default();
        let (p, t) = (plain("float32", p_shape, &p), plain(t_dtype, t_shape, &t));
        let error = metric.update(&p.view(), &t.view()).unwrap_err();
        assert_eq!(metric, Accuracy::default());
        let text = error.to_string();
        (error, text)
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(
            accuracy(&[2, 3], &[1.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[0.0, 1.0]).unwrap(),
            0.5
        );
        assert_eq!(accuracy(&[1, 2], &[-0.0, 0.0], &[0.0]).unwrap(), 1.0);
        assert_eq!(accuracy(&[1, 5], &[2.0; 5], &[4.0]).unwrap(), 0.0);
    }

    #[test]
    fn a_row_that_holds_nan_is_a_miss() {
        for classes in 1..70_usize {
            for (bad, class) in [(0, 0), (0, classes - 1), (classes - 1, 0), (classes / 2, 0)] {
                let mut scores = vec![0.0; classes];
                scores[class] = 1.0;
                let shape = [1, i64::try_from(classes).unwrap()];
                assert_eq!(accuracy(&shape, &scores, &[class as f64]).unwrap(), 1.0);
                scores[bad] = NAN;
                assert_eq!(accuracy(&shape, &scores, &[class as f64]).unwrap(), 0.0);
            }
        }
    }

    #[test]
    fn integers_are_compared_as_they_are() {
        // As float64 these two are equal, and the first would win.
        let scores = [(1_i64 << 53), (1 << 53) + 1];
        let preds = View::new(Data::I64(&scores), &[1, 2], &[2, 1]).unwrap();
        let mut metric = Accuracy::default();
        metric
            .update(&preds, &plain("uint8", &[1], &[1.0]).view())
            .unwrap();
        assert_eq!(number(metric.compute()), 1.0);
    }

    #[test]
    fn an_expanded_target_counts_as_often_as_it_shows() {
        let mut metric = Accuracy::default();
        let preds = plain(
            "float32",
            &[2, 2, 2],
            &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
        );
        metric
            .update(
                &preds.view(),
                &tensor("int64", &[2, 2], &[0, 0], &[0.0; 4]).view(),
            )
            .unwrap();
        assert_eq!(metric.state(), [2.0, 4.0]);
    }

    #[test]
    fn a_class_that_is_not_there_is_named_with_its_place() {
        for (classes, stride) in [(2, 1), (4, 1), (9, 1), (9, 2)] {
            let n = 300;
            let shape = [n, classes];
            let strides = strides_of(&shape, &[0, 1], stride);
            let scores = vec![0.0; usize::try_from(n * classes).unwrap()];
            let preds = tensor("float64", &shape, &strides, &scores);
            for (bad, mend) in [
                (classes as f64, "target - 1"),
                (-100.0, "keep = target >= 0"),
            ] {
                let mut target = vec![0.0; 300];
                target[290] = bad;
                let mut metric = Accuracy::default();
                metric.load(&[1.0, 2.0]).unwrap();
                let before = metric;
                let target = plain("int64", &[n], &target);
                let error = metric.update(&preds.view(), &target.view()).unwrap_err();
                assert!(matches!(error, Error::Target(_)));
                let error = error.to_string();
                let place = format!("class {bad} at index 290 of");
                assert!(error.contains(&place) && error.contains(mend), "{error}");
                assert!(
                    error.contains(&format!("classes 0 to {}", classes - 1)),
                    "{error}"
                );
                assert_eq!(metric, before);
            }
        }
        let huge = [u64::MAX];
        let target = View::new(Data::U64(&huge), &[1], &[1]).unwrap();
        let preds = plain("float32", &[1, 2], &[0.0; 2]);
        let error = Accuracy::default()
            .update(&preds.view(), &target)
            .unwrap_err()
            .to_string();
        assert!(error.contains("class 18446744073709551615"), "{error}");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_with_the_mend() {
        let cases: [(&[i64], &[i64], &str); 6] = [
            (&[3], &[3], "use BinaryAccuracy"),
            (&[], &[], "use BinaryAccuracy"),
            (
                &[3, 4],
                &[3, 1],
                "needs a target of shape (3,) for preds of shape (3, 4), got (3, 1)",
            ),
            (&[3, 4], &[3, 1], "target.squeeze(1)"),
            (&[3, 4], &[3, 4], "target.argmax(1)"),
            (&[3, 4, 2], &[3], "one class number for each prediction"),
        ];
        for (preds, target, mend) in cases {
            let (error, text) = refused(preds, "int64", target);
            assert!(matches!(error, Error::Shape(_)));
            assert!(text.contains(mend), "{text}");
        }
    }

    #[test]
    fn classes_as_floats_are_refused_with_the_mend() {
        let (error, text) = refused(&[3, 4], "float64", &[3]);
        assert!(matches!(error, Error::DType(_)));
        assert!(text.contains("got float64; pass target.long()"), "{text}");
    }

    proptest! {
        #[test]
        fn hits_are_where_argmax_says(
            n in 1..9_usize,
            classes in 1..80_usize,
            inner in 1..5_usize,
            levels in 1..9_usize,
            seed in any::<usize>(),
        ) {
            let noise = |k: usize| k.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & 0xffff;
            // Few levels make ties, and one of them is NaN.
            let level = |k| if noise(k) % levels == 7 { NAN } else { (noise(k) % levels) as f64 };
            let scores: Vec<f64> = (0..n * classes * inner).map(level).collect();
            let target: Vec<usize> = (0..n * inner).map(|k| noise(k * 31) % classes).collect();
            let mut hits = 0;
            for (position, &class) in target.iter().enumerate() {
                let (i, j) = (position / inner, position % inner);
                let row: Vec<f64> =
                    (0..classes).map(|c| scores[(i * classes + c) * inner + j]).collect();
                let best = row.iter().copied().fold(f64::MIN, f64::max);
                let argmax = row.iter().position(|&x| x == best);
                hits += u32::from(argmax == Some(class) && !row.iter().any(|x| x.is_nan()));
            }
            let shape = [n, classes, inner].map(|size| i64::try_from(size).unwrap());
            let target: Vec<f64> = target.iter().map(|&class| class as f64).collect();
            let mut metric = Accuracy::default();
            let preds = plain("float16", &shape, &scores);
            let target = plain("int16", &[shape[0], shape[2]], &target);
            metric.update(&preds.view(), &target.view()).unwrap();
            prop_assert_eq!(metric.state(), [f64::from(hits), (n * inner) as f64]);
        }
    }
}
