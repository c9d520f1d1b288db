#![allow(clippy::float_cmp)]

use super::super::Fit;
use super::super::testing::{DTYPES, plain};
use super::super::{Options, Setting};
use super::ranks::tests::{by_pairs, scores};
use super::*;
use proptest::prelude::*;

const NAN: f64 = f64::NAN;

fn binary(options: &Options) -> Auroc {
    Auroc::binary(&mut options.clone()).unwrap()
}

fn multiclass(average: &str, options: &Options) -> Auroc {
    let mut options = options
        .clone()
        .with("average", Setting::Text(average.into()));
    Auroc::multiclass(&mut options).unwrap()
}

fn none() -> Options {
    Options::default()
}

fn even(count: f64) -> Options {
    none().with("num_thresholds", Setting::Number(count))
}

fn logits(options: Options) -> Options {
    options.with("from_logits", Setting::Flag(true))
}

/// Counts a batch of scores (n,), or (n, classes) as there are more of them than targets.
fn count(metric: &mut Auroc, dtype: &str, scores: &[f64], target: &[f64]) -> Result<Fit> {
    let n = i64::try_from(target.len()).unwrap();
    let all = i64::try_from(scores.len()).unwrap();
    let shape = if n == all {
        vec![n]
    } else {
        vec![n, all / n.max(1)]
    };
    let (p, t) = (plain(dtype, &shape, scores), plain("int64", &[n], target));
    metric.update(&p.view(), &t.view())
}

fn values(metric: &mut Auroc) -> Vec<f64> {
    match metric.compute() {
        Value::Number(number) => vec![number],
        Value::Array { shape, data } => {
            assert_eq!(shape, [data.len()]);
            data
        }
    }
}

fn value(metric: &mut Auroc) -> f64 {
    match values(metric)[..] {
        [value] => value,
        _ => unreachable!("one value is due"),
    }
}

fn measured(dtype: &str, scores: &[f64], target: &[f64]) -> f64 {
    let mut metric = binary(&none());
    count(&mut metric, dtype, scores, target).unwrap();
    value(&mut metric)
}

