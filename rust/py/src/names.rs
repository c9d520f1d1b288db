//! Finds a breakpoint by the name that the loop spells out: by the address of the interned string
//! first, which is one look into a small table, and by its letters only when that fails.

use lumbre_core::hook::{Hook, HookId};
use pyo3::prelude::*;
use pyo3::types::PyString;

const SIZE: usize = 256;

/// The breakpoints of one run by name.
pub struct Names {
    all: Vec<String>,
    // Kept alive, so that no other string can take their addresses.
    interned: Vec<Py<PyString>>,
    table: [(usize, u8); SIZE],
}

impl Names {
    /// The built-in breakpoints, then the custom ones.
    pub fn new(py: Python<'_>, custom: &[String]) -> Self {
        let names = [Hook::names(), custom.to_vec()].concat();
        let interned: Vec<Py<PyString>> = names
            .iter()
            .map(|name| PyString::intern(py, name).unbind())
            .collect();
        let mut table = [(0, 0); SIZE];
        for (id, string) in (0..).zip(&interned).take(HookId::MAX) {
            let address = string.as_ptr() as usize;
            let mut place = Self::place(address);
            while table[place].0 != 0 {
                place = (place + 1) % SIZE;
            }
            table[place] = (address, id);
        }
        Self {
            all: names,
            interned,
            table,
        }
    }

    /// Every name, by number.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// The number of a breakpoint.
    pub fn find(&self, name: &Bound<'_, PyAny>) -> Option<HookId> {
        let address = name.as_ptr() as usize;
        let mut place = Self::place(address);
        while self.table[place].0 != 0 {
            if self.table[place].0 == address {
                return HookId::new(self.table[place].1.into());
            }
            place = (place + 1) % SIZE;
        }
        let name = name.cast::<PyString>().ok()?;
        self.interned
            .iter()
            .position(|known| known.bind(name.py()).as_any().eq(name).unwrap_or(false))
            .and_then(HookId::new)
    }

    // At most a quarter of the table is in use, so that a look seldom goes past its first place.
    fn place(address: usize) -> usize {
        (address >> 4).wrapping_mul(0x9E37_79B9) >> 8 & (SIZE - 1)
    }
}
