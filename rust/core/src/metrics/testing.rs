//! Tensors for the tests of this folder.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use super::{Data, View};
use crate::records::Value;
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

/// The value of a metric that measures one number.
#[allow(clippy::needless_pass_by_value)] // to be called on what `compute` returns
pub fn number(value: Value) -> f64 {
    match value {
        Value::Number(number) => number,
        Value::Array { .. } => panic!("{value:?} is no number"),
    }
}
