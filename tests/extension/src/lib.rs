//! Callbacks that the tests of lumbre install as a wheel of its own, well-behaved and others.

mod asks;
mod broken;
mod drops;
mod input_stats;
mod loss_spike;
mod sieve;
mod throughput;

pub use asks::Asks;
pub use broken::{Fails, Panics};
pub use drops::Drops;
pub use input_stats::InputStats;
pub use loss_spike::LossSpike;
pub use sieve::Sieve;
pub use throughput::Throughput;

#[cfg(feature = "python")]
mod calls;
#[cfg(feature = "python")]
mod witness;

#[cfg(feature = "python")]
pub use calls::Calls;
#[cfg(feature = "python")]
pub use witness::Witness;

#[cfg(feature = "python")]
lumbre_abi::module!(
    lumbre_test_extension: Asks, Calls, Drops, Fails, InputStats, LossSpike, Panics, Sieve, Throughput,
    Witness,
);
