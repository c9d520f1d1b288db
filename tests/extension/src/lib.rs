//! Callbacks that the tests of lumbre install as a wheel of its own, well-behaved and others.

mod asks;
mod broken;
mod bursts;
mod drops;
mod input_stats;
mod loss_spike;
mod means;
mod odd;
mod questions;
mod sieve;
mod throughput;

pub use asks::Asks;
pub use broken::{Fails, Panics};
pub use bursts::Bursts;
pub use drops::Drops;
pub use input_stats::InputStats;
pub use loss_spike::LossSpike;
pub use means::Means;
pub use odd::{Cut, Defaults, Named, NoJson, Raw, r#final};
pub use questions::{Both, Glimpse};
pub use sieve::Sieve;
pub use throughput::Throughput;

#[cfg(feature = "python")]
mod calls;
#[cfg(feature = "python")]
mod leaves;
#[cfg(feature = "python")]
mod witness;

#[cfg(feature = "python")]
pub use calls::Calls;
#[cfg(feature = "python")]
pub use leaves::{Leaves, Parts};
#[cfg(feature = "python")]
pub use witness::Witness;

#[cfg(feature = "python")]
lumbre_abi::module!(
    lumbre_test_extension: Asks, Both, Bursts, Calls, Cut, Defaults, Drops, Fails, Glimpse, InputStats,
    Leaves, LossSpike, Means, Named, NoJson, Panics, Parts, Raw, Sieve, Throughput, Witness, r#final,
);
