//! Tensors read where they lie, through the C exchange API of `DLPack` that torch publishes.

use std::ffi::{c_int, c_void};
use std::ptr;

use half::{bf16, f16};
use lumbre_abi::layout::{self, slice};
use lumbre_core::metrics::{Data, Reach, View};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

use crate::value::class_name;

#[repr(C)]
#[derive(Clone, Copy)]
struct DlDevice {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor` of `DLPack` 1.x.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: DlDevice,
    ndim: i32,
    dtype: DlDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

impl DlTensor {
    /// An empty one that torch is given to fill in.
    const UNREAD: Self = Self {
        data: ptr::null_mut(),
        device: DlDevice { kind: 0, id: 0 },
        ndim: 0,
        dtype: DlDataType {
            code: 0,
            bits: 0,
            lanes: 0,
        },
        shape: ptr::null(),
        strides: ptr::null(),
        byte_offset: 0,
    };

    fn is_float(&self) -> bool {
        matches!(self.dtype.code, FLOAT | BFLOAT)
    }

    /// True if a tensor that was exchanged just now may be the imaginary part of a complex one, as it
    /// lies: its first float where no real part can, or a gap between floats.
    fn may_be_imaginary(&self) -> bool {
        if !self.is_float() {
            return false;
        }
        // A complex number lies at a multiple of its own size, which is a power of two.
        let address = (self.data.addr() as u64).wrapping_add(self.byte_offset);
        let complex = u64::from(self.dtype.bits / 8) * 2;
        if address & complex.saturating_sub(1) != 0 {
            return true;
        }
        // SAFETY: torch has filled it in a moment ago, and nothing has run since.
        let (shape, strides) = unsafe { dims(self) };
        let mut expected = 1;
        shape.iter().zip(strides).rev().any(|(&size, &stride)| {
            let has_gap = size != 1 && stride != expected;
            expected *= size;
            has_gap
        })
    }
}

/// The head of `DLPackExchangeAPI`, up to the one entry that is used here.
#[repr(C)]
struct ExchangeApi {
    major: u32,
    minor: u32,
    previous: *const c_void,
    allocate: *const c_void,
    managed_from_object: *const c_void,
    managed_to_object: *const c_void,
    tensor_from_object: Option<unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int>,
}

const CPU: i32 = 1;

/// All that is looked up once a process.
struct Torch {
    read: unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int,
    tensor: Py<PyAny>,
    parameter: Py<PyAny>,
    is_neg: Py<PyAny>,
}

impl Torch {
    /// True if an object is of torch's own classes, and of none that was made of them.
    fn is_exact(&self, object: &Bound<'_, PyAny>) -> bool {
        let kind = object.get_type_ptr().cast();
        kind == self.tensor.as_ptr() || kind == self.parameter.as_ptr()
    }

    /// True if a tensor is a view of another one, of which autograd keeps account.
    fn is_view(tensor: &Bound<'_, PyAny>) -> PyResult<bool> {
        let base = tensor.getattr(intern!(tensor.py(), "_base"))?;
        Ok(!base.is_none())
    }

    fn is_negated(&self, tensor: &Bound<'_, PyAny>) -> PyResult<bool> {
        let negated = self.is_neg.bind(tensor.py()).call1((tensor,))?;
        negated.is_truthy()
    }
}

static TORCH: PyOnceLock<Torch> = PyOnceLock::new();

fn torch(py: Python<'_>) -> PyResult<&Torch> {
    TORCH.get_or_try_init(py, || {
        let module = py.import("torch")?;
        let tensor = module.getattr("Tensor")?;
        let capsule = tensor.getattr("__dlpack_c_exchange_api__")?;
        let api = capsule
            .cast::<PyCapsule>()?
            .pointer_checked(Some(c"dlpack_exchange_api"))?
            .cast::<ExchangeApi>();
        // SAFETY: the capsule's name vouches for the type, torch keeps the table for the life of
        // the process, and the version stands first in every version of the layout.
        let api = unsafe { api.as_ref() };
        match (api.major, api.tensor_from_object) {
            (1, Some(read)) => Ok(Torch {
                read,
                parameter: module.getattr("nn")?.getattr("Parameter")?.unbind(),
                is_neg: tensor.getattr("is_neg")?.unbind(),
                tensor: tensor.unbind(),
            }),
            (major, _) => Err(PyRuntimeError::new_err(format!(
                "lumbre reads tensors through version 1 of DLPack's exchange API; this torch has \
                 version {major}. Install a torch that lumbre supports."
            ))),
        }
    })
}

/// True if it is a tensor of any kind, on any device.
pub fn is_tensor(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.is_instance(torch(object.py())?.tensor.bind(object.py()))
}

/// Look at a tensor's memory while `with` runs. `None` when it is not plain, strided CPU memory of
/// an exact `Tensor` or `Parameter`: such a one has to take the road of torch ops.
///
/// `with` gets the tensor's view and must not run Python code: that could free or resize it.
pub fn read<T>(object: &Bound<'_, PyAny>, with: impl FnOnce(View<'_>) -> T) -> PyResult<Option<T>> {
    let mut tensor = DlTensor::UNREAD;
    if !look_at_float(object, torch(object.py())?, &mut tensor)? {
        return Ok(None);
    }
    // SAFETY: `look_at_float` has filled it from a live tensor that the caller's `Bound` keeps, and no Python
    // code runs until `with` returns, so that memory, shape and strides stay.
    unsafe { view(&tensor, with) }
}

/// The same for two tensors at once, of which the first is a float as a rule.
pub fn read_pair<T>(
    first: &Bound<'_, PyAny>,
    second: &Bound<'_, PyAny>,
    with: impl FnOnce(View<'_>, View<'_>) -> T,
) -> PyResult<Option<T>> {
    let (mut one, mut two) = (DlTensor::UNREAD, DlTensor::UNREAD);
    let torch = torch(first.py())?;
    if !look_at_float(first, torch, &mut one)? || !exchange(second, torch, &mut two) {
        return Ok(None);
    }
    // What the first one told may hold no more once torch was asked of the second.
    let both_stay = !two.is_float()
        || (look_at_float(second, torch, &mut two)? && exchange(first, torch, &mut one));
    if !both_stay {
        return Ok(None);
    }
    // SAFETY: as in `read`; both were filled in with no Python code after them.
    let both = unsafe { view(&one, |first| view(&two, |second| with(first, second))) };
    both?.unwrap_or(Ok(None))
}

/// A tensor to lend, or what to say of an object that cannot be lent.
pub type Lent = Result<layout::Tensor, String>;

/// Tensors to lend to a foreign callback, which reads them as [`read`] does. What they point at
/// belongs to the objects: these have to be held, and not to be resized.
pub fn lend(py: Python<'_>, objects: &[Option<Py<PyAny>>; 3]) -> PyResult<[Option<Lent>; 3]> {
    let torch = torch(py)?;
    let mut lent = [const { None }; 3];
    // Questions first, as they may run Python; then nothing but torch's exchange.
    for (object, place) in objects.iter().zip(&mut lent) {
        if let Some(object) = object.as_ref().map(|object| object.bind(py)) {
            let mut tensor = DlTensor::UNREAD;
            let plain = look(object, torch, &mut tensor)?;
            *place = Some(if plain && is_readable(&tensor) {
                Ok(tensor)
            } else {
                Err(describe(object))
            });
        }
    }
    let mut stayed = true;
    for (object, place) in objects.iter().zip(&mut lent) {
        if let (Some(object), Some(Ok(tensor))) = (object, place) {
            stayed &= exchange(object.bind(py), torch, tensor);
        }
    }
    Ok(lent.map(|each| each.map(|told| told.and_then(|tensor| shown(&tensor, stayed)))))
}

/// A tensor that was exchanged just now, as the ABI has it.
fn shown(tensor: &DlTensor, stayed: bool) -> Lent {
    let offset = usize::try_from(tensor.byte_offset).ok();
    match offset.filter(|_| stayed && is_readable(tensor)) {
        Some(offset) => Ok(layout::Tensor {
            data: tensor.data.cast::<u8>().wrapping_add(offset).cast(),
            shape: tensor.shape,
            strides: tensor.strides,
            dimensions: u32::try_from(tensor.ndim).unwrap_or(0),
            code: tensor.dtype.code,
            bits: tensor.dtype.bits,
            lanes: tensor.dtype.lanes,
        }),
        None => Err("a tensor that was changed while it was looked at".into()),
    }
}

/// True if there is memory behind a tensor that was exchanged just now, of a type that is known.
fn is_readable(tensor: &DlTensor) -> bool {
    // SAFETY: as in `read`; the view is only made to see that it can be.
    unsafe { view(tensor, |_| ()) }.is_ok_and(|view| view.is_some())
}

/// A description of an object, for messages.
pub fn describe(object: &Bound<'_, PyAny>) -> String {
    let kind = class_name(object);
    let is_exact = torch(object.py()).is_ok_and(|torch| torch.is_exact(object));
    if !is_exact {
        return format!("a {kind}");
    }
    let told = |attribute| {
        let value = object.getattr(attribute).and_then(|value| value.str());
        value.map_or_else(|_| "?".to_owned(), |value| value.to_string())
    };
    let (layout, dtype, device) = (told("layout"), told("dtype"), told("device"));
    let layout = if layout == "torch.strided" {
        String::new()
    } else {
        format!("{layout} ")
    };
    format!("a {layout}{kind} of {dtype} on {device}")
}

/// Have torch say where a tensor lies; false when its memory cannot be read as it is. What is told is
/// true until the next Python code runs: torch's answer to a question is such, under a mode.
///
/// The exchange ignores the negative bit, which only floats can have: of these torch is asked.
fn look(object: &Bound<'_, PyAny>, torch: &Torch, tensor: &mut DlTensor) -> PyResult<bool> {
    if !exchange(object, torch, tensor) {
        return Ok(false);
    }
    if !tensor.is_float() {
        return Ok(true);
    }
    look_at_float(object, torch, tensor)
}

/// The same of what is a float as a rule: to ask first saves the exchange that tells whether it is.
///
/// To ask for the negative bit costs as much as a small metric, and it comes from an imaginary part:
/// a view. That a tensor is a view is asked for half the price. Of one of which autograd keeps no
/// account, as by `.detach()` or in inference mode, its memory tells: floats with a gap after each. Not
/// told is one that `as_strided` has laid there over real parts, too.
fn look_at_float(
    object: &Bound<'_, PyAny>,
    torch: &Torch,
    tensor: &mut DlTensor,
) -> PyResult<bool> {
    if !torch.is_exact(object) || (Torch::is_view(object)? && torch.is_negated(object)?) {
        return Ok(false);
    }
    if !exchange(object, torch, tensor) {
        return Ok(false);
    }
    Ok(!tensor.may_be_imaginary()
        || (!torch.is_negated(object)? && exchange(object, torch, tensor)))
}

/// Fill in what torch says of a tensor; false when it is no plain one in the CPU's memory.
fn exchange(object: &Bound<'_, PyAny>, torch: &Torch, tensor: &mut DlTensor) -> bool {
    if !torch.is_exact(object) {
        return false;
    }
    // SAFETY: torch's function for torch's exact class, called with the interpreter attached; it
    // fills the struct with what it borrows from the tensor, or reports an error.
    let status = unsafe { (torch.read)(object.as_ptr().cast(), tensor) };
    if status != 0 {
        // Sparse, quantized, wrapped: torch ops know better. The error is only how it says so.
        drop(PyErr::take(object.py()));
        return false;
    }
    tensor.device.kind == CPU
}

const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;
const BOOL: u8 = 6;

/// Show `with` the tensor as the core sees it; `None` for dtypes that the core does not know.
///
/// The view is handed on rather than returned: it is large, and is made once a batch and tensor.
///
/// # Safety
/// The tensor must be filled in by torch, on the CPU, and stay as it is while `with` runs.
#[inline]
unsafe fn view<T>(tensor: &DlTensor, with: impl FnOnce(View<'_>) -> T) -> PyResult<Option<T>> {
    // SAFETY: as the caller says.
    let (shape, strides) = unsafe { dims(tensor) };
    let Some(reach) = Reach::of(shape, strides) else {
        return Ok(None);
    };
    let extent = reach.extent();
    if extent > 0 && tensor.data.is_null() {
        // A fake or a zero tensor has a shape and no memory.
        return Ok(None);
    }
    let offset = usize::try_from(tensor.byte_offset)?;
    let start: *const c_void = tensor.data.cast::<u8>().wrapping_add(offset).cast();
    macro_rules! data {
        ($variant:ident, $type:ty) => {{
            let first = start.cast::<$type>();
            if !first.is_aligned() {
                return Ok(None);
            }
            // SAFETY: the elements from the first to the last that shape and strides reach lie in
            // one storage, at an address that is aligned. Of bool torch keeps bytes of 0 or 1, which
            // are read as bytes.
            Data::$variant(unsafe { slice(first, extent) })
        }};
    }
    if tensor.dtype.lanes != 1 {
        return Ok(None);
    }
    let data = match (tensor.dtype.code, tensor.dtype.bits) {
        (FLOAT, 16) => data!(F16, f16),
        (FLOAT, 32) => data!(F32, f32),
        (FLOAT, 64) => data!(F64, f64),
        (BFLOAT, 16) => data!(BF16, bf16),
        (INT, 8) => data!(I8, i8),
        (INT, 16) => data!(I16, i16),
        (INT, 32) => data!(I32, i32),
        (INT, 64) => data!(I64, i64),
        (UINT, 8) => data!(U8, u8),
        (UINT, 16) => data!(U16, u16),
        (UINT, 32) => data!(U32, u32),
        (UINT, 64) => data!(U64, u64),
        (BOOL, 8) => data!(Bool, u8),
        _ => return Ok(None),
    };
    Ok(View::within(data, reach).map(with))
}

/// Shape and strides.
///
/// # Safety
/// The tensor must be filled in by torch, and stay as it is while the slices live.
unsafe fn dims(tensor: &DlTensor) -> (&[i64], &[i64]) {
    let ndim = usize::try_from(tensor.ndim).unwrap_or(0);
    // SAFETY: torch gives `ndim` numbers at both addresses.
    unsafe { (slice(tensor.shape, ndim), slice(tensor.strides, ndim)) }
}
