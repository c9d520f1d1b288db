//! `crc32`: the sum that files are checked by, several times as fast as zlib's.

use pyo3::prelude::*;

/// The CRC-32 of data that continues what has the CRC-32 `value`: the number that `zlib.crc32` has.
#[pyfunction]
#[pyo3(signature = (data, value = 0, /))]
pub fn crc32(py: Python<'_>, data: &[u8], value: u32) -> u32 {
    py.detach(|| {
        let mut hasher = crc32fast::Hasher::new_with_initial(value);
        hasher.update(data);
        hasher.finalize()
    })
}
