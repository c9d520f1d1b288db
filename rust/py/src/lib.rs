//! `lumbre._core`: the Python face of `lumbre-core`. It parses, calls the core and hands back.

// PyO3 hands lists over as a Vec.
#![allow(clippy::needless_pass_by_value)]

use pyo3::prelude::*;

mod batch;
mod batches;
mod checksum;
mod error;
mod filter;
mod foreign;
mod grad;
mod losses;
mod lumbre;
mod means;
mod meter;
mod metric;
mod monitor;
mod names;
mod native;
mod now;
mod python;
mod run;
mod schedule;
mod tensor;
mod value;

// Tensors and slots are read where they lie, which the interpreter's lock keeps still.
#[pymodule(gil_used = true)]
mod _core {
    use lumbre_core::hook::Hook;
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use super::batches::Batches;
    #[pymodule_export]
    use super::checksum::crc32;
    #[pymodule_export]
    use super::filter::Filter;
    #[pymodule_export]
    use super::lumbre::python_names;
    #[pymodule_export]
    use super::meter::Meter;
    #[pymodule_export]
    use super::metric::NativeMetric;
    #[pymodule_export]
    use super::monitor::Monitor;
    #[pymodule_export]
    use super::native::NativeCallback;
    #[pymodule_export]
    use super::run::Run;
    #[pymodule_export]
    use super::schedule::{Schedule, unique_names};

    /// The name nearest to a misspelt one, if any is near enough to be meant.
    #[pyfunction]
    fn nearest(name: &str, candidates: Vec<String>) -> Option<String> {
        lumbre_core::spelling::nearest(name, candidates.iter().map(String::as_str))
            .map(str::to_owned)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let hooks = PyDict::new(module.py());
        for hook in Hook::ALL {
            hooks.set_item(hook.name(), hook.doc().trim())?;
        }
        module.add("HOOKS", hooks)
    }
}
