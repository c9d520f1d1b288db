//! The area under the receiver operating characteristic.

mod bins;
mod checks;
mod curve;
mod ranks;
#[cfg(test)]
mod tests;

use super::binary::no_class;
use super::form::pair;
use super::view::Reader;
use super::{Average, BLOCK, Batch, Data, Form, Metric, Options, View, room, unmergeable, whole};
use crate::error::{Error, Result};
use crate::records::Value;
pub use bins::MOST_THRESHOLDS;
use bins::Thresholds;
use curve::Curve;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Binary,
    Multiclass(Average),
}

/// The area under the receiver operating characteristic, for two classes or for each against the
/// rest.
///
/// Exact unless there are thresholds: the share of pairs of a positive and a negative in which the
/// positive has the higher score, where equal scores count half. Every score is kept for that, in 8
/// bytes or less. With thresholds it is the area under straight lines between the points of these.
/// Where a score is NaN, so is the value. Where a class has no positives or no negatives its area is NaN,
/// and is left out of an average.
///
/// Source: scikit-learn, `roc_auc_score`; torchmetrics, `AUROC(thresholds=...)`.
#[derive(Clone, Debug)]
pub struct Auroc {
    task: Task,
    logits: bool,
    thresholds: Option<Thresholds>,
    /// How many scores a sample has; 0 before the first one.
    classes: usize,
    curves: Vec<Curve>,
}

impl Auroc {
    /// For one score a sample, that of class 1.
    pub fn binary(options: &mut Options) -> Result<Self> {
        Self::build(Task::Binary, options)
    }

    /// For a score of each class.
    pub fn multiclass(options: &mut Options) -> Result<Self> {
        let average = Average::take(options)?;
        Self::build(Task::Multiclass(average), options)
    }

    fn build(task: Task, options: &mut Options) -> Result<Self> {
        let name = name_of(task);
        let count = options.number("num_thresholds")?;
        let given = options.numbers("thresholds")?;
        let thresholds = match (count, given) {
            (None, None) => None,
            (Some(count), None) => Some(Thresholds::evenly(name, count)?),
            (None, Some(given)) => Some(Thresholds::new(name, given)?),
            (Some(count), Some(_)) => {
                return Err(Error::Metric(format!(
                    "{name} takes num_thresholds or thresholds, got both; leave out \
                     num_thresholds={count}"
                )));
            }
        };
        let logits = options.flag("from_logits")?.unwrap_or(false);
        let mut metric = Self {
            task,
            logits,
            thresholds,
            classes: 0,
            curves: Vec::new(),
        };
        metric.reset();
        Ok(metric)
    }

