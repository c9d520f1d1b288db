//! A built-in metric of any kind, made by name.

use super::{
    Accuracy, Auroc, Average, Batch, BinaryAccuracy, ConfusionMatrix, Deviation, Fit, Form,
    Measure, Metric, Normalize, Options, PerClass, R2, Share, View, unmergeable,
};
use crate::error::{Error, Result};
use crate::records::Value;

/// A built-in metric of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Native {
    /// `Accuracy`, `TopKAccuracy`.
    Accuracy(Accuracy),
    /// `BinaryAccuracy`, `BinaryAccuracyWithLogits`.
    BinaryAccuracy(BinaryAccuracy),
    /// `MAE`, `MSE`, `RMSE`.
    Deviation(Deviation),
    /// `Precision`, `Recall`, `F1`.
    PerClass(PerClass),
    /// `ConfusionMatrix`.
    ConfusionMatrix(ConfusionMatrix),
    /// `R2`.
    R2(R2),
    /// `BinaryAUROC`, `MulticlassAUROC`.
    Auroc(Auroc),
}

/// Runs the body with the metric inside a [`Native`].
macro_rules! with_metric {
    ($native:expr, $metric:ident => $body:expr) => {
        match $native {
            Native::Accuracy($metric) => $body,
            Native::BinaryAccuracy($metric) => $body,
            Native::Deviation($metric) => $body,
            Native::PerClass($metric) => $body,
            Native::ConfusionMatrix($metric) => $body,
            Native::R2($metric) => $body,
            Native::Auroc($metric) => $body,
        }
    };
}

impl Native {
    /// The names that [`Native::new`] knows.
    pub const NAMES: [&str; 14] = [
        "Accuracy",
        "BinaryAccuracy",
        "BinaryAccuracyWithLogits",
        "MAE",
        "MSE",
        "RMSE",
        "Precision",
        "Recall",
        "F1",
        "ConfusionMatrix",
        "TopKAccuracy",
        "R2",
        "BinaryAUROC",
        "MulticlassAUROC",
    ];

    /// The metric of that name, empty, with the options that it has.
    pub fn new(name: &str, options: Options) -> Result<Self> {
        let mut options = options.of(name);
        let metric = match name {
            "Accuracy" => Self::Accuracy(Accuracy::default()),
            "BinaryAccuracy" | "BinaryAccuracyWithLogits" => {
                let threshold = options.number("threshold")?.unwrap_or(0.5);
                Self::BinaryAccuracy(if name == "BinaryAccuracy" {
                    BinaryAccuracy::new(threshold)?
                } else {
                    BinaryAccuracy::with_logits(threshold)?
                })
            }
            "MAE" => Self::Deviation(Deviation::new(Measure::Absolute)),
            "MSE" => Self::Deviation(Deviation::new(Measure::Squared)),
            "RMSE" => Self::Deviation(Deviation::new(Measure::RootSquared)),
            "Precision" | "Recall" | "F1" => {
                let share = match name {
                    "Precision" => Share::Precision,
                    "Recall" => Share::Recall,
                    _ => Share::F1,
                };
                Self::PerClass(PerClass::new(share, Average::take(&mut options)?))
            }
            "ConfusionMatrix" => {
                Self::ConfusionMatrix(ConfusionMatrix::new(Normalize::take(&mut options)?))
            }
            "TopKAccuracy" => Self::Accuracy(Accuracy::top(options.count("k")?.unwrap_or(5))),
            "R2" => Self::R2(R2::default()),
            "BinaryAUROC" => Self::Auroc(Auroc::binary(&mut options)?),
            "MulticlassAUROC" => Self::Auroc(Auroc::multiclass(&mut options)?),
            _ => {
                let names = Self::NAMES.join(", ");
                return Err(Error::Metric(format!(
                    "no built-in metric is called {name:?}; there are {names}"
                )));
            }
        };
        options.end()?;
        Ok(metric)
    }

    /// The score above which a binary metric sees class 1; None for the others.
    #[must_use]
    pub fn cut(&self) -> Option<f64> {
        match self {
            Self::BinaryAccuracy(metric) => Some(metric.cut()),
            _ => None,
        }
    }

