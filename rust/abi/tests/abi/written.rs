//! Blocks as few people write them: parts that are left out, words of Rust's for names, a receiver in
//! full, and blocks that another macro writes.
#![deny(
    trivial_casts,
    trivial_numeric_casts,
    unreachable_pub,
    unused_qualifications
)]

use lumbre_abi::testing::{Mounted, Run};
use lumbre_abi::{Ctx, Hook, Result, Saved, callback};

#[derive(Default)]
struct Cut(Vec<Hook>);

#[callback(weight = 1.5_f64)]
impl Cut {
    #[cfg(any())]
    fn on_fit_begin(&mut self, ctx: &mut Ctx<'_>) {
        nobody_has_this!(ctx);
    }

    #[cfg(any())]
    #[every(2)]
    fn on_epoch_begin(&mut self, _: NobodyHasThis) {}

    #[cfg(not(any()))]
    #[every(3)]
    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) {
        self.0.extend(ctx.hook());
    }

    #[cfg(any())]
    fn save(&self) -> NobodyHasThis {}

    #[cfg(any())]
    fn load(&mut self, _: NobodyHasThis) {}
}

#[test]
fn what_cfg_leaves_out_is_not_in_the_table() {
    let cut = Mounted::new(Cut::default());
    let foreign = cut.foreign();
    assert_eq!(foreign.hooks, [Hook::EpochEnd]);
    let filters: Vec<_> = foreign
        .filters
        .iter()
        .map(|(hook, f)| (*hook, f.every))
        .collect();
    assert_eq!(filters, [(Hook::EpochEnd, 3)]);
    assert!(!foreign.keeps_state());
    assert_eq!(cut.save().unwrap(), None);
    Run::new().fire(&cut, Hook::EpochEnd).unwrap();
    assert_eq!(cut.with(|cut| cut.0.clone()), [Hook::EpochEnd]);
}

#[derive(Default)]
struct Kept(u8);

#[callback]
impl Kept {
    #[cfg(not(any()))]
    fn save(&self) -> Vec<u8> {
        vec![self.0]
    }

    #[cfg(not(any()))]
    fn load(&mut self, state: &[u8]) {
        self.0 = state.len().try_into().unwrap_or(u8::MAX);
    }
}

#[test]
fn a_state_that_cfg_leaves_in_is_kept() {
    let kept = Mounted::new(Kept(3));
    assert!(kept.foreign().keeps_state());
    kept.load(&Saved::Bytes(vec![0; 7])).unwrap();
    assert_eq!(kept.save().unwrap(), Some(Saved::Bytes(vec![7])));
}

#[allow(non_camel_case_types)]
struct r#final {
    r#type: u64,
}

#[callback]
impl r#final {
    #[defaults(r#type = 3, py = 4, shown = 5)]
    fn new(r#type: u64, py: u64, shown: u64) -> Self {
        Self {
            r#type: r#type + py + shown,
        }
    }

    fn r#on_fit_end(&mut self) {
        self.r#type += 1;
    }
}

#[test]
fn words_of_rust_lose_their_mark() {
    let raw = Mounted::new(r#final::new(3, 4, 5));
    assert_eq!(raw.foreign().name, "final");
    Run::new().fire(&raw, Hook::FitEnd).unwrap();
    assert_eq!(raw.with(|raw| raw.r#type), 13);
}

#[derive(Default)]
struct Full(u8);

#[callback]
impl Full {
    #[allow(clippy::needless_arbitrary_self_type)]
    fn on_fit_begin(self: &mut Self) {
        self.0 += 1;
    }

    #[allow(clippy::needless_arbitrary_self_type)]
    fn save(self: &Self) -> Vec<u8> {
        vec![self.0]
    }

    fn load(&mut self, state: &[u8]) {
        let _ = state;
    }
}

#[test]
fn a_receiver_may_be_written_in_full() {
    let full = Mounted::new(Full::default());
    Run::new().fire(&full, Hook::FitBegin).unwrap();
    assert_eq!(full.save().unwrap(), Some(Saved::Bytes(vec![1])));
}

macro_rules! named {
    ($struct:ident, $name:literal, $weight:expr, $log:literal, $($hook:ident)+) => {
        #[derive(Default)]
        struct $struct(f64);

        #[callback(name = $name, weight = $weight, after($name, "x"), logs($log))]
        impl $struct {
            $(fn $hook(&mut self, ctx: &mut Ctx<'_>) -> Result {
                self.0 += 1.0;
                ctx.log($log, self.0)
            })+
        }
    };
}

named!(Named, "Größe", -3, "calls", on_train_batch_end on_epoch_end);

#[test]
fn a_macro_may_write_the_block() {
    let named = Mounted::new(Named::default());
    let foreign = named.foreign();
    assert_eq!(foreign.name, "Größe");
    assert_eq!(foreign.weight.to_bits(), (-3.0_f64).to_bits());
    assert_eq!(
        (&*foreign.after, &*foreign.logs),
        (&["Größe".into(), "x".into()][..], &["calls".into()][..])
    );
    let mut run = Run::new();
    run.fire(&named, Hook::TrainBatchEnd).unwrap();
    run.fire(&named, Hook::EpochEnd).unwrap();
    let logged = [
        ("train_calls".to_owned(), 1.0),
        ("train_calls".to_owned(), 2.0),
    ];
    assert_eq!(run.logged, logged);
}
