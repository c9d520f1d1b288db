//! A loss that is not finite, in words.

/// The warning about it; `so` is what becomes of it.
#[must_use]
pub fn non_finite(name: &str, loss: f64, place: &str, so: &str) -> String {
    format!(
        "The {name} is {loss} at {place}; {so}. \
         Look at the learning rate, the data and divisions or logarithms of 0."
    )
}
