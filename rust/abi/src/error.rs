//! What a callback says when something goes wrong.

use std::error::Error as StdError;
use std::fmt;

/// The result of a hook. `?` takes every error there is, and texts.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why a callback gives up: the run ends with it, as an exception that names callback, hook and
/// place.
///
/// It is made of any error, or of a text. A Python exception inside keeps its type.
///
/// ```
/// fn ratio(a: f64, b: f64) -> lumbre_abi::Result<f64> {
///     if b == 0.0 {
///         return Err("the batch has no samples".into());
///     }
///     Ok(a / b)
/// }
/// assert_eq!(ratio(1.0, 0.0).unwrap_err().to_string(), "the batch has no samples");
/// ```
pub struct Error(Kind);

enum Kind {
    Own(Box<dyn StdError + Send + Sync>),
    /// The host could not do what it was asked for, and keeps the reason under this number.
    Host(u32),
}

impl Error {
    /// The host's error of that number.
    pub(crate) fn of_host(number: u32) -> Self {
        Self(Kind::Host(number))
    }

    /// The error inside, or the number of one that is the host's.
    pub(crate) fn into_inner(self) -> Result<Box<dyn StdError + Send + Sync>, u32> {
        match self.0 {
            Kind::Own(error) => Ok(error),
            Kind::Host(number) => Err(number),
        }
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Kind::Own(error.into()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Own(error) => error.fmt(f),
            Kind::Host(_) => f.write_str("lumbre could not do what it was asked for"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The words of an error and of its causes: where it becomes a text is the last place to tell them.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
