//! `ctx._now`: what changes within a batch, as the Python side of the loop keeps it.

use std::ptr;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyBool;

pub use crate::lumbre::Field;

/// The object, and where its slots lie.
///
/// Python finds an attribute through a cache that the attributes of all classes share, and torch has
/// filled that since the last batch: six looks into it cost half a microsecond a step.
pub struct Now {
    object: Py<PyAny>,
    places: [usize; Field::NAMES.len()],
}

impl Now {
    /// Fails where an attribute is no slot.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut places = [0; Field::NAMES.len()];
        for (place, name) in places.iter_mut().zip(Field::NAMES) {
            *place = place_of(object, name)?;
        }
        Ok(Self {
            object: object.clone().unbind(),
            places,
        })
    }

    /// The value in a slot; None when it is empty.
    pub fn get<'py>(&self, py: Python<'py>, slot: Field) -> Bound<'py, PyAny> {
        // SAFETY: `address` is that of an object pointer or NULL, which nobody changes meanwhile, as the
        // interpreter is attached.
        let value = unsafe { Bound::from_borrowed_ptr_or_opt(py, *self.address(slot)) };
        value.unwrap_or_else(|| py.None().into_bound(py))
    }

    /// Put a value into a slot.
    pub fn set(&self, slot: Field, value: Bound<'_, PyAny>) {
        let py = value.py();
        // SAFETY: as in `get`. The slot owns what it holds: it is given the one reference, and the
        // other one is taken over here. That is let go last, for it may run Python code.
        drop(unsafe {
            let before = ptr::replace(self.address(slot), value.into_ptr());
            Bound::from_owned_ptr_or_opt(py, before)
        });
    }

    /// Put true or false into a slot.
    pub fn set_flag(&self, py: Python<'_>, slot: Field, flag: bool) {
        self.set(slot, PyBool::new(py, flag).to_owned().into_any());
    }

    /// Let go of what a slot holds: None takes its place.
    pub fn clear(&self, py: Python<'_>, slot: Field) {
        self.set(slot, py.None().into_bound(py));
    }

    fn address(&self, slot: Field) -> *mut *mut ffi::PyObject {
        let object = self.object.as_ptr().cast::<u8>();
        object.wrapping_add(self.places[slot as usize]).cast()
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)
    }
}

/// How far into an object a slot lies.
fn place_of(object: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    let kind = object
        .py()
        .import("types")?
        .getattr("MemberDescriptorType")?;
    let descriptor = object.get_type().getattr(name)?;
    let place = if descriptor.get_type().is(&kind) {
        let table = descriptor.as_ptr().cast::<ffi::PyMemberDescrObject>();
        // SAFETY: it is such a descriptor, and its table lives as long as the class that has it.
        let (member, owner) = unsafe { (&*(*table).d_member, (*table).d_common.d_type) };
        // SAFETY: two classes that live. A class may have borrowed the descriptor of another one, in
        // whose objects alone its place is a place.
        let is_own = unsafe { ffi::PyType_IsSubtype(object.get_type_ptr(), owner) } != 0;
        let is_plain = member.type_code == ffi::Py_T_OBJECT_EX && member.flags == 0;
        usize::try_from(member.offset)
            .ok()
            .filter(|_| is_own && is_plain)
    } else {
        None
    };
    place.ok_or_else(|| PyTypeError::new_err(format!("{name} of {object} is kept in no slot")))
}
