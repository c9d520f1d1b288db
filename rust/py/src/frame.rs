//! The run as the core sees it: what a callback in Rust can reach.

use std::sync::PoisonError;

use lumbre_core::Result;
use lumbre_core::callback::{Context, Host};
use lumbre_core::flow::{Set, State};
use lumbre_core::records::{Entry, Records};
use pyo3::prelude::*;

use crate::error::carry;
use crate::run::Run;

/// Python as the host of the core.
pub struct PyHost;

/// `ctx`, lent for one breakpoint.
pub struct Frame<'a> {
    pub run: &'a Bound<'a, Run>,
}

impl Host for PyHost {
    type Context<'a> = Frame<'a>;
}

fn has(entry: &Entry, name: &str) -> bool {
    entry.iter().any(|(known, _)| &**known == name)
}

impl Context for Frame<'_> {
    fn state(&self) -> &State {
        &self.run.get().state
    }

    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T {
        with(
            &mut self
                .run
                .get()
                .records
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn reset_metrics(&self, set: Set) -> Result<()> {
        let Some(bound) = self.run.get().bound() else {
            return Ok(());
        };
        bound
            .meter(set)
            .bind(self.run.py())
            .get()
            .reset(self.run)
            .map_err(carry)
    }

    fn update_metrics(&self, _: Set) -> Result<()> {
        self.run.get().count_later();
        Ok(())
    }

    fn log_metrics(&self, set: Set) -> Result<()> {
        let Some(bound) = self.run.get().bound() else {
            return Ok(());
        };
        let values = bound
            .meter(set)
            .bind(self.run.py())
            .get()
            .values(self.run)
            .map_err(carry)?;
        let epoch = self.state().epoch();
        self.records(|records| {
            // The pass' own values come first, whatever was logged while it ran.
            let logged = std::mem::take(records.reach(set, epoch));
            for (name, value) in values.into_iter().chain(logged) {
                if records
                    .entry(set, epoch)
                    .is_none_or(|entry| !has(entry, &name))
                {
                    records.log(set, epoch, &name, value);
                }
            }
        });
        Ok(())
    }

    fn draw(&self) -> Result<()> {
        self.run.get().draw_later();
        Ok(())
    }
}
