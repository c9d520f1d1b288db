//! Tensors of the batch under way, read where they lie.

use std::fmt;
use std::marker::PhantomData;

use crate::error::Result;
use crate::layout::{self, slice};

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $bits:literal, $name:literal;)+) => {
        /// The type of a tensor's elements. Those of `Bool` are bytes of 0 or 1.
        ///
        /// ```
        /// use lumbre_abi::DType;
        ///
        /// assert_eq!(DType::Bf16.name(), "bfloat16");
        /// assert_eq!(DType::F32.to_string(), "float32");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DType { $(#[doc = concat!("`torch.", $name, "`")] $variant),+ }

        impl DType {
            fn of(code: u8, bits: u8) -> Option<Self> {
                match (code, bits) {
                    $(($code, $bits) => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// `DLPack`'s numbers for it: the code of the type, and its bits.
            #[must_use]
            pub const fn code_and_bits(self) -> (u8, u8) {
                match self { $(Self::$variant => ($code, $bits)),+ }
            }

            /// Its name in torch, such as `float32`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

dtypes! {
    Bool = 6, 8, "bool";
    U8 = 1, 8, "uint8";
    U16 = 1, 16, "uint16";
    U32 = 1, 32, "uint32";
    U64 = 1, 64, "uint64";
    I8 = 0, 8, "int8";
    I16 = 0, 16, "int16";
    I32 = 0, 32, "int32";
    I64 = 0, 64, "int64";
    F16 = 2, 16, "float16";
    Bf16 = 4, 16, "bfloat16";
    F32 = 2, 32, "float32";
    F64 = 2, 64, "float64";
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An element of a `torch.float16` tensor.
///
/// ```
/// assert_eq!(lumbre_abi::F16(0x3E00).to_f32(), 1.5);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

impl F16 {
    /// Its value, exactly.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        let sign = u32::from(self.0 & 0x8000) << 16;
        let exponent = u32::from(self.0 >> 10 & 0x1F);
        let fraction = u32::from(self.0 & 0x03FF);
        if exponent == 0 {
            // Below the normal numbers: a count of 2^-24.
            let size = f32::from(self.0 & 0x03FF) * (1.0 / 16_777_216.0);
            return f32::from_bits(size.to_bits() | sign);
        }
        let exponent = if exponent == 0x1F {
            0xFF
        } else {
            exponent + 112
        };
        f32::from_bits(sign | exponent << 23 | fraction << 13)
    }
}

/// An element of a `torch.bfloat16` tensor: the upper half of an `f32`.
///
/// ```
/// assert_eq!(lumbre_abi::Bf16(0x3FC0).to_f32(), 1.5);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Its value, exactly.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type that a tensor's elements can be read as. `u8` reads `torch.bool` too.
pub trait Element: Copy + sealed::Sealed + 'static {
    /// The type in torch.
    const DTYPE: DType;

    /// Its value as a number. Of 64-bit integers beyond 2^53 the last digits are lost.
    fn to_f64(self) -> f64;
}

macro_rules! elements {
    ($($type:ty, $dtype:ident, |$value:ident| $number:expr;)+) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DTYPE: DType = DType::$dtype;
                #[inline]
                fn to_f64(self) -> f64 {
                    let $value = self;
                    $number
                }
            }
        )+

        /// A tensor of a type that is known when the program runs.
        macro_rules! by_dtype {
            ($tensor:expr, $view:ident => $with:expr) => {
                match $tensor.dtype() {
                    DType::Bool => { let $view = $tensor.view::<u8>(); $with }
                    $(DType::$dtype => { let $view = $tensor.view::<$type>(); $with })+
                }
            };
        }
    };
}

elements! {
    u8, U8, |value| value.into();
    u16, U16, |value| value.into();
    u32, U32, |value| value.into();
    u64, U64, |value| value as f64;
    i8, I8, |value| value.into();
    i16, I16, |value| value.into();
    i32, I32, |value| value.into();
    i64, I64, |value| value as f64;
    F16, F16, |value| value.to_f32().into();
    Bf16, Bf16, |value| value.to_f32().into();
    f32, F32, |value| value.into();
    f64, F64, |value| value;
}

/// A tensor of the batch, lent by the run: the memory that torch itself uses, nothing is copied.
///
/// [`Tensor::for_each`] reads any dtype as numbers; [`Tensor::typed`] gives the elements as they are.
///
/// As with every view of torch's memory (`tensor.numpy()` too), nobody may resize the tensor while it
/// is held. The methods of [`Ctx`](crate::Ctx) see to that. What else runs Python, or lets it run, does
/// not: hold no tensor, view or slice over `pyo3::Python::attach` or `detach` in a hook; copy what you
/// need first.
///
/// ```
/// use lumbre_abi::{Result, Tensor};
///
/// /// How many elements are NaN.
/// fn nans(tensor: &Tensor<'_>) -> Result<usize> {
///     let values = tensor.typed::<f32>()?;
///     if let Some(slice) = values.as_slice() {
///         // Row by row without gaps, which is the rule: a loop that the compiler makes fast.
///         return Ok(slice.iter().filter(|value| value.is_nan()).count());
///     }
///     let mut count = 0;
///     values.for_each(|value| count += usize::from(value.is_nan()));
///     Ok(count)
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    data: *const (),
    dtype: DType,
    shape: &'a [i64],
    strides: &'a [i64],
    length: usize,
    lent: PhantomData<&'a ()>,
}

