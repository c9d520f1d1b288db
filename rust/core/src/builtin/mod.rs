//! The callbacks that are written in Rust.

mod early_stopping;
mod metrics;
mod profile;
mod progress;
mod terminate_on_nan;

pub use early_stopping::EarlyStopping;
pub use metrics::Metrics;
pub use profile::Profile;
pub use progress::Progress;
pub use terminate_on_nan::TerminateOnNaN;
