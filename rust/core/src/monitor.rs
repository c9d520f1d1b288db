//! The value of the records that a callback watches.

use crate::callback::{Context, Warning};
use crate::error::{Error, Result};
use crate::number;
use crate::records::{Mode, Set, Value};
use crate::spelling::{is_slip_of, nearest};

/// Watches `monitor="valid_loss"`: a set, then the name of a record.
#[derive(Clone, Debug)]
pub struct Monitor {
    owner: String,
    text: String,
    set: Set,
    name: String,
    mode: Mode,
    min_delta: f64,
}

impl Monitor {
    /// Watch a record for a callback; `owner` is what messages call it.
    ///
    /// # Errors
    /// The set, the mode or the delta is none.
    pub fn new(owner: &str, monitor: &str, mode: &str, min_delta: f64) -> Result<Self> {
        let (set, name) = monitor.split_once('_').unwrap_or((monitor, ""));
        let Some(set) = Set::from_name(set).filter(|_| !name.is_empty()) else {
            let is_name = name.is_empty() && !set.is_empty() && Set::from_name(set).is_none();
            let meant = match (set.starts_with("val") && !name.is_empty(), is_name) {
                (true, _) => format!(" Did you mean \"valid_{name}\"?"),
                (_, true) if !monitor.contains('_') => {
                    format!(" Did you mean \"valid_{monitor}\"?")
                }
                _ => String::new(),
            };
            return Err(Error::Argument(format!(
                "{owner}: monitor is a set and the name of a record, such as \"valid_loss\" or \
                 \"train_acc\"; got '{monitor}'.{meant}"
            )));
        };
        let Some(mode) = Mode::from_name(mode) else {
            return Err(Error::Argument(format!(
                "{owner}: mode is \"min\", \"max\" or \"zero\"; got '{mode}'."
            )));
        };
        if min_delta.is_nan() || min_delta < 0.0 {
            return Err(Error::Argument(format!(
                "{owner}: min_delta is 0 or more; got {}.",
                number::plain(min_delta)
            )));
        }
        Ok(Self {
            owner: owner.to_owned(),
            text: monitor.to_owned(),
            set,
            name: name.to_owned(),
            mode,
            min_delta,
        })
    }

    /// When the fit begins: is there anything to watch? A name that is not known yet is warned about,
    /// where the user's own code may log it only if it looks like a slip.
    ///
    /// # Errors
    /// The validation data is watched and there is none.
    pub fn check(&self, ctx: &impl Context) -> Result<()> {
        let announced = ctx.announced()?;
        if self.set == Set::Valid && !announced.validates {
            return Err(Error::Monitor(format!(
                "{self}: this fit has no validation data. Pass valid_data= to fit, or \
                 monitor=\"train_{}\".",
                self.name
            )));
        }
        let sets = &Set::ALL[..if announced.validates { 2 } else { 1 }];
        let named = |set: &Set, names: &[String]| {
            let name = |name: &String| format!("{}_{name}", set.name());
            names.iter().map(name).collect::<Vec<_>>()
        };
        let of_run = sets
            .iter()
            .flat_map(|set| named(set, &announced.metrics[*set as usize]));
        let logged = sets.iter().flat_map(|set| named(set, &announced.logs));
        let known: Vec<String> = of_run.chain(announced.logs.clone()).chain(logged).collect();
        if known.contains(&self.text) || announced.may_have_others {
            return Ok(());
        }
        if announced.may_log && !known.iter().any(|known| is_slip_of(&self.text, known)) {
            return Ok(()); // after the first epoch it is known
        }
        let (owner, text) = (&self.owner, &self.text);
        ctx.warn(
            Warning::Monitor,
            &format!(
                "{owner} watches \"{text}\", which is no metric of this run: they are {}. {}If a \
                 callback logs it, let it say so: logs = (\"{text}\",).",
                known.join(", "),
                self.hint(&known)
                    .map_or_else(String::new, |hint| hint + " ")
            ),
        )
    }

