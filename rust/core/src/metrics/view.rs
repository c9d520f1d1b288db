//! Tensors as the metrics see them: borrowed memory with a shape and strides, any dtype, no copy.

use crate::error::{Error, Result};
use half::{bf16, f16};

/// The elements of a tensor, from its first one to its last.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of a `float32`.
    BF16(&'a [bf16]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
    /// Signed, 8 bits.
    I8(&'a [i8]),
    /// Signed, 16 bits.
    I16(&'a [i16]),
    /// Signed, 32 bits.
    I32(&'a [i32]),
    /// Signed, 64 bits.
    I64(&'a [i64]),
    /// Unsigned, 8 bits.
    U8(&'a [u8]),
    /// Unsigned, 16 bits.
    U16(&'a [u16]),
    /// Unsigned, 32 bits.
    U32(&'a [u32]),
    /// Unsigned, 64 bits.
    U64(&'a [u64]),
    /// One byte each, 0 or 1.
    Bool(&'a [u8]),
}

/// Runs the body with the typed slice of any dtype, so that its loops are compiled for each one.
macro_rules! with_slice {
    ($data:expr, $slice:ident => $body:expr) => {
        match $data {
            $crate::metrics::view::Data::F16($slice) => $body,
            $crate::metrics::view::Data::BF16($slice) => $body,
            $crate::metrics::view::Data::F32($slice) => $body,
            $crate::metrics::view::Data::F64($slice) => $body,
            $crate::metrics::view::Data::I8($slice) => $body,
            $crate::metrics::view::Data::I16($slice) => $body,
            $crate::metrics::view::Data::I32($slice) => $body,
            $crate::metrics::view::Data::I64($slice) => $body,
            $crate::metrics::view::Data::U16($slice) => $body,
            $crate::metrics::view::Data::U32($slice) => $body,
            $crate::metrics::view::Data::U64($slice) => $body,
            $crate::metrics::view::Data::U8($slice) | $crate::metrics::view::Data::Bool($slice) => {
                $body
            }
        }
    };
}
pub(crate) use with_slice;

impl Data<'_> {
    /// The dtype as torch spells it, without `torch.`.
    #[must_use]
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F16(_) => "float16",
            Self::BF16(_) => "bfloat16",
            Self::F32(_) => "float32",
            Self::F64(_) => "float64",
            Self::I8(_) => "int8",
            Self::I16(_) => "int16",
            Self::I32(_) => "int32",
            Self::I64(_) => "int64",
            Self::U8(_) => "uint8",
            Self::U16(_) => "uint16",
            Self::U32(_) => "uint32",
            Self::U64(_) => "uint64",
            Self::Bool(_) => "bool",
        }
    }

    /// True if the dtype is a floating-point one.
    #[must_use]
    pub fn is_float(&self) -> bool {
        matches!(
            self,
            Self::F16(_) | Self::BF16(_) | Self::F32(_) | Self::F64(_)
        )
    }

    fn len(&self) -> usize {
        with_slice!(self, slice => slice.len())
    }
}

/// A number in a tensor, as the metrics ask it.
pub(crate) trait Element: Copy + std::fmt::Display {
    /// A type of the same order that the processor compares by itself.
    type Key: Copy + Default + PartialOrd;

    fn key(self) -> Self::Key;
    fn to_f64(self) -> f64;
    /// The number as a class; what does not fit lands outside of any range of classes.
    fn to_class(self) -> i64;
    /// `value` as a tensor of this dtype would hold it: torch compares a tensor with a number so.
    fn round(value: f64) -> f64;
}

macro_rules! element {
    ($type:ty, $key:ty, $to_key:expr, $round:expr) => {
        // The casts say what `to_class` promises, and 64-bit integers have no lossless f64.
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        #[allow(clippy::cast_lossless)]
        impl Element for $type {
            type Key = $key;
            #[inline]
            fn key(self) -> $key {
                let to_key: fn($type) -> $key = $to_key;
                to_key(self)
            }
            #[inline]
            fn to_f64(self) -> f64 {
                self.key() as f64
            }
            #[inline]
            fn to_class(self) -> i64 {
                self.key() as i64
            }
            fn round(value: f64) -> f64 {
                let round: fn(f64) -> f64 = $round;
                round(value)
            }
        }
    };
    ($($integer:ty)*) => {$(element!($integer, $integer, |x| x, |value| value);)*};
}

element!(f64, f64, |x| x, |value| value);
element!(f32, f32, |x| x, |value| value as f32 as f64);
element!(f16, f32, half_key, |value| f16::from_f32(value as f32)
    .to_f64());
element!(
    bf16,
    f32,
    |x| f32::from_bits(u32::from(x.to_bits()) << 16),
    |value| { bf16::from_f32(value as f32).to_f64() }
);
element!(i8 i16 i32 i64 u8 u16 u32 u64);

/// A `float16` as `float32`. Without branches and calls, so that loops over it become SIMD code.
#[inline]
fn half_key(x: f16) -> f32 {
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23); // 2^112, the difference of the biases
    let bits = u32::from(x.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000; // infinite or NaN
    let result = if magnitude >= 0x0f80_0000 {
        special
    } else {
        finite
    };
    f32::from_bits(result | (bits & 0x8000) << 16)
}

/// A tensor in memory that the metrics may read but do not own.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: Data<'a>,
    shape: &'a [i64],
    strides: &'a [i64],
    numel: usize,
}

impl<'a> View<'a> {
    /// A view of `data`, which begins at the tensor's first element. Strides count elements.
    ///
    /// Fails with [`Error::Shape`] unless shape and strides reach from the first element of `data`
    /// to the last, and all strides are 0 or more. Nothing that reads a view can leave its memory
    /// after this.
    pub fn new(data: Data<'a>, shape: &'a [i64], strides: &'a [i64]) -> Result<Self> {
        let reach = Reach::of(shape, strides);
        reach
            .and_then(|reach| Self::within(data, reach))
            .ok_or_else(|| {
                Error::Shape(format!(
                    "a tensor of shape {} and strides {} does not span the {} elements of its \
                     memory; pass tensor.contiguous()",
                    tuple(shape),
                    tuple(strides),
                    data.len(),
                ))
            })
    }

    /// The same where it has been counted how far shape and strides reach; `None` where `data` is not
    /// just as long.
    #[must_use]
    #[inline]
    pub fn within(data: Data<'a>, reach: Reach<'a>) -> Option<Self> {
        (reach.extent == data.len()).then_some(Self {
            data,
            shape: reach.shape,
            strides: reach.strides,
            numel: reach.numel,
        })
    }

    /// The elements, from the first to the last that shape and strides reach.
    #[must_use]
    pub fn data(&self) -> Data<'a> {
        self.data
    }

    /// The size of each dimension.
    #[must_use]
    pub fn shape(&self) -> &'a [i64] {
        self.shape
    }

    /// How many elements of memory lie between neighbors, for each dimension.
    #[must_use]
    pub fn strides(&self) -> &'a [i64] {
        self.strides
    }

    /// The number of dimensions.
    #[must_use]
    pub fn ndim(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// True if the elements lie one after another in memory, in logical order.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.dims().rev().filter(|dim| dim.size != 1).all(|dim| {
            let fits = dim.stride == expected;
            expected *= dim.size;
            fits
        }) || self.numel == 0
    }

    /// The value of a tensor that has exactly one element, whatever its number of dimensions.
    #[must_use]
    pub fn item(&self) -> Option<f64> {
        (self.numel == 1).then(|| with_slice!(self.data, slice => slice[0].to_f64()))
    }

    /// The element at `index` of the flattened tensor as text, for messages.
    pub(crate) fn text(&self, index: usize) -> String {
        let mut rest = index;
        let mut offset = 0;
        for dim in self.dims().rev() {
            offset += rest % dim.size.max(1) * dim.stride;
            rest /= dim.size.max(1);
        }
        with_slice!(self.data, slice => slice[offset].to_string())
    }

    pub(crate) fn dims(&self) -> impl DoubleEndedIterator<Item = Dim> + use<'a> {
        let pairs = self.shape.iter().zip(self.strides);
        // `new` has seen that they all fit.
        let size = |&x| usize::try_from(x).unwrap_or_default();
        pairs.map(move |(s, t)| Dim {
            size: size(s),
            stride: size(t),
        })
    }

    /// The memory itself where it is in logical order.
    pub(crate) fn flat(&self) -> Option<Data<'a>> {
        self.is_contiguous().then_some(self.data)
    }
}