    /// A remark on the value: that there is none, or not of every class, or that the
    /// thresholds end before the scores do. `None` where there is nothing to say.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        self.unordered()
            .or_else(|| self.undefined())
            .or_else(|| self.cut_off())
    }

    fn unordered(&self) -> Option<String> {
        self.curves.iter().any(Curve::any_nan).then(|| {
            format!(
                "{} is NaN: there are NaN among the scores, and they have no order. Is the model's \
                 output finite? `torch.isfinite(preds).all()` tells.",
                self.name()
            )
        })
    }

    fn cut_off(&self) -> Option<String> {
        let lowest = self.thresholds()?.first()?;
        let below = |curve: &Curve| matches!(curve, Curve::Binned(bins) if bins.any_below());
        self.curves.iter().any(below).then(|| {
            let name = self.name();
            format!(
                "{name} is too small: there are scores below {lowest}, the lowest threshold, where \
                 its curve ends. If preds are logits, {name}(..., from_logits=True); else give \
                 thresholds that reach lower."
            )
        })
    }

    fn undefined(&self) -> Option<String> {
        let counts: Vec<_> = self.curves.iter().map(Curve::counts).collect();
        if counts.iter().all(|&counts| counts == [0, 0]) {
            return None;
        }
        if let (Task::Binary, [[positives, _]]) = (self.task, &*counts) {
            let only = u8::from(*positives > 0);
            return counts[0].contains(&0).then(|| {
                format!(
                    "BinaryAUROC is NaN: of the targets so far each is {only}, and an area takes \
                     both classes. Is the data shuffled, and are there both in it?"
                )
            });
        }
        let classes = |group: usize| {
            let lacking = (0..counts.len()).filter(|&class| counts[class][group] == 0);
            lacking.map(|class| class.to_string()).collect::<Vec<_>>()
        };
        let (absent, alone) = (classes(0), classes(1));
        if absent.is_empty() && alone.is_empty() {
            return None;
        }
        let outcome = match self.task {
            _ if !alone.is_empty() => "is NaN",
            Task::Multiclass(Average::None) => "is NaN for them",
            _ => "is the mean without them",
        };
        let why = match &*alone {
            [class, ..] => format!("of the targets so far each is {class}"),
            [] => format!("no target so far is of class {}", shortened(&absent)),
        };
        Some(format!(
            "MulticlassAUROC {outcome}: {why}, and the area of a class takes targets that are it \
             and targets that are not. Is the data shuffled, and are all classes in it?"
        ))
    }

    /// The thresholds, as the scores of torch's road meet them; none for the exact value.
    #[must_use]
    pub fn thresholds(&self) -> Option<&[f64]> {
        self.thresholds.as_ref().map(Thresholds::wide)
    }

    fn update_binary(&mut self, preds: &View, target: &View) -> Result<()> {
        let (mut scores, mut classes) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut targets = Reader::new(target);
        for from in (0..target.numel()).step_by(BLOCK) {
            let classes = &mut classes[..BLOCK.min(target.numel() - from)];
            targets.floats(classes);
            if let Some(at) = classes.iter().position(|x| ![0.0, 1.0].contains(x)) {
                return Err(no_class(self.name(), "MulticlassAUROC", from + at, target));
            }
        }
        let wide = is_wide(preds);
        let probabilities = self.logits && self.thresholds.is_some();
        let (mut preds, mut targets) = (Reader::new(preds), Reader::new(target));
        for curve in &mut self.curves {
            curve.begin(wide);
            for from in (0..target.numel()).step_by(BLOCK) {
                let len = BLOCK.min(target.numel() - from);
                let (scores, classes) = (&mut scores[..len], &mut classes[..len]);
                preds.floats(scores);
                targets.floats(classes);
                if probabilities {
                    for x in &mut *scores {
                        *x = rounded(1.0 / (1.0 + (-*x).exp()), wide);
                    }
                }
                let mut labels = [false; BLOCK];
                labels
                    .iter_mut()
                    .zip(classes)
                    .for_each(|(label, x)| *label = *x > 0.5);
                curve.extend(scores, &labels[..len], self.thresholds.as_ref());
            }
        }
        Ok(())
    }

    fn update_multiclass(&mut self, classes: usize, preds: &View, target: &View) -> Result<()> {
        let wanted = checks::read(self.name(), classes, preds, target)?;
        // The largest of all that is made for each class: where it fits, so do the others.
        let (mut scores, mut labels) = (Vec::new(), [false; BLOCK]);
        room(self.name(), &mut scores, classes.saturating_mul(BLOCK), 0.0)?;
        if self.classes == 0 {
            self.classes = classes;
            self.curves = self.empty();
        }
        let wide = is_wide(preds);
        self.curves.iter_mut().for_each(|curve| curve.begin(wide));
        // Of one curve for all classes, or of one for each.
        let last = self.curves.len().saturating_sub(1);
        let of_class = |class| Reader::of_class(preds, class);
        let mut columns: Vec<_> = (0..classes).map(of_class).collect();
        for wanted in wanted.chunks(BLOCK) {
            let (len, labels) = (wanted.len(), &mut labels[..wanted.len()]);
            for (column, scores) in columns.iter_mut().zip(scores.chunks_mut(BLOCK)) {
                column.floats(&mut scores[..len]);
            }
            if self.logits {
                // The logarithm has the same order, and does not round to 1 as a probability does.
                let log = self.thresholds.is_none();
                softmax(&mut scores, len, log, |x| rounded(x, wide));
            }
            for (class, scores) in scores.chunks(BLOCK).enumerate() {
                let pairs = labels.iter_mut().zip(wanted);
                pairs.for_each(|(label, &wanted)| *label = wanted as usize == class);
                let curve = &mut self.curves[class.min(last)];
                curve.extend(&scores[..len], labels, self.thresholds.as_ref());
            }
        }
        Ok(())
    }

    /// A metric with the same options that has seen these.
    fn with(&self, classes: usize, curves: Vec<Curve>) -> Self {
        Self {
            task: self.task,
            logits: self.logits,
            thresholds: self.thresholds.clone(),
            classes,
            curves,
        }
    }

    fn curves_of(&self, classes: usize) -> usize {
        match self.task {
            Task::Binary => 1,
            Task::Multiclass(Average::Micro) => classes.min(1),
            Task::Multiclass(_) => classes,
        }
    }

    /// The curves of as many classes as there are, with nothing counted.
    fn empty(&self) -> Vec<Curve> {
        vec![Curve::new(self.thresholds.as_ref()); self.curves_of(self.classes)]
    }

    /// How many targets it has seen.
    fn count(&self) -> usize {
        let counts = self.curves.iter().flat_map(Curve::counts);
        counts.sum::<usize>() / self.classes.max(1)
    }

    /// A description, for a message about two that differ.
    fn described(&self) -> String {
        let average = match self.task {
            Task::Binary => String::new(),
            Task::Multiclass(average) => format!("{average:?} average of "),
        };
        let classes = match self.classes {
            0 => "any number of".into(),
            classes => classes.to_string(),
        };
        let count = self.thresholds.as_ref().map_or(0, Thresholds::count);
        let logits = if self.logits { "logits" } else { "scores" };
        format!(
            "{} ({average}{classes} classes, {logits}, {count} thresholds)",
            self.name()
        )
    }
}