    /// When the fit begins: a metric that is watched the wrong way round is warned about.
    ///
    /// # Errors
    /// The warning is made an error.
    pub fn check_mode(&self, ctx: &impl Context) -> Result<()> {
        let announced = ctx.announced()?;
        let known = announced.better.iter().find(|(name, _)| *name == self.text);
        let (taken, meant, mode) = match (self.mode, known) {
            (Mode::Min, Some((_, Mode::Max))) => ("lower", "higher", "max"),
            (Mode::Max, Some((_, Mode::Min))) => ("higher", "lower", "min"),
            _ => return Ok(()),
        };
        let (owner, text) = (&self.owner, &self.text);
        ctx.warn(
            Warning::Monitor,
            &format!(
                "{owner} takes a {taken} {text} for the better one, and the {meant} one is. Pass \
                 mode=\"{mode}\"."
            ),
        )
    }

    /// When an epoch ends: its value; `None` when the epoch measured nothing.
    ///
    /// # Errors
    /// The epoch has other values but not this one, or it is no number.
    pub fn value(&self, ctx: &impl Context) -> Result<Option<f64>> {
        match ctx.metric(self.set, &self.name, None)? {
            Some(Value::Number(number)) => return Ok(Some(number)),
            Some(Value::Array { shape, .. }) => {
                let comma = if shape.len() == 1 { "," } else { "" };
                let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
                return Err(Error::Monitor(format!(
                    "{self}: it is an array of shape ({}{comma}), of which none is better than \
                     another. Log a number of it: ctx.log_metric(\"name\", value.mean()).",
                    sizes.join(", ")
                )));
            }
            None => {}
        }
        // Before the first epoch there is only what a validation pass measures by itself.
        if ctx.state().is_before_epochs() || ctx.metric_names(self.set)?.is_empty() {
            return Ok(None);
        }
        let mut there = Vec::new();
        for set in Set::ALL {
            let names = ctx.metric_names(set)?;
            there.extend(names.iter().map(|name| format!("{}_{name}", set.name())));
        }
        Err(Error::Monitor(format!(
            "{self}: after epoch {} the records are {}.{}",
            ctx.state().epoch(),
            there.join(", "),
            self.hint(&there)
                .map_or_else(String::new, |hint| format!("\n{hint}"))
        )))
    }

    /// True if a value is better than the best one so far; NaN never is.
    #[must_use]
    pub fn improves(&self, value: f64, best: f64) -> bool {
        if value.is_nan() || best.is_nan() {
            return !value.is_nan();
        }
        match self.mode {
            Mode::Min => value < best - self.min_delta,
            Mode::Max => value > best + self.min_delta,
            Mode::Zero => value.abs() < best.abs() - self.min_delta,
        }
    }

    /// The watched value, as the user has written it.
    #[must_use]
    pub fn watched(&self) -> &str {
        &self.text
    }

    fn hint(&self, there: &[String]) -> Option<String> {
        let near = nearest(&self.text, there.iter().map(String::as_str));
        near.map(|near| format!("Did you mean \"{near}\"?"))
    }
}

