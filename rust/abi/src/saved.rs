//! The state of a callback, as a checkpoint keeps it.

use crate::error::{Error, Result};
use crate::layout::form;

/// A saved state.
///
/// ```
/// use lumbre_abi::{Ctx, Result, callback};
///
/// #[derive(Default)]
/// struct Smoothed {
///     loss: f64,
/// }
///
/// #[callback(logs("smoothed"))]
/// impl Smoothed {
///     fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
///         self.loss = 0.9 * self.loss + 0.1 * ctx.loss()?.unwrap_or(0.0);
///         ctx.log("smoothed", self.loss)
///     }
///
///     fn save(&self) -> Vec<u8> {
///         self.loss.to_le_bytes().to_vec()
///     }
///
///     fn load(&mut self, state: &[u8]) -> Result {
///         self.loss = f64::from_le_bytes(state.try_into()?);
///         Ok(())
///     }
/// }
///
/// use lumbre_abi::{Saved, testing::Mounted};
///
/// let saved = Mounted::new(Smoothed { loss: 0.25 }).save().unwrap();
/// assert_eq!(saved, Some(Saved::Bytes(0.25_f64.to_le_bytes().to_vec())));
///
/// let resumed = Mounted::new(Smoothed::default());
/// resumed.load(&saved.unwrap()).unwrap();
/// assert_eq!(resumed.with(|smoothed| smoothed.loss), 0.25);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Bytes that nobody but the callback understands.
    Bytes(Vec<u8>),
    /// JSON, which can be read in the checkpoint. Python may have read it and written it anew: numbers and
    /// spaces may look otherwise, and infinity and NaN are no JSON.
    Json(String),
}

impl Saved {
    /// Its form and its bytes, as they cross the border.
    pub(crate) fn parts(&self) -> (u32, &[u8]) {
        match self {
            Self::Bytes(bytes) => (form::BYTES, bytes),
            Self::Json(text) => (form::JSON, text.as_bytes()),
        }
    }
}

/// The results that a method `save` may give: `Vec<u8>` for bytes, `String` for JSON, or a `Result` of these.
pub trait IntoSaved {
    /// The state, in its form.
    ///
    /// # Errors
    /// The state that `save` gives.
    fn into_saved(self) -> Result<Saved>;
}

impl IntoSaved for Vec<u8> {
    fn into_saved(self) -> Result<Saved> {
        Ok(Saved::Bytes(self))
    }
}

impl IntoSaved for String {
    fn into_saved(self) -> Result<Saved> {
        Ok(Saved::Json(self))
    }
}

impl<T: IntoSaved, E: Into<Error>> IntoSaved for Result<T, E> {
    fn into_saved(self) -> Result<Saved> {
        self.map_err(Into::into)?.into_saved()
    }
}

/// The states that a method `load` may take: `&[u8]` where `save` gives bytes, `&str` where it gives JSON.
pub trait FromSaved<'a>: Sized {
    /// The state, if it is in this form.
    ///
    /// # Errors
    /// It is in the other one.
    fn from_saved(saved: &'a Saved) -> Result<Self>;
}

impl<'a> FromSaved<'a> for &'a [u8] {
    fn from_saved(saved: &'a Saved) -> Result<Self> {
        match saved {
            Saved::Bytes(bytes) => Ok(bytes),
            Saved::Json(_) => Err("the saved state is JSON, and bytes are due".into()),
        }
    }
}

impl<'a> FromSaved<'a> for &'a str {
    fn from_saved(saved: &'a Saved) -> Result<Self> {
        match saved {
            Saved::Json(text) => Ok(text),
            Saved::Bytes(_) => Err("the saved state is bytes, and JSON is due".into()),
        }
    }
}

impl<'a> FromSaved<'a> for &'a Saved {
    fn from_saved(saved: &'a Saved) -> Result<Self> {
        Ok(saved)
    }
}
