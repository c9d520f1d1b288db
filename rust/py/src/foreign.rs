//! Callbacks of foreign libraries: the host's side of the ABI.

mod answers;
mod lent;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lumbre_abi::host::{Foreign, Refused, Trouble};
use lumbre_abi::layout::{CAPSULE, MAJOR};
use lumbre_core::callback::{Callback, Context};
use lumbre_core::filter::Filter;
use lumbre_core::flow::Flow;
use lumbre_core::hook::{Edge, Hook, HookId, HookSet, Scope};
use lumbre_core::saved::Saved;
use lumbre_core::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

use crate::error::{carry, exception};
use crate::lumbre::{self, Class};
use crate::run::frame::{Frame, PyHost};

/// A callback that came in a capsule.
pub struct Extension {
    foreign: Foreign,
    /// The object that `foreign` lives on: dropped after it.
    _capsule: Py<PyCapsule>,
    hooks: HookSet,
    /// The ABI's number of each of our breakpoints.
    numbers: [u32; Hook::ALL.len()],
    /// The epoch in which this run was told that it has panicked, one up; 0 for never.
    told: AtomicU64,
}

impl Extension {
    /// Open a capsule, or the one that an object gives.
    pub fn open(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let refuse = |why: String| exception(py, Class::ABIError, why);
        let (capsule, who) = capsule_of(object)?;
        check_name(&capsule, &who)?;
        let handle = capsule.pointer_checked(Some(CAPSULE))?;
        // SAFETY: found under the name of version 1, which vouches for what is behind it; the capsule,
        // which keeps the handle, is kept beside what is opened.
        let foreign = unsafe { Foreign::open(handle.as_ptr().cast()) }
            .map_err(|refused| refuse(refusal(&who, &refused)))?;
        let mut numbers = [u32::MAX; Hook::ALL.len()];
        let mut hooks = HookSet::default();
        for hook in &foreign.hooks {
            let ours = Hook::from_name(hook.name()).ok_or_else(|| {
                refuse(format!("{who} wants to be called at {}, which this lumbre does not have. Install a newer one.", hook.name()))
            })?;
            numbers[ours as usize] = hook.number();
            hooks = hooks.with(ours.into());
        }
        Ok(Self {
            foreign,
            _capsule: capsule.unbind(),
            hooks,
            numbers,
            told: AtomicU64::new(0),
        })
    }

    /// The facts that it tells of itself.
    pub fn about(&self) -> &Foreign {
        &self.foreign
    }

    /// Its crate and the version of that, for the table of the plan.
    pub fn kind(&self) -> String {
        format!("{} {}", self.foreign.crate_name, self.foreign.crate_version)
    }

    /// Its filters, by breakpoint.
    pub fn filters(&self) -> Result<Vec<(HookId, Filter)>> {
        let mut filters: Vec<(HookId, Filter)> = Vec::new();
        for (hook, filter) in &self.foreign.filters {
            let last = (filter.last_epoch != u64::MAX).then_some(filter.last_epoch);
            let mut all =
                Filter::epochs(filter.first_epoch, last)?.and(Filter::every(filter.every)?)?;
            if filter.once == 1 {
                all = all.and(Filter::once())?;
            }
            let Some(hook) = Hook::from_name(hook.name()) else {
                continue;
            };
            match filters.iter_mut().find(|(known, _)| *known == hook.into()) {
                Some((_, known)) => *known = known.and(all)?,
                None => filters.push((hook.into(), all)),
            }
        }
        Ok(filters)
    }

    /// True if a breakpoint closes what its panic has left open, or tells of something else that is told
    /// anyway. An epoch after that one is not closed but gone through without it, which is to be told.
    fn has_nothing_to_add(&self, hook: HookId, epoch: u64) -> bool {
        let told = self.told.load(Relaxed);
        match hook.hook().map(Hook::edge) {
            Some(Edge::Anywhere) => true,
            Some(Edge::End(Scope::Fit | Scope::Predict)) => told > 0,
            Some(Edge::End(_)) => told == epoch.saturating_add(1),
            _ => false,
        }
    }

    /// The answer to a question outside of a run.
    fn asked<T>(&self, doing: &str, outcome: std::result::Result<T, Trouble>) -> Result<T> {
        // Whatever it says: no exception may stay set behind our back.
        let raised = Python::attach(|py| PyErr::occurred(py).then(|| PyErr::take(py)).flatten());
        match (outcome, raised) {
            (Ok(value), None) => Ok(value),
            (_, Some(error)) => Err(carry(error)),
            (Err(trouble), None) => Err(Error::Extension(format!(
                "{} cannot be {doing}: {trouble}",
                self.foreign.name
            ))),
        }
    }
}

