//! The state of a callback while it is not in memory.

use serde_json::Value;

/// What a callback keeps of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// In a form of its own.
    Bytes(Vec<u8>),
    /// As JSON.
    Json(String),
}

/// A number as JSON, exact to the bit. JSON has no number that is not finite: these are strings, and
/// a NaN has its bits, `"nan:7ff8000000000000"`.
#[must_use]
pub fn number_to_json(number: f64) -> Value {
    match serde_json::Number::from_f64(number) {
        Some(finite) => Value::Number(finite),
        None if number.is_nan() => Value::String(format!("nan:{:016x}", number.to_bits())),
        None => Value::String(if number > 0.0 { "inf" } else { "-inf" }.into()),
    }
}

/// The number that [`number_to_json`] has written.
#[must_use]
pub fn number_from_json(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            text => {
                let bits = u64::from_str_radix(text.strip_prefix("nan:")?, 16).ok()?;
                Some(f64::from_bits(bits)).filter(|number| number.is_nan())
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(number: f64) -> f64 {
        let text = number_to_json(number).to_string();
        number_from_json(&serde_json::from_str(&text).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn every_number_comes_back_to_the_bit(bits in any::<u64>()) {
            prop_assert_eq!(there_and_back(f64::from_bits(bits)).to_bits(), bits);
        }
    }

    #[test]
    fn the_corners_come_back_to_the_bit() {
        let corners = [
            0.0,
            -0.0,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::MAX,
            0.1 + 0.2,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            -f64::NAN,
            f64::from_bits(0x7ff0_0000_0000_0001),
        ];
        for number in corners {
            assert_eq!(there_and_back(number).to_bits(), number.to_bits());
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "\"nan\"",
            "\"nan:0000000000000001\"",
            "\"1\"",
            "null",
            "[1]",
            "true",
        ] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(number_from_json(&value), None, "{text}");
        }
    }
}
