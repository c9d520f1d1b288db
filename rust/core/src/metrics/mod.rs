//! Metrics that read tensors where they lie, and the mean of the loss.
//!
//! The host makes a [`Native`] by name, feeds it [`View`]s of predictions and targets, and asks for
//! the value. Everything that a metric knows is a few numbers: they can be copied to take a batch
//! back, saved, and added to those of another device or process.

mod accuracy;
mod binary;
mod mean;
mod regression;
mod view;

pub use accuracy::Accuracy;
pub use binary::BinaryAccuracy;
pub use mean::{Mean, Sum};
pub use regression::{Deviation, Measure};
pub use view::{Data, Reach, View};

use crate::error::{Error, Result};
use view::tuple;

/// How many elements are converted at a time where memory cannot be read as it is.
const BLOCK: usize = 128;

/// How the shapes of predictions and targets came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As they are.
    Exact,
    /// By leaving out dimensions of size 1, as in (n, 1) against (n,). Torch would broadcast these
    /// to (n, n), in the loss for one, so the user should hear of it.
    Squeezed,
}

/// What every built-in metric can do.
pub trait Metric: Clone {
    /// The name by which [`Native::new`] makes this metric.
    fn name(&self) -> &'static str;

    /// Takes in a batch. On an error the metric is left as it was.
    fn update(&mut self, preds: &View, target: &View) -> Result<Fit>;

    /// The value over everything since the last reset, NaN when there was nothing.
    fn compute(&self) -> f64;

    /// Forgets every batch.
    fn reset(&mut self);

    /// Takes in what another metric of the same kind has seen.
    fn merge(&mut self, other: &Self) -> Result<()>;

    /// All it has seen, as numbers that add up over devices and processes: the sum first (of hits
    /// or of deviations), then the count.
    fn state(&self) -> Vec<f64>;

    /// Becomes what [`Metric::state`] has described.
    fn load(&mut self, state: &[f64]) -> Result<()>;

    /// Takes in what another metric has seen, from its state.
    fn add_state(&mut self, state: &[f64]) -> Result<()> {
        let mut other = self.clone();
        other.load(state)?;
        self.merge(&other)
    }
}

/// A built-in metric of any kind. It is a plain value: a copy is a snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Native {
    /// `Accuracy`.
    Accuracy(Accuracy),
    /// `BinaryAccuracy`, `BinaryAccuracyWithLogits`.
    BinaryAccuracy(BinaryAccuracy),
    /// `MAE`, `MSE`, `RMSE`.
    Deviation(Deviation),
}

/// Runs the body with the metric inside a [`Native`].
macro_rules! with_metric {
    ($native:expr, $metric:ident => $body:expr) => {
        match $native {
            Native::Accuracy($metric) => $body,
            Native::BinaryAccuracy($metric) => $body,
            Native::Deviation($metric) => $body,
        }
    };
}

impl Native {
    /// The names that [`Native::new`] knows.
    pub const NAMES: [&str; 6] = [
        "Accuracy",
        "BinaryAccuracy",
        "BinaryAccuracyWithLogits",
        "MAE",
        "MSE",
        "RMSE",
    ];

    /// The metric of that name, empty. Only the two binary ones have a threshold, 0.5 unless given.
    pub fn new(name: &str, threshold: Option<f64>) -> Result<Self> {
        let half = threshold.unwrap_or(0.5);
        let metric = match name {
            "Accuracy" => Self::Accuracy(Accuracy::default()),
            "BinaryAccuracy" => return Ok(Self::BinaryAccuracy(BinaryAccuracy::new(half)?)),
            "BinaryAccuracyWithLogits" => {
                return Ok(Self::BinaryAccuracy(BinaryAccuracy::with_logits(half)?));
            }
            "MAE" => Self::Deviation(Deviation::new(Measure::Absolute)),
            "MSE" => Self::Deviation(Deviation::new(Measure::Squared)),
            "RMSE" => Self::Deviation(Deviation::new(Measure::RootSquared)),
            _ => {
                let names = Self::NAMES.join(", ");
                return Err(Error::Metric(format!(
                    "no built-in metric is called {name:?}; there are {names}"
                )));
            }
        };
        match threshold {
            None => Ok(metric),
            Some(_) => Err(Error::Metric(format!(
                "{name} has no threshold, leave it out; BinaryAccuracy has one"
            ))),
        }
    }