/// How far a shape and its strides reach from the first element.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    shape: &'a [i64],
    strides: &'a [i64],
    numel: usize,
    extent: usize,
}

impl<'a> Reach<'a> {
    /// Counts it; `None` where a stride is negative, the two do not fit, or a number overflows.
    #[must_use]
    #[inline]
    pub fn of(shape: &'a [i64], strides: &'a [i64]) -> Option<Self> {
        if shape.len() != strides.len() {
            return None;
        }
        let mut numel = 1_usize;
        let mut last = 0_usize;
        let mut empty = false;
        for (&size, &stride) in shape.iter().zip(strides) {
            let size = usize::try_from(size).ok()?;
            let stride = usize::try_from(stride).ok()?;
            empty |= size == 0;
            numel = numel.checked_mul(size.max(1))?;
            last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
        }
        let (numel, extent) = if empty {
            (0, 0)
        } else {
            (numel, last.checked_add(1)?)
        };
        Some(Self {
            shape,
            strides,
            numel,
            extent,
        })
    }

    /// How many elements of memory lie from the first to the last.
    #[must_use]
    pub fn extent(&self) -> usize {
        self.extent
    }
}

/// A shape as Python prints it.
pub(crate) fn tuple(shape: &[i64]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!(
            "({})",
            shape
                .iter()
                .map(i64::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// One dimension: its size, and the distance of neighbors in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dim {
    pub size: usize,
    pub stride: usize,
}

/// Elements at `offset`, `offset + stride`, ...
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub offset: usize,
    pub len: usize,
    pub stride: usize,
}

/// Goes through dimensions in logical order, in runs that are as long as strides allow.
pub(crate) struct Walk {
    inner: Dim,
    /// The dimensions around `inner`, from the inside out, each with its current index.
    /// Stays empty, and so allocates nothing, where one run reaches everything.
    outer: Vec<(Dim, usize)>,
    offset: usize,
    at: usize,
}

impl Walk {
    pub fn new(dims: impl DoubleEndedIterator<Item = Dim>) -> Self {
        let mut walk = Self {
            inner: Dim { size: 1, stride: 1 },
            outer: Vec::new(),
            offset: 0,
            at: 0,
        };
        for dim in dims.rev().filter(|dim| dim.size != 1) {
            if dim.size == 0 {
                return Self {
                    inner: dim,
                    outer: Vec::new(),
                    offset: 0,
                    at: 0,
                };
            }
            let widest = walk
                .outer
                .last_mut()
                .map_or(&mut walk.inner, |(dim, _)| dim);
            if widest.size == 1 {
                *widest = dim;
            } else if dim.stride == widest.stride * widest.size {
                widest.size *= dim.size;
            } else {
                walk.outer.push((dim, 0));
            }
        }
        walk
    }

    /// The next run, of at most `limit` elements; None when there is none left.
    #[inline]
    pub fn next_run(&mut self, limit: usize) -> Option<Run> {
        if self.at == self.inner.size && !self.turn() {
            return None;
        }
        let Dim { size, stride } = self.inner;
        let len = limit.min(size - self.at);
        let run = Run {
            offset: self.offset + self.at * stride,
            len,
            stride,
        };
        self.at += len;
        Some(run)
    }

    /// Steps to the next place of the outer dimensions. False at the end.
    fn turn(&mut self) -> bool {
        for (dim, index) in &mut self.outer {
            if *index + 1 < dim.size {
                *index += 1;
                self.offset += dim.stride;
                self.at = 0;
                return true;
            }
            self.offset -= *index * dim.stride;
            *index = 0;
        }
        false
    }
}

/// Reads the elements of a view in logical order, converted, as many at a time as one asks for.
pub(crate) struct Reader<'a> {
    data: Data<'a>,
    walk: Walk,
}