    /// The thresholds between which a metric counts scores; None for the others.
    #[must_use]
    pub fn thresholds(&self) -> Option<&[f64]> {
        match self {
            Self::Auroc(metric) => metric.thresholds(),
            _ => None,
        }
    }

    /// A remark on the value that the user should hear, such as why it is NaN.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        match self {
            Self::Auroc(metric) => metric.caveat(),
            Self::BinaryAccuracy(metric) => metric.caveat(),
            _ => None,
        }
    }
}

impl Native {
    /// Takes in a batch where that is so much work that a call more does not count. What is inlined
    /// with the small ones makes the frame of these larger, which they feel.
    #[inline(never)]
    fn update_large(&mut self, preds: &View, target: &View) -> Result<Fit> {
        with_metric!(self, metric => metric.update(preds, target))
    }
}

impl Metric for Native {
    fn name(&self) -> &'static str {
        with_metric!(self, metric => metric.name())
    }

    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch> {
        with_metric!(self, metric => metric.check(preds, target, known))
    }

    fn width(&self) -> usize {
        with_metric!(self, metric => metric.width())
    }

    #[inline]
    fn update(&mut self, preds: &View, target: &View) -> Result<Fit> {
        match self {
            Self::Accuracy(metric) => metric.update(preds, target),
            Self::BinaryAccuracy(metric) => metric.update(preds, target),
            Self::Deviation(metric) => metric.update(preds, target),
            other => other.update_large(preds, target),
        }
    }

    fn feed(&mut self, width: usize, preds: &View, target: &View) -> Result<()> {
        with_metric!(self, metric => metric.feed(width, preds, target))
    }

    fn retract(&mut self) {
        with_metric!(self, metric => metric.retract());
    }

    fn compute(&mut self) -> Value {
        with_metric!(self, metric => metric.compute())
    }

    fn reset(&mut self) {
        with_metric!(self, metric => metric.reset());
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        match (&mut *self, other) {
            (Self::Accuracy(one), Self::Accuracy(two)) => one.merge(two),
            (Self::BinaryAccuracy(one), Self::BinaryAccuracy(two)) => one.merge(two),
            (Self::Deviation(one), Self::Deviation(two)) => one.merge(two),
            (Self::PerClass(one), Self::PerClass(two)) => one.merge(two),
            (Self::ConfusionMatrix(one), Self::ConfusionMatrix(two)) => one.merge(two),
            (Self::R2(one), Self::R2(two)) => one.merge(two),
            (Self::Auroc(one), Self::Auroc(two)) => one.merge(two),
            _ => Err(unmergeable(self.name(), other.name())),
        }
    }

    fn state(&self) -> Vec<f64> {
        with_metric!(self, metric => metric.state())
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        with_metric!(self, metric => metric.load(state))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::Setting;
    use super::super::testing::{DTYPES, number, plain, strides_of, tensor};
    use super::*;
    use proptest::prelude::*;

    fn all() -> impl Iterator<Item = Native> {
        Native::NAMES.into_iter().map(|name| {
            let options = Options::default();
            let two = options.clone().with("k", Setting::Number(2.0));
            Native::new(name, if name == "TopKAccuracy" { two } else { options }).unwrap()
        })
    }

    /// True if predictions are scores of classes.
    fn is_of_classes(metric: &Native) -> bool {
        use Native::{BinaryAccuracy, Deviation, R2};
        metric.name() != "BinaryAUROC"
            && !matches!(metric, BinaryAccuracy(_) | Deviation(_) | R2(_))
    }

    fn numbers(value: Value) -> Vec<f64> {
        match value {
            Value::Number(number) => vec![number],
            Value::Array { data, .. } => data,
        }
    }

    fn threshold(at: f64) -> Options {
        Options::default().with("threshold", Setting::Number(at))
    }

    /// Shapes of predictions and targets for `n` samples, wide enough to take several blocks.
    fn shapes(metric: &Native, n: i64, inner: i64) -> (Vec<i64>, Vec<i64>) {
        let scores = if is_of_classes(metric) {
            vec![n, 3, inner]
        } else {
            vec![n, inner]
        };
        (scores, vec![n, inner])
    }

    fn numel(shape: &[i64]) -> usize {
        shape.iter().product::<i64>().try_into().unwrap()
    }

    #[test]
    fn each_name_makes_the_metric_of_that_name_empty() {
        for (mut metric, name) in all().zip(Native::NAMES) {
            assert_eq!(metric.name(), name);
            assert!(number(metric.compute()).is_nan());
        }
        let error = Native::new("Acuracy", Options::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"Acuracy\"") && error.contains("Accuracy, Binary"),
            "{error}"
        );
        let error = Native::new("MSE", threshold(0.5)).unwrap_err().to_string();
        assert!(error.contains("MSE has no threshold"), "{error}");
    }

    #[test]
    fn batches_of_nothing_change_nothing() {
        for mut metric in all() {
            let (p, t) = shapes(&metric, 0, 2);
            let (p, t) = (plain("float32", &p, &[]), plain("int64", &t, &[]));
            assert_eq!(metric.update(&p.view(), &t.view()).unwrap(), Fit::Exact);
            assert!(number(metric.compute()).is_nan());
        }
    }

    #[test]
    fn reset_forgets_all_and_retract_the_last_batch() {
        for mut metric in all() {
            let (p, t) = shapes(&metric, 2, 1);
            let scores = [0.1, 0.9, 0.4, 0.2, 0.3, 0.5];
            let p = plain("float32", &p, &scores[..numel(&p)]);
            let t = plain("int64", &t, &[1.0, 0.0]);
            let empty = metric.clone();
            metric.update(&p.view(), &t.view()).unwrap();
            let before = metric.clone();
            metric.update(&p.view(), &t.view()).unwrap();
            assert_ne!(metric, before);
            metric.retract();
            assert_eq!(metric, before);
            assert_eq!(metric.state(), before.state());
            metric.retract();
            assert_eq!(metric, before, "a batch is taken back once");
            metric.update(&p.view(), &t.view()).unwrap();
            metric.merge(&before).unwrap();
            let mut twice = before.clone();
            twice.merge(&before).unwrap();
            metric.retract();
            assert_eq!(metric, twice, "what was merged stays");
            metric.reset();
            metric.retract();
            assert_eq!(metric, empty);
        }
    }

    #[test]
    fn states_that_no_metric_wrote_are_refused() {
        // The others, whose states have no fixed length, are tested beside them.
        for mut metric in all().filter(|metric| metric.state().len() > 1) {
            let before = metric.clone();
            let mut short = metric.state();
            short.pop();
            assert!(matches!(metric.load(&short), Err(Error::Metric(_))));
            for bad in [-1.0, 0.5, f64::NAN, f64::INFINITY, 1e17] {
                let mut state = metric.state();
                state[1] = bad;
                let error = metric.load(&state).unwrap_err().to_string();
                assert!(
                    error.contains(metric.name()) && error.contains("count"),
                    "{error}"
                );
            }
            assert_eq!(metric, before);
        }
        let mut accuracy = Native::new("Accuracy", Options::default()).unwrap();
        let error = accuracy.load(&[3.0, 2.0]).unwrap_err().to_string();
        assert!(error.contains("3 hits among 2"), "{error}");
    }

    #[test]
    fn only_metrics_of_one_kind_merge() {
        for (i, one) in all().enumerate() {
            for (j, two) in all().enumerate() {
                assert_eq!(
                    one.clone().merge(&two).is_ok(),
                    i == j,
                    "{} {}",
                    one.name(),
                    two.name()
                );
            }
        }
        let mut half = Native::new("BinaryAccuracy", Options::default()).unwrap();
        let error = half
            .merge(&Native::new("BinaryAccuracy", threshold(0.3)).unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("cut at 0.3"), "{error}");
    }

    #[test]
    fn all_dtypes_measure_alike() {
        for metric in all() {
            let (p_shape, t_shape) = shapes(&metric, 7, 40);
            let bits = |len, step| (0..len).map(|k| f64::from(k * step / 3 % 2 != 0)).collect();
            let p_values: Vec<f64> = bits(i32::try_from(numel(&p_shape)).unwrap(), 7);
            let t_values: Vec<f64> = bits(i32::try_from(numel(&t_shape)).unwrap(), 5);
            let mut expected = metric.clone();
            let (p, t) = (
                plain("float32", &p_shape, &p_values),
                plain("int64", &t_shape, &t_values),
            );
            expected.update(&p.view(), &t.view()).unwrap();
            assert!(!numbers(expected.compute())[0].is_nan());
            for (p_dtype, t_dtype) in DTYPES.iter().flat_map(|p| DTYPES.map(|t| (*p, t))) {
                let (p, t) = (
                    plain(p_dtype, &p_shape, &p_values),
                    plain(t_dtype, &t_shape, &t_values),
                );
                let mut measured = metric.clone();
                match measured.update(&p.view(), &t.view()) {
                    Ok(fit) => {
                        assert_eq!((fit, &measured), (Fit::Exact, &expected));
                    }
                    Err(error) => {
                        assert!(is_of_classes(&metric), "{error}");
                        assert!(t.view().data().is_float(), "{error}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_and_merge_equals_one_pass(
            scores in prop::collection::vec(-4.0..4.0_f64, 6 * 40..6 * 90),
            split in any::<prop::sample::Index>(),
        ) {
            for metric in all() {
                let n = i64::try_from(scores.len() / 6).unwrap();
                let (p, t) = shapes(&metric, n, 2);
                let p_values = &scores[..numel(&p)];
                let t_values: Vec<f64> =
                    scores.iter().rev().take(numel(&t)).map(|&x| f64::from(x > 1.0)).collect();
                let of = |from: i64, to: i64| {
                    let ((p, t), mut part) = (shapes(&metric, to - from, 2), metric.clone());
                    let (p_before, t_before) = shapes(&metric, from, 2);
                    let (i, j) = (numel(&p_before), numel(&t_before));
                    let (i2, j2) = (i + numel(&p), j + numel(&t));
                    let p = plain("float32", &p, &p_values[i..i2]);
                    let t = plain("uint8", &t, &t_values[j..j2]);
                    part.update(&p.view(), &t.view()).unwrap();
                    part
                };
                let (mut whole, at) = (of(0, n), i64::try_from(split.index(scores.len() / 6)).unwrap());
                let mut merged = of(0, at);
                merged.merge(&of(at, n)).unwrap();
                let mut added = of(at, n);
                added.add_state(&of(0, at).state()).unwrap();
                let value = numbers(whole.compute());
                for mut part in [merged, added] {
                    let parts = numbers(part.compute());
                    prop_assert_eq!(parts.len(), value.len());
                    for (one, all) in parts.into_iter().zip(&value) {
                        prop_assert!((one - all).abs() < 1e-13);
                    }
                }
                let mut loaded = metric.clone();
                loaded.load(&whole.state()).unwrap();
                prop_assert_eq!(loaded, whole);
            }
        }

        #[test]
        fn any_strides_equal_the_contiguous_copy(
            n in 0..40_i64,
            inner in 1..20_i64,
            p_order in Just(vec![0, 1, 2]).prop_shuffle(),
            t_order in Just(vec![0, 1]).prop_shuffle(),
            p_step in 1..3_i64,
            t_step in 1..3_i64,
            seed in any::<u16>(),
        ) {
            for metric in all() {
                let (p, t) = shapes(&metric, n, inner);
                let noise = |k: usize| (k * 7919 + usize::from(seed)) % 101;
                let p_values: Vec<f64> = (0..numel(&p)).map(|k| noise(k) as f64 / 101.0).collect();
                let class = |k: usize| f64::from(noise(k * 3) > 40);
                let t_values: Vec<f64> = (0..numel(&t)).map(class).collect();
                let (mut copied, mut strided) = (metric.clone(), metric.clone());
                let (a, b) = (plain("bfloat16", &p, &p_values), plain("int64", &t, &t_values));
                copied.update(&a.view(), &b.view()).unwrap();
                let a = tensor("bfloat16", &p, &strides_of(&p, &p_order, p_step), &p_values);
                let b = tensor("int64", &t, &strides_of(&t, &t_order, t_step), &t_values);
                strided.update(&a.view(), &b.view()).unwrap();
                prop_assert_eq!(strided, copied);
            }
        }
    }
}