impl<'a> Tensor<'a> {
    /// Check what the host lends.
    ///
    /// # Safety
    /// It must be a tensor as the layout says: as many sizes and strides as dimensions, and elements
    /// of its type wherever these reach from `data`, all of it unchanged for `'a`.
    pub(crate) unsafe fn lent(tensor: &layout::Tensor) -> Result<Self> {
        let dimensions = usize::try_from(tensor.dimensions)?;
        // SAFETY: as the caller says.
        let (shape, strides) = unsafe {
            (
                slice(tensor.shape, dimensions),
                slice(tensor.strides, dimensions),
            )
        };
        let dtype = DType::of(tensor.code, tensor.bits).filter(|_| tensor.lanes == 1);
        let Some(dtype) = dtype else {
            return Err("the tensor's dtype is not one that lumbre-abi knows".into());
        };
        let mut sizes = shape.iter().map(|&size| usize::try_from(size).ok());
        let length = sizes.try_fold(1_usize, |product, size| product.checked_mul(size?));
        let Some(length) = length else {
            return Err("the tensor's shape is none".into());
        };
        let width = usize::from(tensor.bits / 8);
        if length > 0 && (tensor.data.is_null() || !tensor.data.addr().is_multiple_of(width)) {
            return Err("the tensor's memory cannot be read where it lies".into());
        }
        if strides.iter().any(|&stride| stride < 0) {
            return Err("the tensor's strides are none".into());
        }
        Ok(Self {
            data: tensor.data.cast(),
            dtype,
            shape,
            strides,
            length,
            lent: PhantomData,
        })
    }

    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size of each dimension.
    #[must_use]
    pub fn shape(&self) -> &'a [i64] {
        self.shape
    }

    /// The step between neighbours in each dimension, counted in elements.
    #[must_use]
    pub fn strides(&self) -> &'a [i64] {
        self.strides
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its elements as that type.
    ///
    /// # Errors
    /// They are of another type; `u8` takes `torch.bool` too.
    pub fn typed<T: Element>(&self) -> Result<View<'a, T>> {
        let bytes = T::DTYPE == DType::U8 && self.dtype == DType::Bool;
        if self.dtype != T::DTYPE && !bytes {
            return Err(format!(
                "the tensor is of dtype {}, and {} was asked for",
                self.dtype,
                T::DTYPE
            )
            .into());
        }
        Ok(self.view())
    }

    /// Its elements as numbers, whatever their type, in row-major order.
    pub fn for_each(&self, mut with: impl FnMut(f64)) {
        by_dtype!(self, view => view.for_each(|value| with(value.to_f64())));
    }

    fn view<T: Element>(&self) -> View<'a, T> {
        View {
            data: self.data.cast(),
            tensor: *self,
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}, {:?})", self.dtype, self.shape)
    }
}

