//! What can go wrong in the core. Every sentence says what was expected, what was got and the mend.

/// The result of everything in the core that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One variant for each class of error that a user may want to catch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A method or breakpoint is named like a hook and is none.
    #[error("{0}")]
    Hook(String),
    /// A weight is NaN, constraints form a cycle, a filter can never hold.
    #[error("{0}")]
    Schedule(String),
    /// The shapes of predictions and targets do not fit together.
    #[error("{0}")]
    Shape(String),
    /// A dtype that cannot be measured, such as a complex one.
    #[error("{0}")]
    DType(String),
    /// A target names a class that is not there.
    #[error("{0}")]
    Target(String),
    /// A name, an argument or a merge that does not fit the metrics of the run.
    #[error("{0}")]
    Metric(String),
    /// A callback watches a value that the records do not hold, or that is no number.
    #[error("{0}")]
    Monitor(String),
    /// An argument has a value that cannot work.
    #[error("{0}")]
    Argument(String),
    /// A callback of a foreign library failed, and says why.
    #[error("{0}")]
    Extension(String),
    /// A callback, metric or loss of the host language failed; it is handed back as it came.
    #[error("{0}")]
    Host(Box<dyn std::error::Error + Send + Sync>),
}
