//! Numbers as people read them.

/// A value with the digits that matter: four decimals, more when it is tiny or huge.
#[must_use]
pub fn format_value(value: f64) -> String {
    if !value.is_finite() {
        return plain(value);
    }
    let size = value.abs();
    if size < 1e6 && (size >= 1e-3 || size == 0.0) {
        return format!("{value:.4}");
    }
    let text = format!("{value:.3e}");
    // The exponent has a sign and two digits, as in Python and C.
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

/// A number with all its digits.
#[must_use]
pub fn plain(value: f64) -> String {
    if value.is_nan() {
        "nan".into()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right-hand sides were written by Python: `f"{value:.4f}"`, `f"{value:.3e}"`.
    #[test]
    fn values_read_as_python_writes_them() {
        let cases = [
            (0.0, "0.0000"),
            (-0.0, "-0.0000"),
            (5.0, "5.0000"),
            (0.03125, "0.0312"),
            (0.09375, "0.0938"),
            (-0.12345, "-0.1235"),
            (0.001, "0.0010"),
            (999_999.999_99, "1000000.0000"),
            (0.000_999_9, "9.999e-04"),
            (1e6, "1.000e+06"),
            (-1_234_567.0, "-1.235e+06"),
            (1_000_500.0, "1.000e+06"),
            (1.5e-300, "1.500e-300"),
            (f64::MAX, "1.798e+308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (-f64::NAN, "nan"),
        ];
        for (value, text) in cases {
            assert_eq!(format_value(value), text);
        }
    }

    #[test]
    fn a_plain_number_has_all_its_digits() {
        assert_eq!(plain(-1.0), "-1");
        assert_eq!(plain(0.1 + 0.2), "0.30000000000000004");
        assert_eq!(plain(f64::NAN), "nan");
    }
}