/// A tensor whose elements are of a known type.
///
/// ```
/// use lumbre_abi::{Ctx, Result, callback};
///
/// #[derive(Default)]
/// struct Classes(Vec<u64>);
///
/// #[callback]
/// impl Classes {
///     /// Counts the classes among targets of shape (n, 1).
///     fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
///         let Some(target) = ctx.target()? else { return Ok(()) };
///         let classes = target.typed::<i64>()?;
///         for row in 0..classes.len() {
///             let class = classes.get(&[row, 0]).ok_or("targets are of shape (n, 1)")?;
///             let class = usize::try_from(class)?;
///             self.0.resize(self.0.len().max(class + 1), 0);
///             self.0[class] += 1;
///         }
///         Ok(())
///     }
/// }
///
/// use lumbre_abi::{Hook, testing::{Mounted, Run, Values}};
///
/// let mut run = Run::new();
/// run.target = Some(Values::new(&[2_i64, 0, 2], &[3, 1]));
/// let classes = Mounted::new(Classes::default());
/// run.fire(&classes, Hook::TrainBatchBegin).unwrap();
/// assert_eq!(classes.with(|classes| classes.0.clone()), [1, 0, 2]);
/// ```
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    data: *const T,
    tensor: Tensor<'a>,
}

impl<'a, T: Element> View<'a, T> {
    /// The size of each dimension.
    #[must_use]
    pub fn shape(&self) -> &'a [i64] {
        self.tensor.shape
    }

    /// The step between neighbours in each dimension, counted in elements.
    #[must_use]
    pub fn strides(&self) -> &'a [i64] {
        self.tensor.strides
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensor.length
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensor.length == 0
    }

    /// The elements as they lie, when they lie row by row without gaps.
    #[must_use]
    pub fn as_slice(&self) -> Option<&'a [T]> {
        if self.is_empty() {
            // Beside a size of 0 the others may be of any size, and their product beyond all numbers.
            return Some(&[]);
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape().iter().zip(self.strides()).rev() {
            if size > 1 && stride != expected {
                return None;
            }
            expected *= size;
        }
        // SAFETY: shape and strides reach exactly these elements, which are lent for `'a`.
        Some(unsafe { slice(self.data, self.len()) })
    }

    /// The element at a place; `None` when the tensor does not reach there.
    #[must_use]
    pub fn get(&self, place: &[usize]) -> Option<T> {
        if place.len() != self.shape().len() {
            return None;
        }
        let mut offset = 0;
        for ((&at, &size), &stride) in place.iter().zip(self.shape()).zip(self.strides()) {
            let at = i64::try_from(at).ok().filter(|&at| at < size)?;
            offset += at * stride;
        }
        // SAFETY: within the shape, where the host promises an element of this type.
        Some(unsafe { *self.data.offset(isize::try_from(offset).ok()?) })
    }

    /// Go through the elements in row-major order.
    pub fn for_each(&self, mut with: impl FnMut(T)) {
        if let Some(slice) = self.as_slice() {
            for &value in slice {
                with(value);
            }
        } else {
            self.walk(0, 0, &mut with);
        }
    }

    fn walk(&self, dimension: usize, offset: i64, with: &mut impl FnMut(T)) {
        let (size, stride) = (self.shape()[dimension], self.strides()[dimension]);
        let is_last = dimension + 1 == self.shape().len();
        for at in 0..size {
            let offset = offset + at * stride;
            if !is_last {
                self.walk(dimension + 1, offset, with);
            } else if let Ok(offset) = isize::try_from(offset) {
                // SAFETY: as in `get`: every index is below its size.
                with(unsafe { *self.data.offset(offset) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lend<'a, T: Element>(data: &'a [T], shape: &'a [i64], strides: &'a [i64]) -> Tensor<'a> {
        let (code, bits) = T::DTYPE.code_and_bits();
        let raw = layout::Tensor {
            data: data.as_ptr().cast(),
            shape: shape.as_ptr(),
            strides: strides.as_ptr(),
            dimensions: u32::try_from(shape.len()).unwrap(),
            code,
            bits,
            lanes: 1,
        };
        // SAFETY: the tests lend what is there.
        unsafe { Tensor::lent(&raw) }.unwrap()
    }

    fn values<T: Element>(view: View<'_, T>) -> Vec<f64> {
        let mut values = Vec::new();
        view.for_each(|value| values.push(value.to_f64()));
        values
    }

    #[test]
    fn rows_are_a_slice_and_columns_are_walked() {
        let data = [1_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = lend(&data, &[2, 3], &[3, 1]).typed::<f32>().unwrap();
        assert_eq!(rows.as_slice(), Some(&data[..]));
        let columns = lend(&data, &[3, 2], &[1, 3]).typed::<f32>().unwrap();
        assert_eq!(columns.as_slice(), None);
        assert_eq!(values(columns), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(columns.get(&[2, 1]), Some(6.0));
        assert_eq!((columns.get(&[3, 0]), columns.get(&[0])), (None, None));
    }

    #[test]
    fn one_number_and_none() {
        let one = lend(&[7_i64], &[], &[]).typed::<i64>().unwrap();
        assert_eq!((one.as_slice(), one.get(&[])), (Some(&[7][..]), Some(7)));
        let none = lend::<f64>(&[], &[3, 0], &[0, 1]);
        assert!(none.is_empty());
        none.for_each(|_| panic!("there is nothing"));
        let repeated = lend(&[5_u8], &[4], &[0]);
        assert_eq!(values(repeated.typed::<u8>().unwrap()), [5.0; 4]);
    }

    #[test]
    fn the_type_is_checked() {
        let tensor = lend(&[1_i32], &[1], &[1]);
        let message = tensor.typed::<f32>().err().unwrap().to_string();
        assert_eq!(
            message,
            "the tensor is of dtype int32, and float32 was asked for"
        );
        let mut sum = 0.0;
        tensor.for_each(|value| sum += value);
        assert_eq!(sum.to_bits(), 1_f64.to_bits());
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        let good = layout::Tensor {
            data: std::ptr::dangling::<u64>().cast(),
            shape: [1_i64].as_ptr(),
            strides: [1_i64].as_ptr(),
            dimensions: 1,
            code: 2,
            bits: 32,
            lanes: 1,
        };
        let bad: [fn(&mut layout::Tensor); 7] = [
            |tensor| tensor.data = std::ptr::null(),
            |tensor| tensor.data = std::ptr::without_provenance(2),
            |tensor| tensor.shape = [-1_i64].as_ptr(),
            |tensor| tensor.strides = [-1_i64].as_ptr(),
            |tensor| tensor.lanes = 4,
            |tensor| tensor.code = 5,
            |tensor| tensor.bits = 7,
        ];
        for change in bad {
            let mut tensor = good;
            change(&mut tensor);
            // SAFETY: shape and strides are there; no element is read.
            assert!(unsafe { Tensor::lent(&tensor) }.is_err(), "{tensor:?}");
        }
    }

    #[test]
    fn small_floats_are_exact() {
        for (bits, value) in [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0001, 5.960_464_477_539_063e-8),
            (0x0400, 6.103_515_625e-5),
            (0x7C00, f64::INFINITY),
            (0x8000, -0.0),
        ] {
            assert_eq!(
                F16(bits).to_f64().to_bits(),
                f64::to_bits(value),
                "{bits:#x}"
            );
        }
        assert!(F16(0x7E00).to_f32().is_nan());
        assert_eq!(Bf16(0x3F80).to_f64().to_bits(), 1_f64.to_bits());
    }

    proptest! {
        #[test]
        fn a_walk_meets_every_element(a in 1_i64..5, b in 1_i64..5, c in 1_i64..5, turn in 0..3_usize) {
            let data: Vec<i64> = (0..a * b * c).collect();
            let (mut shape, mut strides) = (vec![a, b, c], vec![b * c, c, 1]);
            shape.rotate_left(turn);
            strides.rotate_left(turn);
            let view = lend(&data, &shape, &strides).typed::<i64>().unwrap();
            let mut seen = Vec::new();
            view.for_each(|value| seen.push(value));
            let first = seen.clone();
            seen.sort_unstable();
            prop_assert_eq!(&seen, &data);
            let at = |n: i64| usize::try_from(n).unwrap();
            let last = view.get(&[at(shape[0]) - 1, at(shape[1]) - 1, at(shape[2]) - 1]);
            prop_assert_eq!(last, first.last().copied());
        }
    }
}
