//! The heart of lumbre, without Python and without torch: which hooks there are, who runs at which
//! of them and in what order, what a wish to stop or skip leads to, how metrics add up, and what is
//! kept of a run.
//!
//! A host (the Python binding, a test, a fuzz target) brings callbacks and a [`callback::Context`];
//! [`schedule::Schedule`] is compiled from them once a run and then fired breakpoint by breakpoint.
#![forbid(unsafe_code)]

pub mod builtin;
pub mod callback;
pub mod error;
pub mod filter;
pub mod flow;
pub mod hook;
pub mod lock;
pub mod loss;
pub mod means;
pub mod metrics;
pub mod monitor;
pub mod number;
pub mod order;
pub mod records;
pub mod saved;
pub mod schedule;
pub mod spelling;
pub mod steps;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
