//! The callbacks that are written in Rust.

mod early_stopping;
mod metrics;
mod profile;
mod progress;
mod step_history;
mod terminate_on_nan;
mod throughput;

pub use early_stopping::EarlyStopping;
pub use metrics::Metrics;
pub use profile::Profile;
pub use progress::Progress;
pub use step_history::StepHistory;
pub use terminate_on_nan::TerminateOnNaN;
pub use throughput::Throughput;
