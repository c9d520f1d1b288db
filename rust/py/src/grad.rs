//! Gradients off, for as long as Python code runs that no graph is wanted of.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// torch's own switch, and how it stands. `torch.no_grad()` costs a microsecond for what these do
/// in a few dozen nanoseconds.
static SWITCH: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

fn switch(py: Python<'_>) -> PyResult<&(Py<PyAny>, Py<PyAny>)> {
    SWITCH.get_or_try_init(py, || {
        let torch = py.import("torch._C")?;
        let set = torch.getattr("_set_grad_enabled")?.unbind();
        Ok((torch.getattr("is_grad_enabled")?.unbind(), set))
    })
}

/// Switch gradients off; gives whether they were on.
pub fn switch_off(py: Python<'_>) -> PyResult<bool> {
    let (is_on, set) = switch(py)?;
    let was_on = is_on.bind(py).call0()?.is_truthy()?;
    if was_on {
        set.bind(py).call1((false,))?;
    }
    Ok(was_on)
}

/// Switch gradients on again.
pub fn switch_on(py: Python<'_>) -> PyResult<()> {
    switch(py)?.1.bind(py).call1((true,)).map(drop)
}

/// Run `with` with gradients off, and leave the switch as it was found.
pub fn without_grad<T>(py: Python<'_>, with: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    if !switch_off(py)? {
        return with();
    }
    let result = with();
    switch_on(py)?;
    result
}
