//! `_core.Batches`.

use std::sync::Mutex;

use lumbre_core::lock::lock;
use pyo3::PyTraverseError;
use pyo3::exceptions::PyException;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::error::exception;
use crate::lumbre::{self, Class};
use crate::now::{Field, Now};
use crate::run::Run;

/// The batches of a pass: each is counted, brought to the device and made `ctx.batch`. They end with
/// the loader's, or where a wish says so.
#[pyclass(module = "lumbre._core", frozen)]
pub struct Batches {
    ctx: Py<Run>,
    now: Now,
    loader: Py<PyAny>,
    place: Option<Py<PyAny>>,
    ended: Py<PyAny>,
    forget: bool,
    iterator: Mutex<Option<Py<PyIterator>>>,
}

#[pymethods]
impl Batches {
    /// `place` brings a batch to its device; `ended` is told how many a whole pass had.
    ///
    /// With `forget`, prediction and loss of the last batch are let go first, so that a step that
    /// sets none is not taken for one that has. The default step replaces them, which spares the
    /// allocator work.
    #[new]
    #[pyo3(signature = (ctx, now, loader, place, ended, forget=false))]
    fn new(
        ctx: Py<Run>,
        now: &Bound<'_, PyAny>,
        loader: Py<PyAny>,
        place: Option<Py<PyAny>>,
        ended: Py<PyAny>,
        forget: bool,
    ) -> PyResult<Self> {
        Ok(Self {
            ctx,
            now: Now::new(now)?,
            loader,
            place,
            ended,
            forget,
            iterator: Mutex::default(),
        })
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let run = self.ctx.get();
        if !run.state.in_pass() {
            return Err(pass_has_ended(py, &run.state.place()));
        }
        run.end_batch(py);
        let is_over = run.state.pass_is_over();
        // Whoever is called may have a wish, too.
        if (self.attend(py)? && run.state.pass_is_over()) || is_over {
            return Ok(None);
        }
        let next = run.state.data_is_waited_for(|| match self.iterator(py) {
            Ok(mut iterator) => iterator.next(),
            Err(error) => Some(Err(error)),
        });
        // A terminal sends Ctrl-C to the workers of a loader, too. What ended them ends the pass.
        if let Some(Err(error)) = &next
            && run.state.is_interrupted()
            && error.is_instance_of::<PyException>(py)
            && run.state.pass_is_over()
        {
            self.attend(py)?;
            return Ok(None);
        }
        let Some(batch) = next else {
            self.ended.bind(py).call1((run.state.iter(),))?;
            return Ok(None);
        };
        let mut batch = batch?;
        let was_skipped = run.next_batch();
        if let Some(place) = &self.place {
            batch = place.bind(py).call1((batch,))?;
        }
        self.now.set(Field::Batch, batch.clone());
        if was_skipped {
            self.now.set_flag(py, Field::Skipped, false);
        }
        if self.forget {
            self.now.clear(py, Field::Pred);
            self.now.clear(py, Field::LossGrad);
        }
        self.now.clear(py, Field::LossWeight);
        self.now.clear(py, Field::Losses);
        Ok(Some(batch))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.ctx)?;
        self.now.traverse(&visit)?;
        visit.call(&self.loader)?;
        visit.call(&self.place)?;
        visit.call(&self.ended)?;
        if let Ok(iterator) = self.iterator.try_lock() {
            visit.call(&*iterator)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let iterator = lock(&self.iterator).take();
        // Dropped when the lock is not held: dropping may run Python.
        drop(iterator);
    }
}

/// A loop of the user's own has kept the batches of a pass that has been closed since.
fn pass_has_ended(py: Python<'_>, place: &str) -> PyErr {
    let message = format!(
        "The pass that these batches are of has ended ({place}): the loop around it has gone on. Begin \
         a new one in each epoch: `for batch in ctx.train(loader): ...`."
    );
    exception(py, Class::ContextError, message)
}

impl Batches {
    /// Call who wants to be called between two batches; gives whether somebody does.
    fn attend(&self, py: Python<'_>) -> PyResult<bool> {
        let wanted = self.ctx.get().state.takes_attention();
        if wanted {
            self.ctx
                .bind(py)
                .call_method0(lumbre::Context::attend(py))?;
        }
        Ok(wanted)
    }

    /// The loader's iterator, begun when the first batch is asked for.
    fn iterator<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let begun = lock(&self.iterator)
            .as_ref()
            .map(|iterator| iterator.clone_ref(py));
        if let Some(iterator) = begun {
            return Ok(iterator.into_bound(py));
        }
        let begun = self.loader.bind(py).try_iter()?;
        let before = lock(&self.iterator).replace(begun.clone().unbind());
        // Dropped when the lock is not held: dropping may run Python.
        drop(before);
        Ok(begun)
    }
}