impl<'a> Reader<'a> {
    pub fn new(view: &View<'a>) -> Self {
        Self {
            data: view.data,
            walk: Walk::new(view.dims()),
        }
    }

    /// Reads the scores of one class, of a view of shape (n, classes, ...).
    pub fn of_class(view: &View<'a>, class: usize) -> Self {
        let mut dims = view.dims();
        let (first, classes) = (dims.next(), dims.next());
        let mut walk = Walk::new(first.into_iter().chain(dims));
        walk.offset = class * classes.map_or(0, |dim| dim.stride);
        Self {
            data: view.data,
            walk,
        }
    }

    /// Fills `out` with the next elements.
    pub fn floats(&mut self, out: &mut [f64]) {
        with_slice!(self.data, slice => fill(slice, &mut self.walk, out, Element::to_f64));
    }

    /// Fills `out` with the next elements, taken as classes.
    pub fn classes(&mut self, out: &mut [i64]) {
        with_slice!(self.data, slice => fill(slice, &mut self.walk, out, Element::to_class));
    }
}

fn fill<T: Copy, U>(data: &[T], walk: &mut Walk, mut out: &mut [U], convert: impl Fn(T) -> U) {
    while !out.is_empty()
        && let Some(run) = walk.next_run(out.len())
    {
        let (now, later) = out.split_at_mut(run.len);
        let from = &data[run.offset..];
        if run.stride == 1 {
            now.iter_mut()
                .zip(from)
                .for_each(|(to, &x)| *to = convert(x));
        } else {
            now.iter_mut()
                .enumerate()
                .for_each(|(k, to)| *to = convert(from[k * run.stride]));
        }
        out = later;
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::testing::{strides_of, tensor};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_that_does_not_hold_the_tensor_is_refused() {
        let data = Data::F32(&[0.0; 5]);
        assert!(View::new(data, &[2, 3], &[2, 1]).is_ok());
        let refused: [(&[i64], &[i64]); 6] = [
            (&[4], &[1]),
            (&[2, 3], &[3, 1]),
            (&[2], &[-1]),
            (&[-1], &[1]),
            (&[2, 2], &[1]),
            (&[i64::MAX, i64::MAX], &[i64::MAX, 1]),
        ];
        for (shape, strides) in refused {
            let error = View::new(data, shape, strides).unwrap_err();
            assert!(matches!(error, Error::Shape(_)));
            assert!(error.to_string().contains("the 5 elements"), "{error}");
            assert!(
                error.to_string().ends_with("pass tensor.contiguous()"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_tensor_needs_no_memory() {
        let view = View::new(Data::I64(&[]), &[3, 0], &[7, 1]).unwrap();
        assert_eq!(
            (view.numel(), view.ndim(), view.is_contiguous()),
            (0, 2, true)
        );
        assert!(Walk::new(view.dims()).next_run(9).is_none());
    }

    #[test]
    fn only_a_single_element_is_an_item() {
        let item =
            |data, shape, strides| View::new(Data::F32(data), shape, strides).unwrap().item();
        assert_eq!(item(&[2.5], &[], &[]), Some(2.5));
        assert_eq!(item(&[2.5], &[1, 1], &[9, 9]), Some(2.5));
        assert_eq!(item(&[2.5, 3.0], &[2], &[1]), None);
        assert_eq!(item(&[], &[0], &[1]), None);
    }

    #[test]
    fn an_expanded_tensor_repeats_its_memory() {
        let view = View::new(Data::I8(&[7, 8]), &[3, 2], &[0, 1]).unwrap();
        let mut out = [0.0; 6];
        Reader::new(&view).floats(&mut out);
        assert_eq!(out, [7.0, 8.0, 7.0, 8.0, 7.0, 8.0]);
        assert!(!view.is_contiguous());
        assert_eq!(view.text(3), "8");
    }

    #[test]
    fn every_half_becomes_the_number_it_is() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (ours, theirs) in [(half.key(), half.to_f32()), (brain.key(), brain.to_f32())] {
                assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            }
        }
    }

    #[test]
    fn shapes_read_as_in_python() {
        assert_eq!(
            [tuple(&[]), tuple(&[3]), tuple(&[3, 4])],
            ["()", "(3,)", "(3, 4)"]
        );
    }

    proptest! {
        #[test]
        fn elements_come_in_logical_order_whatever_the_strides(
            shape in prop::collection::vec(0..4_i64, 0..5),
            order in Just((0..5_usize).collect::<Vec<_>>()).prop_shuffle(),
            step in 1..3_i64,
            block in 1..7_usize,
        ) {
            let count = shape.iter().product::<i64>();
            let values: Vec<f64> = (0..count).map(|x| x as f64).collect();
            let strides = strides_of(&shape, &order, step);
            let tensor = tensor("int32", &shape, &strides, &values);
            let view = tensor.view();
            let mut reader = Reader::new(&view);
            let mut seen = vec![-1.0; values.len()];
            seen.chunks_mut(block).for_each(|part| reader.floats(part));
            prop_assert_eq!(&seen, &values);
            let texts: Vec<_> = (0..values.len()).map(|k| view.text(k)).collect();
            prop_assert_eq!(texts, values.iter().map(f64::to_string).collect::<Vec<_>>());
        }
    }
}