    /// The score above which a binary metric sees class 1; None for the others.
    #[must_use]
    pub fn cut(&self) -> Option<f64> {
        match self {
            Self::BinaryAccuracy(metric) => Some(metric.cut()),
            _ => None,
        }
    }
}

impl Metric for Native {
    fn name(&self) -> &'static str {
        with_metric!(self, metric => metric.name())
    }

    #[inline]
    fn update(&mut self, preds: &View, target: &View) -> Result<Fit> {
        with_metric!(self, metric => metric.update(preds, target))
    }

    fn compute(&self) -> f64 {
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

fn unmergeable(one: &str, two: &str) -> Error {
    Error::Metric(format!(
        "{one} cannot take in the state of {two}; merge metrics of one kind and one threshold"
    ))
}

/// Hits among predictions. Counted as integers, so that the value is exact up to 2^53 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hits {
    hits: u64,
    count: u64,
}

impl Hits {
    fn ratio(self) -> f64 {
        self.hits as f64 / self.count as f64
    }

    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.count += other.count;
    }

    fn state(self) -> Vec<f64> {
        vec![self.hits as f64, self.count as f64]
    }

    fn from_state(name: &str, state: &[f64]) -> Result<Self> {
        let [hits, count] = parts(name, state)?;
        let (hits, count) = (whole(name, hits)?, whole(name, count)?);
        if hits > count {
            return Err(Error::Metric(format!(
                "the state of {name} holds {hits} hits among {count} predictions; it is no state \
                 of {name}"
            )));
        }
        Ok(Self { hits, count })
    }
}

/// The numbers of a state, when there are as many as there should be.
fn parts<const N: usize>(name: &str, state: &[f64]) -> Result<[f64; N]> {
    state.try_into().map_err(|_| {
        let got = state.len();
        Error::Metric(format!(
            "the state of {name} is {N} numbers, got {got}; pass what `state` returned"
        ))
    })
}

