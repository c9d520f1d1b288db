//! Blocks as few people write them: words of Rust's for names, parts that are left out, defaults of all
//! kinds. That they compile is half of the test.
#![allow(
    clippy::unused_self,
    reason = "hooks have the signatures that they have"
)]
#![deny(
    trivial_casts,
    trivial_numeric_casts,
    unreachable_pub,
    unused_qualifications
)]

use lumbre_abi::{Ctx, Result, callback};

/// Has arguments with the names of other things.
pub struct Raw {
    r#type: u64,
}

/// Adds its arguments up and counts the ends of its fits; the sum is its state.
#[callback(weight = 2.0_f64)]
impl Raw {
    #[defaults(r#type = 3, r#match = 4, py = 5, shown = 6, cls = 7)]
    pub fn new(r#type: u64, r#match: u64, py: u64, shown: u64, cls: u64) -> Self {
        let r#type = r#type + r#match + py + shown + cls;
        Self { r#type }
    }

    fn r#on_fit_end(&mut self) {
        self.r#type += 100;
    }

    fn save(&self) -> String {
        self.r#type.to_string()
    }

    fn load(&mut self, r#state: &str) -> Result {
        self.r#type = r#state.parse()?;
        Ok(())
    }
}

/// A word of Rust's, which Python does not mind.
#[allow(non_camel_case_types)]
#[derive(Default)]
pub struct r#final;

#[callback]
impl r#final {
    fn on_fit_end(&mut self) {}
}

/// Tells what its constructor was given.
pub struct Defaults(String);

/// Every default is of another kind; what became of them is the state.
#[callback]
impl Defaults {
    pub const OWN: u8 = 7;

    #[defaults(
        own = Self::OWN,
        text = "é \"ß\"\n",
        some = "there",
        none = None,
        whole = -10,
        wide = 1,
        maybe = 2
    )]
    pub fn new(
        own: u8,
        text: String,
        some: Option<String>,
        none: Option<String>,
        whole: f64,
        wide: i64,
        maybe: Option<f32>,
    ) -> Self {
        Self(format!("{:?}", (own, text, some, none, whole, wide, maybe)))
    }

    fn on_fit_end(&mut self) {}

    fn save(&self) -> Vec<u8> {
        self.0.clone().into()
    }

    fn load(&mut self, state: &[u8]) -> Result {
        str::from_utf8(state)?.clone_into(&mut self.0);
        Ok(())
    }
}

/// Has parts that are not built.
#[derive(Default)]
pub struct Cut {
    calls: u32,
}

/// Of the hooks two are left, of the two states none; it logs how often it was called.
#[callback(logs("calls"))]
impl Cut {
    #[cfg(any())]
    fn on_fit_begin(&mut self, ctx: &mut Ctx<'_>) {
        nobody_has_this!(ctx);
    }

    #[cfg(any())]
    #[every(2)]
    fn on_train_batch_begin(&mut self, _: NobodyHasThis) {}

    #[cfg(not(any()))]
    #[every(2)]
    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.calls += 1;
        ctx.log("calls", self.calls.into())
    }

    #[cfg(not(any()))]
    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.calls += 10;
        ctx.log("calls", self.calls.into())
    }

    #[cfg(any())]
    fn save(&self) -> NobodyHasThis {}

    #[cfg(any())]
    fn load(&mut self, _: NobodyHasThis) {}
}

macro_rules! named {
    ($struct:ident, $name:literal, $weight:expr, $($hook:ident)+) => {
        /// Made by another macro.
        #[derive(Default)]
        pub struct $struct {
            calls: u64,
        }

        /// Logs how often it was called.
        #[callback(name = $name, weight = $weight, logs("named"))]
        impl $struct {
            $(fn $hook(&mut self, ctx: &mut Ctx<'_>) -> Result {
                self.calls += 1;
                ctx.log("named", self.calls as f64)
            })+
        }
    };
}

named!(Named, "Größe", 3, on_train_batch_end on_epoch_end);

/// Says that it saves JSON.
#[derive(Default)]
pub struct NoJson;

/// Its state is a text that is no JSON.
#[callback]
impl NoJson {
    #[allow(clippy::needless_arbitrary_self_type)]
    fn on_fit_end(self: &mut Self) {}

    fn save(&self) -> String {
        "{not json".into()
    }

    fn load(&mut self, state: &str) {
        let _ = state;
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::testing::{Mounted, Run};
    use lumbre_abi::{Hook, Saved};

    use super::*;

    #[test]
    fn words_of_rust_lose_their_mark() {
        assert_eq!(Mounted::new(r#final).foreign().name, "final");
        let raw = Mounted::new(Raw::new(1, 2, 3, 4, 5));
        Run::new().fire(&raw, Hook::FitEnd).unwrap();
        assert_eq!(raw.save().unwrap(), Some(Saved::Json("115".into())));
    }

    #[test]
    fn what_is_cut_is_in_no_table() {
        let cut = Mounted::new(Cut::default());
        let foreign = cut.foreign();
        assert_eq!(foreign.hooks, [Hook::TrainBatchEnd, Hook::EpochEnd]);
        assert_eq!(foreign.filters.len(), 1);
        assert!(!foreign.keeps_state());
    }

    #[test]
    fn a_macro_may_give_the_name_and_the_weight() {
        let named = Mounted::new(Named::default());
        assert_eq!(named.foreign().name, "Größe");
        assert_eq!(named.foreign().weight.to_bits(), 3.0_f64.to_bits());
    }
}
