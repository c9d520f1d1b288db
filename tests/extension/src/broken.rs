//! Callbacks that go wrong, wherever they are told to.

use std::error::Error;
use std::fmt;
use std::panic::panic_any;

use lumbre_abi::{Ctx, Result, callback};

/// Panics at one place.
pub struct Panics {
    at: String,
}

/// Panics at `new`, `on_fit_begin`, `on_train_batch_end` (in the second batch), `save`, `load` or
/// `drop`; `value` is `on_fit_begin` with something that is no text.
#[callback]
impl Panics {
    /// # Panics
    /// When that is where it is to.
    pub fn new(at: String) -> Self {
        assert!(at != "new", "the fuse blew in new");
        Self { at }
    }

    fn on_fit_begin(&mut self) {
        if self.at == "value" {
            panic_any(17_u8);
        }
        self.panic_at("on_fit_begin");
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) {
        if ctx.iter() == 2 {
            self.panic_at("on_train_batch_end");
        }
    }

    fn save(&self) -> Vec<u8> {
        self.panic_at("save");
        Vec::new()
    }

    fn load(&mut self, state: &[u8]) {
        let _ = state;
        self.panic_at("load");
    }

    fn panic_at(&self, place: &str) {
        assert!(self.at != place, "the fuse blew in {place}");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        // A second panic while one is under way would end the process, in any Rust program.
        if !std::thread::panicking() {
            self.panic_at("drop");
        }
    }
}

/// An error that has a cause.
#[derive(Debug)]
struct Unreadable(std::num::ParseIntError);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings cannot be read")
    }
}

impl Error for Unreadable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Fails at one place.
pub struct Fails {
    at: String,
}

/// Fails at `new`, `on_fit_begin`, `on_train_batch_end` (in the second batch), `on_exception`, `save` or
/// `load`; `ctx.fail` is `on_train_batch_end` by that method.
#[callback]
impl Fails {
    pub fn new(at: String) -> Result<Self> {
        let fails = Self { at };
        fails.fail_at("new")?;
        Ok(fails)
    }

    fn on_fit_begin(&mut self) -> Result {
        self.fail_at("on_fit_begin")
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        if ctx.iter() < 2 {
            return Ok(());
        }
        if self.at == "ctx.fail" {
            return ctx.fail(format!("batch {} is not to my taste", ctx.iter()));
        }
        self.fail_at("on_train_batch_end")
    }

    fn on_exception(&mut self) -> Result {
        self.fail_at("on_exception")
    }

    fn save(&self) -> Result<String> {
        self.fail_at("save")?;
        Ok("{}".into())
    }

    fn load(&mut self, state: &str) -> Result {
        let _ = state;
        self.fail_at("load")
    }

    fn fail_at(&self, place: &str) -> Result {
        if self.at == place {
            "twelve".parse::<u32>().map_err(Unreadable)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::layout::status;
    use lumbre_abi::testing::{Mounted, Run};

    use super::*;

    #[test]
    fn a_panic_is_told_and_stays_with_the_callback() {
        let (mut run, panics) = (
            Run::new(),
            Mounted::new(Panics::new("on_train_batch_end".into())),
        );
        run.fire(&panics, Hook::TrainBatchEnd).unwrap();
        run.next_batch();
        let trouble = run.fire(&panics, Hook::TrainBatchEnd).unwrap_err();
        assert_eq!(trouble.status, status::PANICKED);
        let message = "the fuse blew in on_train_batch_end";
        assert_eq!(trouble.message.as_deref(), Some(message));
        assert!(run.fire(&panics, Hook::FitBegin).is_err());
    }

    #[test]
    fn an_error_is_told_with_its_cause() {
        let (mut run, fails) = (
            Run::new(),
            Mounted::new(Fails::new("on_fit_begin".into()).unwrap()),
        );
        let trouble = run.fire(&fails, Hook::FitBegin).unwrap_err();
        let message = "the settings cannot be read: invalid digit found in string";
        assert_eq!(
            (trouble.status, trouble.to_string()),
            (status::FAILED, message.into())
        );
        run.fire(&fails, Hook::TrainBatchEnd).unwrap();
    }
}