/// The beginning of every error about it.
impl std::fmt::Display for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cannot watch \"{}\"", self.owner, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Run;

    fn monitor(text: &str) -> Monitor {
        Monitor::new("Judge", text, "min", 0.0).unwrap()
    }

    fn refused(text: &str, mode: &str, min_delta: f64) -> String {
        Monitor::new("Judge", text, mode, min_delta)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn it_is_a_set_and_a_name() {
        let watched = monitor("train_my_loss");
        assert_eq!(
            (watched.set, watched.name.as_str()),
            (Set::Train, "my_loss")
        );
        for text in ["loss", "valid", "valid_", "_loss", "test_loss", ""] {
            let message = refused(text, "min", 0.0);
            assert!(
                message.starts_with("Judge: monitor is a set")
                    && message.contains(&format!("got '{text}'"))
            );
            let is_name = text == "loss";
            assert_eq!(message.contains("Did you mean"), is_name, "{message}");
        }
        assert!(refused("loss", "min", 0.0).ends_with("Did you mean \"valid_loss\"?"));
        assert!(refused("val_acc", "min", 0.0).ends_with("Did you mean \"valid_acc\"?"));
        assert!(refused("train_loss", "least", 0.0).ends_with("\"zero\"; got 'least'."));
        assert!(refused("train_loss", "min", -0.5).ends_with("got -0.5."));
        assert!(refused("train_loss", "min", f64::NAN).ends_with("got nan."));
    }

    #[test]
    fn it_asks_for_validation_data_where_that_is_watched() {
        let run = Run::default();
        let error = monitor("valid_loss").check(&run).unwrap_err().to_string();
        assert!(error.contains("no validation data") && error.contains("monitor=\"train_loss\""));
        run.announces("loss", true);
        monitor("valid_loss").check(&run).unwrap();
        assert!(run.warnings().is_empty());
    }

    #[test]
    fn a_name_that_is_not_known_is_warned_about_unless_a_callback_logs_it() {
        let run = Run::default();
        run.announces("loss", true);
        monitor("train_los").check(&run).unwrap();
        let (kind, message) = run.warnings().pop().unwrap();
        assert_eq!(kind, Warning::Monitor);
        assert!(
            message.contains("they are train_loss, valid_loss. Did you mean \"train_loss\"? If")
        );
        run.logs("score");
        monitor("valid_score").check(&run).unwrap();
        run.logs("valid_other");
        monitor("valid_other").check(&run).unwrap();
        assert_eq!(run.warnings().len(), 1);
    }

    #[test]
    fn where_the_users_code_may_log_it_only_a_slip_is_warned_about() {
        let run = Run::default();
        run.announces("loss", true);
        run.may_log();
        monitor("valid_kl").check(&run).unwrap();
        assert!(run.warnings().is_empty());
        monitor("valid_lss").check(&run).unwrap();
        assert_eq!(run.warnings().len(), 1);
        let other = Run::default();
        other.announces("loss", true);
        monitor("valid_kl").check(&other).unwrap();
        assert_eq!(other.warnings().len(), 1);
    }

    #[test]
    fn a_metric_that_is_watched_the_wrong_way_round_is_warned_about() {
        let run = Run::default();
        run.announces_better("valid_acc", Mode::Max);
        run.announces_better("train_mae", Mode::Min);
        let watch = |text, mode| {
            let watched = Monitor::new("Judge", text, mode, 0.0).unwrap();
            watched.check_mode(&run).unwrap();
        };
        for (text, mode) in [
            ("valid_acc", "max"),
            ("valid_acc", "zero"),
            ("train_mae", "min"),
            ("train_mae", "zero"),
            ("train_acc", "min"),
        ] {
            watch(text, mode);
        }
        assert!(run.warnings().is_empty());
        watch("valid_acc", "min");
        watch("train_mae", "max");
        let said: Vec<String> = run.warnings().into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            said,
            [
                "Judge takes a lower valid_acc for the better one, and the higher one is. Pass \
                 mode=\"max\".",
                "Judge takes a higher train_mae for the better one, and the lower one is. Pass \
                 mode=\"min\"."
            ]
        );
    }

    #[test]
    fn a_value_that_is_not_there_is_an_error_that_lists_those_there_are() {
        let run = Run::new(1);
        run.state().next_epoch();
        assert_eq!(
            monitor("valid_acc").value(&run).unwrap(),
            None,
            "nothing was measured"
        );
        run.record(Set::Valid, "acc", 0.5);
        assert_eq!(monitor("valid_acc").value(&run).unwrap(), Some(0.5));
        assert_eq!(
            monitor("valid_acd").value(&run).unwrap_err().to_string(),
            "Judge cannot watch \"valid_acd\": after epoch 1 the records are valid_acc.\n\
             Did you mean \"valid_acc\"?"
        );
        run.record(
            Set::Valid,
            "each",
            Value::Array {
                shape: vec![2],
                data: vec![0.0, 1.0],
            },
        );
        let error = monitor("valid_each").value(&run).unwrap_err().to_string();
        assert!(
            error.contains("an array of shape (2,), of which"),
            "{error}"
        );
    }

    #[test]
    fn better_is_what_the_mode_says_by_more_than_the_delta_and_never_nan() {
        let improves = |mode, min_delta, value, best| {
            Monitor::new("Judge", "train_loss", mode, min_delta)
                .unwrap()
                .improves(value, best)
        };
        assert!(improves("min", 0.5, 1.0, 2.0) && !improves("min", 0.5, 1.5, 2.0));
        assert!(improves("max", 0.5, 2.0, 1.0) && !improves("max", 0.5, 1.5, 1.0));
        assert!(improves("zero", 0.0, -1.0, 2.0) && !improves("zero", 0.0, -2.0, 1.0));
        for mode in ["min", "max", "zero"] {
            assert!(
                !improves(mode, 0.0, f64::NAN, 1.0) && !improves(mode, 0.0, f64::NAN, f64::NAN)
            );
            assert!(improves(mode, 0.0, 1.0, f64::NAN));
        }
    }
}