fn name_of(task: Task) -> &'static str {
    match task {
        Task::Binary => "BinaryAUROC",
        Task::Multiclass(_) => "MulticlassAUROC",
    }
}

impl Metric for Auroc {
    fn name(&self) -> &'static str {
        name_of(self.task)
    }

    fn check(&self, preds: &Form, target: &Form, known: usize) -> Result<Batch> {
        match self.task {
            Task::Binary => pair(self.name(), preds, target).map(Batch::of_any_width),
            Task::Multiclass(_) => checks::shapes(self.name(), known, preds, target),
        }
    }

    fn width(&self) -> usize {
        self.classes
    }

    fn feed(&mut self, width: usize, preds: &View, target: &View) -> Result<()> {
        match self.task {
            Task::Binary => self.update_binary(preds, target),
            Task::Multiclass(_) => self.update_multiclass(width, preds, target),
        }
    }

    fn retract(&mut self) {
        self.curves.iter_mut().for_each(Curve::retract);
        // A first batch tells the number of classes, and takes it with it.
        if self.curves.iter().all(|curve| curve.counts() == [0, 0]) {
            self.reset();
        }
    }

    fn compute(&mut self) -> Value {
        let values: Vec<_> = self.curves.iter_mut().map(Curve::value).collect();
        let mean = |weight: fn([usize; 2]) -> f64| {
            let counts = self.curves.iter().map(Curve::counts);
            // A class without an area is left out; one of which a score is NaN is not.
            let defined = values
                .iter()
                .zip(counts)
                .filter(|(_, counts)| !counts.contains(&0))
                .map(|(value, counts)| (value, weight(counts)));
            let sum = |(sum, total), (value, weight)| (sum + value * weight, total + weight);
            let (sum, total) = defined.fold((0.0, 0.0), sum);
            Value::Number(sum / total)
        };
        match self.task {
            Task::Multiclass(Average::None) if self.classes > 0 => Value::Array {
                shape: vec![values.len()],
                data: values,
            },
            Task::Multiclass(Average::Weighted) => mean(|[positives, _]| positives as f64),
            _ => mean(|_| 1.0),
        }
    }

    fn reset(&mut self) {
        self.classes = 0;
        self.curves = self.empty();
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        let alike = (self.task, self.logits) == (other.task, other.logits)
            && self.thresholds == other.thresholds;
        let sizes = [0, self.classes].contains(&other.classes) || self.classes == 0;
        if !(alike && sizes) {
            return Err(unmergeable(&self.described(), &other.described()));
        }
        if self.classes == 0 && other.classes != 0 {
            self.classes = other.classes;
            self.curves = self.empty();
        }
        for (curve, other) in self.curves.iter_mut().zip(&other.curves) {
            curve.merge(other);
        }
        Ok(())
    }

    /// The number of classes, the number of targets, then each curve: how many are positives and how
    /// many negatives and their scores, or with thresholds how many are in each bin, negatives first.
    fn state(&self) -> Vec<f64> {
        let mut state = vec![self.classes as f64, self.count() as f64];
        self.curves.iter().for_each(|curve| curve.write(&mut state));
        state
    }

    fn load(&mut self, state: &[f64]) -> Result<()> {
        let name = self.name();
        let bad = || {
            Error::Metric(format!(
                "the state of {name} is a number of classes, a count and its curves, got {} numbers \
                 that are not; pass what `state` returned to a metric with the same options",
                state.len()
            ))
        };
        let ([classes, count], mut rest) = state.split_first_chunk().ok_or_else(bad)?;
        let (classes, count) = (whole(name, *classes)?, whole(name, *count)?);
        let classes = usize::try_from(classes).map_err(|_| bad())?;
        let mut curves = Vec::new();
        for _ in 0..self.curves_of(classes) {
            let counted = |number| whole(name, number).ok();
            let curve;
            (curve, rest) = Curve::read(rest, self.thresholds.as_ref(), counted).ok_or_else(bad)?;
            curves.push(curve);
        }
        let loaded = self.with(classes, curves);
        let alone = self.task == Task::Binary && classes > 0;
        if alone || !rest.is_empty() || loaded.count() as u64 != count {
            return Err(bad());
        }
        *self = loaded;
        Ok(())
    }

    /// Without the copy of what is there that the metric would be loaded over.
    fn add_state(&mut self, state: &[f64]) -> Result<()> {
        let mut other = self.with(0, Vec::new());
        other.load(state)?;
        self.merge(&other)
    }
}