#[test]
fn equal_scores_count_half() {
    assert_eq!(
        measured("float32", &[0.1, 0.4, 0.35, 0.8], &[0.0, 0.0, 1.0, 1.0]),
        0.75
    );
    assert_eq!(
        measured("float32", &[0.5; 7], &[0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
        0.5
    );
    assert_eq!(measured("float32", &[-0.0, 0.0], &[1.0, 0.0]), 0.5);
}

#[test]
fn a_nan_among_the_scores_makes_the_value_nan() {
    for scores in [[NAN, 0.9, 0.1, 0.2], [0.8, 0.9, NAN, 0.2], [NAN; 4]] {
        for dtype in ["float16", "float32", "float64"] {
            for options in [none(), logits(none()), even(5.0), logits(even(5.0))] {
                let mut metric = binary(&options);
                count(&mut metric, dtype, &scores, &[1.0, 1.0, 0.0, 0.0]).unwrap();
                assert!(value(&mut metric).is_nan());
                let text = metric.caveat().unwrap();
                assert!(text.contains("NaN among the scores"), "{text}");
                metric.retract();
                assert_eq!(metric.caveat(), None);
                count(&mut metric, dtype, &[0.5, 0.1], &[1.0, 0.0]).unwrap();
                assert!(!value(&mut metric).is_nan());
            }
        }
    }
}

#[test]
fn a_class_with_a_nan_is_not_left_out_of_an_average() {
    let (scores, target) = ([NAN, 1.0, 0.0, 2.0], [0.0, 1.0]);
    for (average, logits_are_nan) in [("none", [true, false]), ("macro", [true; 2])] {
        let mut metric = multiclass(average, &none());
        count(&mut metric, "float32", &scores, &target).unwrap();
        let nan = values(&mut metric).into_iter().map(f64::is_nan);
        assert!(nan.zip(logits_are_nan).all(|(got, due)| got == due));
    }
    let mut metric = multiclass("none", &logits(none()));
    count(&mut metric, "float32", &scores, &target).unwrap();
    assert!(values(&mut metric).into_iter().all(f64::is_nan));
}

#[test]
fn wide_scores_keep_their_order_beside_narrow_ones() {
    let close = [1.0, 1.0 + 1e-12, 1.0 + 2e-12];
    assert_eq!(measured("float64", &close, &[0.0, 1.0, 0.0]), 0.5);
    assert_eq!(
        measured("int64", &[16_777_216.0, 16_777_217.0], &[0.0, 1.0]),
        1.0
    );
    let mut metric = binary(&none());
    count(&mut metric, "float32", &[1.0, -2.0, -3.0], &[0.0, 1.0, 1.0]).unwrap();
    metric.compute();
    count(&mut metric, "float64", &[1.0 + 1e-12], &[1.0]).unwrap();
    count(&mut metric, "bfloat16", &[1.0], &[1.0]).unwrap();
    // Against the one negative: won, drawn, and lost twice.
    assert_eq!(value(&mut metric), 1.5 / 4.0);
}

#[test]
fn bins_are_a_trapezoid_through_the_points_of_the_thresholds() {
    let thresholds = |at: &[f64]| none().with("thresholds", Setting::Numbers(at.into()));
    let mut metric = binary(&thresholds(&[0.5, 0.0, 1.0, 0.5]));
    count(
        &mut metric,
        "float32",
        &[0.5, 0.9, 0.2, 0.6],
        &[1.0, 1.0, 0.0, 0.0],
    )
    .unwrap();
    // The points are (0, 0), (1/2, 1), (1, 1).
    assert_eq!(value(&mut metric), 0.75);
    assert_eq!(metric.caveat(), None);
    // Thresholds that end before the scores do leave the curve as short as it is.
    let mut metric = binary(&thresholds(&[0.25, 0.75]));
    count(
        &mut metric,
        "float32",
        &[0.5, 0.9, 0.2, 0.6],
        &[1.0, 1.0, 0.0, 0.0],
    )
    .unwrap();
    assert_eq!(value(&mut metric), 0.375);
    let text = metric.caveat().unwrap();
    assert!(
        text.contains("scores below 0.25, the lowest") && text.contains("from_logits=True"),
        "{text}"
    );
}

#[test]
fn a_score_at_a_threshold_is_above_it_in_its_own_precision() {
    for dtype in ["float32", "float64"] {
        let mut metric = binary(&even(11.0));
        let scores: Vec<f64> = (0..=10).map(|k| f64::from(k) / 10.0).collect();
        let target: Vec<f64> = (0..=10).map(|k| f64::from(k % 3 == 0)).collect();
        count(&mut metric, dtype, &scores, &target).unwrap();
        let labels: Vec<_> = target.iter().map(|&x| x == 1.0).collect();
        assert!((value(&mut metric) - by_pairs(&scores, &labels)).abs() < 1e-15);
    }
}

#[test]
fn classes_are_averaged_as_asked() {
    let scores = [0.5, 0.3, 0.2, 0.1, 0.6, 0.3, 0.4, 0.4, 0.2, 0.2, 0.3, 0.5];
    let target = [0.0, 1.0, 1.0, 2.0];
    let of = |average| {
        let mut metric = multiclass(average, &none());
        count(&mut metric, "float64", &scores, &target).unwrap();
        values(&mut metric)
    };
    assert_eq!(of("none"), [1.0, 1.0, 1.0]);
    assert_eq!((of("macro"), of("weighted")), (vec![1.0], vec![1.0]));
    // Of 4 * 8 pairs two are ties and one is lost.
    let labels: Vec<_> = (0..12)
        .map(|k| f64::from(k % 3) == target[usize::try_from(k / 3).unwrap()])
        .collect();
    assert_eq!(of("micro"), [by_pairs(&scores, &labels)]);
}

#[test]
fn averages_leave_out_classes_without_an_area() {
    let scores = [0.6, 0.4, 0.9, 0.5, 0.5, 0.9, 0.1, 0.9, 0.9];
    let target = [0.0, 1.0, 0.0];
    let mut each = multiclass("none", &none());
    count(&mut each, "float32", &scores, &target).unwrap();
    let areas = values(&mut each);
    assert!(areas[0] == 0.5 && areas[1] == 0.5 && areas[2].is_nan());
    let text = each.caveat().unwrap();
    assert!(
        text.contains("is NaN for them: no target so far is of class 2,"),
        "{text}"
    );
    for average in ["macro", "weighted"] {
        let mut metric = multiclass(average, &none());
        count(&mut metric, "float32", &scores, &target).unwrap();
        assert_eq!(value(&mut metric), 0.5);
        let text = metric.caveat().unwrap();
        assert!(
            text.contains("is the mean without them: no target so far is of"),
            "{text}"
        );
        metric.reset();
        assert_eq!(metric.caveat(), None);
        count(&mut metric, "float32", &scores, &[1.0; 3]).unwrap();
        assert!(value(&mut metric).is_nan());
        let text = metric.caveat().unwrap();
        assert!(
            text.contains("is NaN: of the targets so far each is 1,"),
            "{text}"
        );
    }
    let mut micro = multiclass("micro", &none());
    count(&mut micro, "float32", &scores, &[1.0; 3]).unwrap();
    assert!(value(&mut micro).is_finite());
    assert_eq!(micro.caveat(), None);
}

#[test]
fn one_class_alone_has_no_area() {
    for (class, options) in [
        (0.0, none()),
        (1.0, none()),
        (0.0, even(3.0)),
        (1.0, even(3.0)),
    ] {
        let mut metric = binary(&options);
        assert!(value(&mut metric).is_nan());
        assert_eq!(metric.caveat(), None);
        count(&mut metric, "float32", &[0.1, 0.2], &[class; 2]).unwrap();
        assert!(value(&mut metric).is_nan());
        let text = metric.caveat().unwrap();
        assert!(text.contains(&format!("each is {class}, and")), "{text}");
        count(&mut metric, "float32", &[0.1], &[1.0 - class]).unwrap();
        assert_eq!(metric.caveat(), None);
    }
}

#[test]
fn many_absent_classes_are_named_in_short() {
    let mut metric = multiclass("macro", &none());
    let scores: Vec<f64> = (0..40).map(|k| f64::from(k % 7)).collect();
    count(&mut metric, "float32", &scores, &[3.0, 19.0]).unwrap();
    let text = metric.caveat().unwrap();
    assert!(
        text.contains("of class 0, 1, 2, 4, 5 or 13 others,"),
        "{text}"
    );
}

#[test]
fn logits_do_not_saturate() {
    let scores = [20.0, 30.0, 25.0, 40.0];
    let target = [0.0, 1.0, 0.0, 1.0];
    let mut metric = binary(&logits(none()));
    count(&mut metric, "float32", &scores, &target).unwrap();
    assert_eq!(value(&mut metric), 1.0);
    let pairs: Vec<f64> = scores.iter().flat_map(|&x| [0.0, x]).collect();
    let mut metric = multiclass("none", &logits(none()));
    count(&mut metric, "float32", &pairs, &target).unwrap();
    assert_eq!(values(&mut metric), [1.0, 1.0]);
    // The same differences of logits are the same probabilities.
    let mut metric = multiclass("none", &logits(none()));
    count(&mut metric, "float64", &[1.0, 2.0, 5.0, 6.0], &[0.0, 1.0]).unwrap();
    assert_eq!(values(&mut metric), [0.5, 0.5]);
}

#[test]
fn what_does_not_fit_is_refused_and_not_counted() {
    let refused = |metric: &mut Auroc, p: &[i64], dtype: &str, t: &[i64], value: f64| {
        let before = metric.clone();
        let fill = |shape: &[i64], x| vec![x; shape.iter().product::<i64>().try_into().unwrap()];
        let (p, t) = (
            plain("float32", p, &fill(p, 0.5)),
            plain(dtype, t, &fill(t, value)),
        );
        let error = metric.update(&p.view(), &t.view()).unwrap_err();
        assert!(*metric == before);
        (matches!(error, Error::Shape(_)), error.to_string())
    };
    let mut two = binary(&none());
    let (shape, text) = refused(&mut two, &[2], "int64", &[3], 0.0);
    assert!(shape && text.contains("(2,) and (3,)"), "{text}");
    for (dtype, bad, shown) in [
        ("int64", 2.0, "got 2 at index 0"),
        ("float32", 0.5, "got 0.5 at"),
    ] {
        let (shape, text) = refused(&mut two, &[300], dtype, &[300], bad);
        assert!(
            !shape && text.contains(shown) && text.contains("MulticlassAUROC"),
            "{text}"
        );
    }
    let mut many = multiclass("macro", &none());
    for (p, t, mend) in [
        (&[4][..], &[4][..], "use BinaryAUROC where"),
        (&[4, 1], &[4], "preds.squeeze(1)"),
        (&[4, 3], &[4, 3], "target.argmax(1)"),
        (&[4, 3], &[4, 1], "target.squeeze(1)"),
        (
            &[4, 3],
            &[5],
            "shape (4,) for preds of shape (4, 3), got (5,)",
        ),
    ] {
        let (shape, text) = refused(&mut many, p, "int64", t, 0.0);
        assert!(shape && text.contains(mend), "{text}");
    }
    let (_, text) = refused(&mut many, &[4, 3], "float32", &[4], 0.0);
    assert!(text.contains("target.long()"), "{text}");
    for (bad, mend) in [(3.0, "pass target - 1"), (-1.0, "keep = target >= 0")] {
        let (_, text) = refused(&mut many, &[200, 3], "int64", &[200], bad);
        assert!(
            text.contains(mend) && text.contains("the classes 0 to 2"),
            "{text}"
        );
    }
    count(&mut many, "float32", &[0.1, 0.2, 0.7, 0.1], &[0.0, 1.0]).unwrap();
    let (shape, text) = refused(&mut many, &[4, 3], "int64", &[4], 0.0);
    assert!(
        shape && text.contains("counted batches of 2 classes, and this one has 3"),
        "{text}"
    );
    many.retract();
    count(
        &mut many,
        "float32",
        &[0.1, 0.2, 0.7, 0.1, 0.3, 0.6],
        &[0.0, 2.0],
    )
    .unwrap();
}

#[test]
fn options_that_cannot_work_are_refused() {
    let text = |made: Result<Auroc>| made.unwrap_err().to_string();
    for bad in [1.0, 2.5, -3.0, 1e7, NAN] {
        let text = text(Auroc::binary(&mut even(bad)));
        assert!(
            text.contains(&format!("got {bad}; pass num_thresholds=200")),
            "{text}"
        );
    }
    for (given, got) in [(vec![0.5, 0.5], "got [0.5]"), (vec![0.0, NAN], "got NaN")] {
        let mut options = none().with("thresholds", Setting::Numbers(given));
        let text = text(Auroc::multiclass(&mut options));
        assert!(text.contains(got), "{text}");
    }
    let mut both = even(5.0).with("thresholds", Setting::Numbers(vec![0.0, 1.0]));
    let both = text(Auroc::binary(&mut both));
    assert!(
        both.contains("got both; leave out num_thresholds=5"),
        "{both}"
    );
}

#[test]
fn only_metrics_that_measure_alike_merge() {
    let mut two = multiclass("macro", &none());
    count(&mut two, "float32", &[0.1, 0.2, 0.7, 0.1], &[0.0, 1.0]).unwrap();
    let mut three = multiclass("macro", &none());
    count(
        &mut three,
        "float32",
        &[0.1, 0.2, 0.7, 0.1, 0.4, 0.4],
        &[0.0, 1.0],
    )
    .unwrap();
    let different = [
        (two.clone(), three),
        (two, multiclass("micro", &none())),
        (binary(&none()), binary(&even(5.0))),
        (binary(&even(6.0)), binary(&even(5.0))),
        (binary(&none()), binary(&logits(none()))),
        (binary(&none()), multiclass("macro", &none())),
    ];
    for (mut one, other) in different {
        let before = one.clone();
        let text = one.merge(&other).unwrap_err().to_string();
        assert!(
            text.contains(&one.described()) && text.contains(&other.described()),
            "{text}"
        );
        assert_ne!(one.described(), other.described());
        assert!(one == before);
    }
}

#[test]
fn scores_take_four_bytes_and_wide_ones_eight() {
    let n = 10_000;
    let scores: Vec<f64> = (0..n).map(f64::from).collect();
    let target: Vec<f64> = (0..n).map(|k| f64::from(k % 3 == 0)).collect();
    for (dtype, bytes) in [("float32", 4), ("bfloat16", 4), ("float64", 8)] {
        let mut metric = binary(&none());
        count(&mut metric, dtype, &scores, &target).unwrap();
        let kept = match &metric.curves[0] {
            Curve::Narrow(ranks) => size_of::<u32>() * ranks.counts().iter().sum::<usize>(),
            Curve::Wide(ranks) => size_of::<u64>() * ranks.counts().iter().sum::<usize>(),
            Curve::Binned(_) => 0,
        };
        assert_eq!(kept, bytes * scores.len());
    }
}

#[test]
fn states_that_no_metric_wrote_are_refused() {
    let mut full = multiclass("macro", &none());
    count(&mut full, "float32", &[0.1, 0.2, 0.7, 0.1], &[0.0, 1.0]).unwrap();
    let good = full.state();
    for (at, bad) in [
        (0, 3.0),
        (0, 1e15),
        (0, NAN),
        (1, 5.0),
        (2, 9.0),
        (3, -1.0),
        (2, 0.5),
    ] {
        let mut state = good.clone();
        state[at] = bad;
        let mut metric = multiclass("macro", &none());
        assert!(
            matches!(metric.load(&state), Err(Error::Metric(_))),
            "{at} {bad}"
        );
        assert!(metric == multiclass("macro", &none()));
    }
    for len in 0..good.len() {
        assert!(full.load(&good[..len]).is_err());
    }
    assert!(binary(&even(3.0)).load(&good).is_err());
}

proptest! {
    #[test]
    fn bins_equal_the_curve_point_by_point(
        pairs in prop::collection::vec((0.0..1.0_f64, any::<bool>()), 1..60),
        at in prop::collection::vec(0.0..1.0_f64, 2..8),
    ) {
        let (scores, labels): (Vec<f64>, Vec<bool>) = pairs.into_iter().unzip();
        let target: Vec<f64> = labels.iter().map(|&label| f64::from(u8::from(label))).collect();
        let mut metric = binary(&none().with("thresholds", Setting::Numbers(at.clone())));
        count(&mut metric, "float64", &scores, &target).unwrap();
        let mut at = at;
        at.sort_by(|a, b| b.total_cmp(a));
        let share = |threshold: f64, label: bool| {
            let of = |&(_, &l): &(&f64, &bool)| l == label;
            let group = scores.iter().zip(&labels).filter(of);
            group.clone().filter(|(score, _)| **score >= threshold).count() as f64
                / group.count() as f64
        };
        let points: Vec<_> = at.iter().map(|&t| (share(t, false), share(t, true))).collect();
        let area = points.windows(2).map(|two| (two[1].0 - two[0].0) * (two[1].1 + two[0].1) / 2.0);
        let (area, value) = (area.sum::<f64>(), value(&mut metric));
        prop_assert!((area - value).abs() < 1e-12 || area.is_nan() && value.is_nan());
    }

    #[test]
    fn any_split_merged_equals_one_pass(
        scores in prop::collection::vec(scores(), 3 * 40..3 * 90),
        split in any::<prop::sample::Index>(),
        p_dtype in prop::sample::select(&DTYPES[..4]),
    ) {
        let n = scores.len() / 3;
        let classes: Vec<f64> = (0..n).map(|k| (k * k % 3) as f64).collect();
        let labels: Vec<f64> = (0..n).map(|k| (k * k % 2) as f64).collect();
        let metrics = ["micro", "macro", "weighted", "none"].into_iter().flat_map(|average| {
            [none(), even(4.0), logits(none()), logits(even(5.0))]
                .map(|options| (3, multiclass(average, &options)))
        });
        let options = [none(), even(4.0), logits(even(5.0))];
        let two = options.map(|options| (1, binary(&options)));
        for (wide, metric) in metrics.chain(two) {
            let target = if wide == 1 { &labels } else { &classes };
            let of = |from: usize, to: usize| {
                let mut part = metric.clone();
                count(&mut part, p_dtype, &scores[from * wide..to * wide], &target[from..to])
                    .unwrap();
                part
            };
            let (mut whole, at) = (of(0, n), split.index(n - 1) + 1);
            let mut merged = of(0, at);
            merged.merge(&of(at, n)).unwrap();
            let mut added = of(at, n);
            added.compute();
            added.add_state(&of(0, at).state()).unwrap();
            let mut batches = of(0, at);
            batches.compute();
            count(&mut batches, p_dtype, &scores[at * wide..n * wide], &target[at..]).unwrap();
            let mut back = batches.clone();
            back.retract();
            prop_assert!(back == of(0, at));
            let mut loaded = metric.clone();
            loaded.load(&whole.state()).unwrap();
            let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
            for mut part in [merged, added, batches, loaded] {
                prop_assert!(part == whole);
                prop_assert!(same(&values(&mut part), &values(&mut whole)));
            }
        }
    }
}
