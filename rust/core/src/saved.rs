//! The state of a callback while it is not in memory.

use std::fmt;

/// The state that a callback keeps of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Saved {
    /// In a form of its own.
    Bytes(Vec<u8>),
    /// As JSON.
    Json(String),
    /// As values by name.
    Fields(Vec<(String, Field)>),
}

impl Saved {
    /// One of the values by name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let Self::Fields(fields) = self else {
            return None;
        };
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, field)| field)
    }
}

/// The kind that was given instead, for messages.
impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Json(text) => f.write_str(text),
            Self::Fields(fields) => {
                let shown = fields
                    .iter()
                    .map(|(name, field)| format!("{name:?}: {field}"));
                write!(f, "{{{}}}", shown.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A value of a state, of the kinds that a file of JSON holds too.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// No value.
    Nothing,
    /// A whole number.
    Count(u64),
    /// Another number.
    Number(f64),
    /// A text.
    Text(String),
    /// A state that no callback writes, as a text for messages.
    Other(String),
}

impl Field {
    /// A number, exact to the bit. JSON has no number that is not finite: these are texts, and a NaN
    /// has its bits, `"nan:7ff8000000000000"`.
    #[must_use]
    pub fn of_number(number: f64) -> Self {
        if number.is_finite() {
            Self::Number(number)
        } else if number.is_nan() {
            Self::Text(format!("nan:{:016x}", number.to_bits()))
        } else {
            Self::Text(if number > 0.0 { "inf" } else { "-inf" }.into())
        }
    }

    /// The number that [`Field::of_number`] was given.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Count(number) => Some(*number as f64),
            Self::Number(number) => Some(*number).filter(|number| number.is_finite()),
            Self::Text(text) => match text.as_str() {
                "inf" => Some(f64::INFINITY),
                "-inf" => Some(f64::NEG_INFINITY),
                text => {
                    let bits = u64::from_str_radix(text.strip_prefix("nan:")?, 16).ok()?;
                    Some(f64::from_bits(bits)).filter(|number| number.is_nan())
                }
            },
            Self::Nothing | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("null"),
            Self::Count(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Other(shown) => f.write_str(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_to_the_bit(bits in any::<u64>()) {
            let number = Field::of_number(f64::from_bits(bits)).number();
            prop_assert_eq!(number.unwrap().to_bits(), bits);
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_a_text() {
        let nan = f64::from_bits(0x7ff0_0000_0000_0001);
        for (number, text) in [
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (nan, "nan:7ff0000000000001"),
        ] {
            assert_eq!(Field::of_number(number), Field::Text(text.into()));
        }
        assert_eq!(Field::of_number(f64::MAX), Field::Number(f64::MAX));
    }

    #[test]
    fn what_is_no_number_is_none() {
        let texts = ["nan", "nan:0000000000000001", "1", ""];
        let texts = texts.map(|text| Field::Text(text.into()));
        let others = [
            Field::Nothing,
            Field::Number(f64::NAN),
            Field::Number(f64::INFINITY),
            Field::Other("[1]".into()),
        ];
        for field in texts.into_iter().chain(others) {
            assert_eq!(field.number(), None, "{field}");
        }
        assert_eq!(Field::Count(3).number(), Some(3.0));
    }

    #[test]
    fn a_state_is_shown_as_it_was_given() {
        let fields = [
            ("best", Field::Number(3.0)),
            ("none", Field::Nothing),
            ("waited", Field::Count(1)),
            ("why", Field::Text("a \"b\"".into())),
            ("what", Field::Other("[1]".into())),
        ];
        let saved = Saved::Fields(fields.map(|(name, field)| (name.to_owned(), field)).into());
        assert_eq!(
            saved.to_string(),
            r#"{"best": 3.0, "none": null, "waited": 1, "why": "a \"b\"", "what": [1]}"#
        );
        assert_eq!(saved.field("waited"), Some(&Field::Count(1)));
        assert_eq!(saved.field("nobody"), None);
        assert_eq!(Saved::Json("{}".into()).field("waited"), None);
        assert_eq!(Saved::Bytes(vec![1, 2]).to_string(), "2 bytes");
    }
}