/// Equal when they have seen the same.
impl PartialEq for Auroc {
    fn eq(&self, other: &Self) -> bool {
        (self.task, self.logits) == (other.task, other.logits)
            && self.thresholds == other.thresholds
            && self.classes == other.classes
            && self.curves == other.curves
    }
}

/// True if the dtype has numbers that a `float32` has not.
fn is_wide(preds: &View) -> bool {
    matches!(
        preds.data(),
        Data::F64(_) | Data::I32(_) | Data::I64(_) | Data::U32(_) | Data::U64(_)
    )
}

/// A probability as the dtype of the scores would hold it.
#[allow(clippy::cast_possible_truncation)] // that is the point
fn rounded(x: f64, wide: bool) -> f64 {
    if wide { x } else { f64::from(x as f32) }
}

/// The softmax over classes, or its logarithm, of `len` positions. The scores of a class lie `BLOCK`
/// apart from those of the next. A row with NaN becomes NaN.
fn softmax(scores: &mut [f64], len: usize, log: bool, round: impl Fn(f64) -> f64) {
    let (mut top, mut sum) = ([f64::NEG_INFINITY; BLOCK], [0.0; BLOCK]);
    for scores in scores.chunks(BLOCK) {
        let pairs = top.iter_mut().zip(&scores[..len]);
        pairs.for_each(|(top, &x)| *top = x.max(*top));
    }
    for scores in scores.chunks_mut(BLOCK) {
        for ((x, top), sum) in scores[..len].iter_mut().zip(&top).zip(&mut sum) {
            // At once, so that equal differences of logits leave equal numbers.
            *x -= top;
            *sum += x.exp();
        }
    }
    sum = sum.map(f64::ln);
    for scores in scores.chunks_mut(BLOCK) {
        for (x, sum) in scores[..len].iter_mut().zip(&sum) {
            *x = round(if log { *x - sum } else { (*x - sum).exp() });
        }
    }
}

/// Some of many numbers, as text.
fn shortened(numbers: &[String]) -> String {
    const SHOWN: usize = 5;
    match numbers.split_at_checked(SHOWN) {
        Some((shown, rest)) if rest.len() > 1 => {
            format!("{} or {} others", shown.join(", "), rest.len())
        }
        _ => numbers.join(" or "),
    }
}
