//! The options of a metric, by name.

use crate::error::{Error, Result};

/// The value of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
    /// A list of numbers.
    Numbers(Vec<f64>),
}

/// Options by name. A metric takes those it knows; one that is left over is an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    given: Vec<(String, Setting)>,
    /// The metric they are for, for messages.
    metric: String,
}

impl Options {
    /// These options and one more.
    #[must_use]
    pub fn with(mut self, name: &str, setting: Setting) -> Self {
        self.given.push((name.into(), setting));
        self
    }

    /// The same, for the metric of that name.
    #[must_use]
    pub fn of(mut self, metric: &str) -> Self {
        self.metric = metric.into();
        self
    }

    /// All that were not taken yet.
    #[must_use]
    pub fn given(&self) -> &[(String, Setting)] {
        &self.given
    }

    /// Takes a yes or no.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.take(name, "True or False", |setting| match setting {
            Setting::Flag(flag) => Ok(flag),
            other => Err(other),
        })
    }

    /// Takes a number.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>> {
        self.take(name, "a number", |setting| match setting {
            Setting::Number(number) => Ok(number),
            other => Err(other),
        })
    }

    /// Takes a number to count with.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked in the arm
    pub fn count(&mut self, name: &str) -> Result<Option<usize>> {
        self.take(name, "a whole number above 0", |setting| match setting {
            Setting::Number(x) if (1.0..=4_294_967_296.0).contains(&x) && x.fract() == 0.0 => {
                Ok(x as usize)
            }
            other => Err(other),
        })
    }

    /// Takes a list of numbers.
    pub fn numbers(&mut self, name: &str) -> Result<Option<Vec<f64>>> {
        self.take(name, "a list of numbers", |setting| match setting {
            Setting::Numbers(numbers) => Ok(numbers),
            other => Err(other),
        })
    }

    /// Takes one of a few words, each with what it stands for.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let words = choices.iter().map(|(word, _)| format!("{word:?}"));
        let due = format!("one of {}", words.collect::<Vec<_>>().join(", "));
        self.take(name, &due, |setting| match &setting {
            Setting::Text(text) => {
                let known = choices.iter().find(|(word, _)| word == text);
                known.map(|&(_, choice)| choice).ok_or(setting)
            }
            _ => Err(setting),
        })
    }

    /// Ends the taking: what nobody took does not belong to the metric.
    pub fn end(self) -> Result<()> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::Metric(format!(
                "{} has no {name}, leave it out",
                self.metric
            ))),
        }
    }

    fn take<T>(
        &mut self,
        name: &str,
        due: &str,
        read: impl FnOnce(Setting) -> std::result::Result<T, Setting>,
    ) -> Result<Option<T>> {
        let Some(at) = self.given.iter().position(|(given, _)| given == name) else {
            return Ok(None);
        };
        read(self.given.remove(at).1).map(Some).map_err(|got| {
            let got = match got {
                Setting::Flag(flag) => (if flag { "True" } else { "False" }).to_owned(),
                Setting::Number(number) => number.to_string(),
                Setting::Text(text) => format!("{text:?}"),
                Setting::Numbers(numbers) => format!("{numbers:?}"),
            };
            Error::Metric(format!("{}: {name} is {due}; got {got}", self.metric))
        })
    }
}

/// How the values of the classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Over all samples, whatever their class.
    Micro,
    /// Each class weighs the same.
    Macro,
    /// Each class weighs as many samples as it has.
    Weighted,
    /// Not at all: one value a class.
    None,
}

impl Average {
    /// Takes the option `average`, macro unless given.
    pub fn take(options: &mut Options) -> Result<Self> {
        let choices = [
            ("micro", Self::Micro),
            ("macro", Self::Macro),
            ("weighted", Self::Weighted),
            ("none", Self::None),
        ];
        Ok(options.choice("average", &choices)?.unwrap_or(Self::Macro))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::default()
            .of("MSE")
            .with("k", Setting::Number(2.5))
            .with("average", Setting::Text("macro".into()))
            .with("from_logits", Setting::Flag(true))
            .with("thresholds", Setting::Numbers(vec![0.0, 1.0]))
    }

    #[test]
    fn each_option_is_taken_once_as_what_it_is() {
        let mut options = options();
        assert_eq!(options.number("k").unwrap(), Some(2.5));
        assert_eq!(options.number("k").unwrap(), None);
        let choices = [("micro", 1), ("macro", 2)];
        assert_eq!(options.choice("average", &choices).unwrap(), Some(2));
        assert_eq!(options.flag("from_logits").unwrap(), Some(true));
        let error = options.clone().end().unwrap_err().to_string();
        assert_eq!(error, "MSE has no thresholds, leave it out");
        assert_eq!(options.numbers("thresholds").unwrap(), Some(vec![0.0, 1.0]));
        options.end().unwrap();
    }

    #[test]
    fn an_option_of_another_kind_is_refused_with_what_is_due() {
        let refused = |error: Error| {
            assert!(matches!(error, Error::Metric(_)));
            error.to_string()
        };
        let error = refused(options().count("k").unwrap_err());
        assert_eq!(error, "MSE: k is a whole number above 0; got 2.5");
        let error = refused(options().choice("average", &[("micro", ())]).unwrap_err());
        assert_eq!(error, "MSE: average is one of \"micro\"; got \"macro\"");
        let error = refused(options().numbers("from_logits").unwrap_err());
        assert_eq!(error, "MSE: from_logits is a list of numbers; got True");
        let error = refused(options().flag("thresholds").unwrap_err());
        assert_eq!(error, "MSE: thresholds is True or False; got [0.0, 1.0]");
        assert!(options().number("average").is_err());
    }
}