/// A count out of a state.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked in the line before
fn whole(name: &str, number: f64) -> Result<u64> {
    if (0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0 {
        return Ok(number as u64);
    }
    Err(Error::Metric(format!(
        "the state of {name} holds {number} where a count is due; pass what `state` returned"
    )))
}

/// Whether two shapes hold the same elements in the same order, size 1 left aside.
fn pair(name: &str, preds: &View, target: &View) -> Result<Fit> {
    if preds.shape() == target.shape() {
        return Ok(Fit::Exact);
    }
    let wide = |shape: &[i64]| {
        shape
            .iter()
            .copied()
            .filter(|&size| size != 1)
            .collect::<Vec<_>>()
    };
    if wide(preds.shape()) == wide(target.shape()) {
        return Ok(Fit::Squeezed);
    }
    let mend = if preds.numel() == target.numel() {
        "target.reshape(preds.shape) if their elements are in the same order"
    } else {
        "one target for each prediction"
    };
    Err(Error::Shape(format!(
        "{name} needs preds and target of one shape, got {} and {}; pass {mend}",
        tuple(preds.shape()),
        tuple(target.shape()),
    )))
}

/// Tensors for the tests of this folder.
#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]
pub(crate) mod testing {
    use super::{Data, View};
    use half::{bf16, f16};

    pub const DTYPES: [&str; 13] = [
        "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
        "uint16", "uint32", "uint64", "bool",
    ];

    enum Memory {
        F16(Vec<f16>),
        BF16(Vec<bf16>),
        F32(Vec<f32>),
        F64(Vec<f64>),
        I8(Vec<i8>),
        I16(Vec<i16>),
        I32(Vec<i32>),
        I64(Vec<i64>),
        U8(Vec<u8>),
        U16(Vec<u16>),
        U32(Vec<u32>),
        U64(Vec<u64>),
        Bool(Vec<u8>),
    }

    pub struct Tensor {
        memory: Memory,
        shape: Vec<i64>,
        strides: Vec<i64>,
    }

    impl Tensor {
        pub fn view(&self) -> View<'_> {
            let data = match &self.memory {
                Memory::F16(x) => Data::F16(x),
                Memory::BF16(x) => Data::BF16(x),
                Memory::F32(x) => Data::F32(x),
                Memory::F64(x) => Data::F64(x),
                Memory::I8(x) => Data::I8(x),
                Memory::I16(x) => Data::I16(x),
                Memory::I32(x) => Data::I32(x),
                Memory::I64(x) => Data::I64(x),
                Memory::U8(x) => Data::U8(x),
                Memory::U16(x) => Data::U16(x),
                Memory::U32(x) => Data::U32(x),
                Memory::U64(x) => Data::U64(x),
                Memory::Bool(x) => Data::Bool(x),
            };
            View::new(data, &self.shape, &self.strides).unwrap()
        }
    }

    /// Strides of a tensor whose dimensions lie in memory in the order of `order`, the last one
    /// innermost, with gaps where `step` is above 1.
    pub fn strides_of(shape: &[i64], order: &[usize], step: i64) -> Vec<i64> {
        let mut strides = vec![0; shape.len()];
        let mut width = step;
        for &dim in order.iter().rev().filter(|&&dim| dim < shape.len()) {
            strides[dim] = width;
            width *= shape[dim].max(1) * step;
        }
        strides
    }

    /// A tensor that holds `values` in logical order, and what is no part of it in the gaps.
    pub fn tensor(dtype: &str, shape: &[i64], strides: &[i64], values: &[f64]) -> Tensor {
        let reach = shape
            .iter()
            .zip(strides)
            .map(|(size, stride)| (size - 1) * stride);
        let extent = if values.is_empty() {
            0
        } else {
            1 + reach.sum::<i64>()
        };
        let mut memory = vec![99.0; extent as usize];
        for (flat, value) in values.iter().enumerate() {
            let (mut rest, mut offset) = (flat as i64, 0);
            for (size, stride) in shape.iter().zip(strides).rev() {
                offset += rest % size * stride;
                rest /= size;
            }
            memory[offset as usize] = *value;
        }
        macro_rules! cast {
            ($type:ty) => {
                memory.iter().map(|&x| x as $type).collect()
            };
        }
        let memory = match dtype {
            "float16" => Memory::F16(memory.iter().map(|&x| f16::from_f64(x)).collect()),
            "bfloat16" => Memory::BF16(memory.iter().map(|&x| bf16::from_f64(x)).collect()),
            "float32" => Memory::F32(cast!(f32)),
            "float64" => Memory::F64(memory),
            "int8" => Memory::I8(cast!(i8)),
            "int16" => Memory::I16(cast!(i16)),
            "int32" => Memory::I32(cast!(i32)),
            "int64" => Memory::I64(cast!(i64)),
            "uint8" => Memory::U8(cast!(u8)),
            "uint16" => Memory::U16(cast!(u16)),
            "uint32" => Memory::U32(cast!(u32)),
            "uint64" => Memory::U64(cast!(u64)),
            _ => Memory::Bool(cast!(u8)),
        };
        Tensor {
            memory,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        }
    }

    /// A contiguous tensor.
    pub fn plain(dtype: &str, shape: &[i64], values: &[f64]) -> Tensor {
        let order: Vec<_> = (0..shape.len()).collect();
        tensor(dtype, shape, &strides_of(shape, &order, 1), values)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::testing::{DTYPES, plain, strides_of, tensor};
    use super::*;
    use proptest::prelude::*;

    fn all() -> impl Iterator<Item = Native> {
        Native::NAMES
            .into_iter()
            .map(|name| Native::new(name, None).unwrap())
    }

    /// Shapes of predictions and targets for `n` samples, wide enough to take several blocks.
    fn shapes(metric: &Native, n: i64, inner: i64) -> (Vec<i64>, Vec<i64>) {
        match metric {
            Native::Accuracy(_) => (vec![n, 3, inner], vec![n, inner]),
            _ => (vec![n, inner], vec![n, inner]),
        }
    }

    fn numel(shape: &[i64]) -> usize {
        shape.iter().product::<i64>().try_into().unwrap()
    }

    #[test]
    fn each_name_makes_the_metric_of_that_name_empty() {
        for (metric, name) in all().zip(Native::NAMES) {
            assert_eq!(metric.name(), name);
            assert!(metric.compute().is_nan());
        }
        let error = Native::new("Acuracy", None).unwrap_err().to_string();
        assert!(
            error.contains("\"Acuracy\"") && error.contains("Accuracy, Binary"),
            "{error}"
        );
        let error = Native::new("MSE", Some(0.5)).unwrap_err().to_string();
        assert!(error.contains("MSE has no threshold"), "{error}");
    }

    #[test]
    fn batches_of_nothing_change_nothing() {
        for mut metric in all() {
            let (p, t) = shapes(&metric, 0, 2);
            let (p, t) = (plain("float32", &p, &[]), plain("int64", &t, &[]));
            assert_eq!(metric.update(&p.view(), &t.view()).unwrap(), Fit::Exact);
            assert!(metric.compute().is_nan());
        }
    }

    #[test]
    fn reset_forgets_and_a_copy_takes_back() {
        for mut metric in all() {
            let (p, t) = shapes(&metric, 2, 1);
            let scores = [0.1, 0.9, 0.4, 0.2, 0.3, 0.5];
            let p = plain("float32", &p, &scores[..numel(&p)]);
            let t = plain("int64", &t, &[1.0, 0.0]);
            let empty = metric;
            metric.update(&p.view(), &t.view()).unwrap();
            let before = metric;
            metric.update(&p.view(), &t.view()).unwrap();
            assert_ne!(metric, before);
            metric = before;
            assert_eq!(metric.state()[1], 2.0);
            metric.reset();
            assert_eq!(metric, empty);
        }
    }

    #[test]
    fn states_that_no_metric_wrote_are_refused() {
        for mut metric in all() {
            let before = metric;
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
        let mut accuracy = Native::new("Accuracy", None).unwrap();
        let error = accuracy.load(&[3.0, 2.0]).unwrap_err().to_string();
        assert!(error.contains("3 hits among 2"), "{error}");
    }

    #[test]
    fn only_metrics_of_one_kind_merge() {
        for (i, one) in all().enumerate() {
            for (j, two) in all().enumerate() {
                assert_eq!(
                    { one }.merge(&two).is_ok(),
                    i == j,
                    "{} {}",
                    one.name(),
                    two.name()
                );
            }
        }
        let mut half = Native::new("BinaryAccuracy", None).unwrap();
        let error = half
            .merge(&Native::new("BinaryAccuracy", Some(0.3)).unwrap())
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
            let mut expected = metric;
            let (p, t) = (
                plain("float32", &p_shape, &p_values),
                plain("int64", &t_shape, &t_values),
            );
            expected.update(&p.view(), &t.view()).unwrap();
            assert_eq!(expected.state()[1], t_values.len() as f64);
            for (p_dtype, t_dtype) in DTYPES.iter().flat_map(|p| DTYPES.map(|t| (*p, t))) {
                let (p, t) = (
                    plain(p_dtype, &p_shape, &p_values),
                    plain(t_dtype, &t_shape, &t_values),
                );
                let mut measured = metric;
                match measured.update(&p.view(), &t.view()) {
                    Ok(fit) => assert_eq!((fit, measured), (Fit::Exact, expected)),
                    Err(error) => {
                        assert!(matches!(metric, Native::Accuracy(_)), "{error}");
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
                    let ((p, t), mut part) = (shapes(&metric, to - from, 2), metric);
                    let (p_before, t_before) = shapes(&metric, from, 2);
                    let (i, j) = (numel(&p_before), numel(&t_before));
                    let (i2, j2) = (i + numel(&p), j + numel(&t));
                    let p = plain("float32", &p, &p_values[i..i2]);
                    let t = plain("uint8", &t, &t_values[j..j2]);
                    part.update(&p.view(), &t.view()).unwrap();
                    part
                };
                let (whole, at) = (of(0, n), i64::try_from(split.index(scores.len() / 6)).unwrap());
                let mut merged = of(0, at);
                merged.merge(&of(at, n)).unwrap();
                let mut added = of(at, n);
                added.add_state(&of(0, at).state()).unwrap();
                for part in [merged, added] {
                    prop_assert_eq!(part.state()[1], whole.state()[1]);
                    prop_assert!((part.compute() - whole.compute()).abs() < 1e-14);
                }
                let mut loaded = metric;
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
                let (mut copied, mut strided) = (metric, metric);
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
