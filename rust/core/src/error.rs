//! What can go wrong in the core. Every sentence says what was expected, what was got and the mend.

/// The result of everything in the core that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One variant for each class of error that a user may want to catch.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub enum Error {
    /// A method or breakpoint is named like a hook and is none.
    Hook(String),
    /// A weight is NaN, constraints form a cycle, a filter can never hold.
    Schedule(String),
    /// The shapes of predictions and targets do not fit together.
    Shape(String),
    /// A dtype that cannot be measured, such as a complex one.
    DType(String),
    /// A target names a class that is not there.
    Target(String),
    /// A name, an argument or a merge that does not fit the metrics of the run.
    Metric(String),
    /// A callback watches a value that the records do not hold, or that is no number.
    Monitor(String),
    /// An argument has a value that cannot work.
    Argument(String),
    /// A callback of a foreign library failed, and says why.
    Extension(String),
    /// A callback, metric or loss of the host language failed; it is handed back as it came.
    Host(Box<dyn std::error::Error + Send + Sync>),
}