/// The arm of the scheduler that calls foreign libraries.
impl Callback<PyHost> for Extension {
    fn hooks(&self) -> HookSet {
        self.hooks
    }

    fn on(&self, hook: HookId, ctx: &Frame<'_>) -> Result<Flow> {
        let number = self.numbers.get(hook.index()).copied().unwrap_or(u32::MAX);
        let Err(trouble) = lent::call(&self.foreign, number, hook, ctx) else {
            return Ok(Flow::Continue);
        };
        let epoch = ctx.state().epoch();
        match trouble {
            lent::Trouble::Error(error) => Err(error),
            lent::Trouble::Broken(_) if self.has_nothing_to_add(hook, epoch) => Ok(Flow::Continue),
            lent::Trouble::Panicked(error) | lent::Trouble::Broken(error) => {
                self.told.store(epoch.saturating_add(1), Relaxed);
                Err(error)
            }
        }
    }

    fn logs(&self) -> &[String] {
        &self.foreign.logs
    }

    fn save(&self) -> Result<Option<Saved>> {
        let saved = self.foreign.save();
        let saved = self.asked("saved", saved)?;
        Ok(saved.map(|saved| match saved {
            lumbre_abi::Saved::Bytes(bytes) => Saved::Bytes(bytes),
            lumbre_abi::Saved::Json(text) => Saved::Json(text),
        }))
    }

    fn load(&self, saved: &Saved) -> Result<()> {
        let saved = match saved {
            Saved::Bytes(bytes) => lumbre_abi::Saved::Bytes(bytes.clone()),
            Saved::Json(text) => lumbre_abi::Saved::Json(text.clone()),
            Saved::Fields(_) => {
                return Err(Error::Extension(format!(
                    "{} cannot be loaded: its state is bytes or the text of JSON; got {saved}. \
                     Load what it has saved.",
                    self.foreign.name
                )));
            }
        };
        let loaded = self.foreign.load(&saved);
        self.asked("loaded", loaded)
    }
}

/// The capsule, and what to call its owner in messages.
fn capsule_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyCapsule>, String)> {
    if let Ok(capsule) = object.cast::<PyCapsule>() {
        return Ok((capsule.clone(), "The capsule".into()));
    }
    let py = object.py();
    let kind = object.get_type().fully_qualified_name()?.to_string();
    let given = object
        .call_method0(lumbre::Foreign::lumbre_callback(py))
        .map_err(|error| {
            if !error.get_type(py).is(py.get_type::<PyRuntimeError>()) {
                return error;
            }
            // It is how lumbre-abi says that the callback has panicked.
            exception(py, Class::ExtensionError, error.value(py).to_string())
        })?;
    match given.cast_into::<PyCapsule>() {
        Ok(capsule) => Ok((capsule, kind)),
        Err(error) => {
            let got = error.into_inner().get_type().name()?.to_string();
            let message = format!("{kind}.__lumbre_callback__() gives a PyCapsule; got {got}.");
            Err(exception(py, Class::ArgumentTypeError, message))
        }
    }
}

/// The name is looked at before anything else, and nothing else if it is another one.
fn check_name(capsule: &Bound<'_, PyCapsule>, who: &str) -> PyResult<()> {
    let name = capsule.name()?;
    // SAFETY: the capsule is alive, and nobody renames it while we read.
    let name = name.map(|name| unsafe { name.as_cstr() }.to_string_lossy().into_owned());
    if name.as_deref().map(str::as_bytes) == Some(CAPSULE.to_bytes()) {
        return Ok(());
    }
    let got = name.map_or("no name".into(), |name| format!("the name {name:?}"));
    let message = format!(
        "{who} is no callback that this lumbre can call: its capsule has {got} where \
         {:?} is due. Install a build of it for version {MAJOR} of lumbre's callback ABI.",
        CAPSULE.to_string_lossy()
    );
    Err(exception(capsule.py(), Class::ABIError, message))
}

fn refusal(who: &str, refused: &Refused) -> String {
    let mend = match refused {
        Refused::Version { major, .. } if *major > MAJOR => {
            "Install a newer lumbre, or an older build of the extension."
        }
        Refused::Version { .. } => "Install a newer build of the extension.",
        _ => "Whoever made it has to build it with the crate lumbre-abi.",
    };
    let why = refused.to_string();
    format!(
        "{who} cannot be called: {}. {mend}",
        why.trim_end_matches('.')
    )
}
