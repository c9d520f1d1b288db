//! A panic ends in the callback: the host hears of it, and no call comes through afterwards.

use std::panic::panic_any;
use std::sync::atomic::{AtomicU32, Ordering};

use lumbre_abi::host::{Foreign, Trouble};
use lumbre_abi::layout::status;
use lumbre_abi::testing::{Mounted, Run};
use lumbre_abi::{Ctx, Exported, Hook, Saved, callback};

/// Panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the bomb");
    }
}

#[derive(Default)]
struct Panics;

#[callback]
impl Panics {
    fn on_fit_begin(&mut self) {
        panic!("plain");
    }

    fn on_epoch_begin(&mut self, ctx: &mut Ctx<'_>) {
        panic!("in epoch {}", ctx.epoch());
    }

    fn on_train_begin(&mut self) {
        panic_any(Bomb);
    }

    fn on_train_end(&mut self) -> lumbre_abi::Result {
        let text = String::from("none");
        text.parse::<u8>().unwrap();
        Ok(())
    }

    fn on_epoch_end(&mut self) {}

    fn on_exception(&mut self) {
        panic!("it was called at on_exception");
    }

    fn save(&self) -> String {
        panic!("in save");
    }

    fn load(&mut self, state: &str) {
        assert!(state == "good", "in load of {state}");
    }
}

const REFUSED: &str =
    "Panics panicked earlier, so that what it remembers cannot be relied on; make a new one";

fn panicked<T: std::fmt::Debug>(outcome: Result<T, Trouble>) -> String {
    let trouble = outcome.unwrap_err();
    assert_eq!(trouble.status, status::PANICKED);
    let message = trouble.message.clone().unwrap();
    assert_eq!(trouble.to_string(), format!("Panics panicked: {message}"));
    message
}

fn is_refused<T: std::fmt::Debug>(outcome: Result<T, Trouble>) {
    let trouble = outcome.unwrap_err();
    assert_eq!((trouble.status, &trouble.message), (status::BROKEN, &None));
    assert_eq!(trouble.to_string(), REFUSED);
}

#[test]
fn a_panic_is_told_in_its_words() {
    for (hook, message) in [
        (Hook::FitBegin, "plain"),
        (Hook::EpochBegin, "in epoch 1"),
        (
            Hook::TrainEnd,
            "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit }",
        ),
    ] {
        let told = panicked(Run::new().fire(&Mounted::new(Panics), hook));
        assert_eq!(told, message);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it leaks on purpose")]
fn what_was_thrown_is_never_dropped_when_that_may_panic_too() {
    let thrown = panicked(Run::new().fire(&Mounted::new(Panics), Hook::TrainBegin));
    assert_eq!(thrown, "a panic without a text");
}

#[test]
fn after_a_panic_no_call_comes_through() {
    let panics = Mounted::new(Panics);
    let fire = |hook| Run::new().fire(&panics, hook);
    assert_eq!(fire(Hook::EpochEnd), Ok(()));
    assert_eq!(panicked(fire(Hook::FitBegin)), "plain");
    for hook in [Hook::EpochEnd, Hook::FitBegin, Hook::Exception] {
        is_refused(fire(hook));
    }
    is_refused(panics.save());
    is_refused(panics.load(&Saved::Json("good".into())));
}

#[test]
fn its_own_side_refuses_too() {
    let own = Exported::new(Panics);
    let handle = own.handle();
    // SAFETY: a handle of this library's, which lives longer than what is opened.
    let foreign = unsafe { Foreign::open(handle.as_ptr()) }.unwrap();
    panicked(foreign.save());
    assert_eq!(own.save().unwrap_err().to_string(), REFUSED);
    let good = Saved::Json("good".into());
    assert_eq!(own.load(&good).unwrap_err().to_string(), REFUSED);
}

#[test]
fn an_exception_is_a_breakpoint_like_others() {
    let outcome = Run::new().fire(&Mounted::new(Panics), Hook::Exception);
    assert_eq!(panicked(outcome), "it was called at on_exception");
}

#[test]
fn save_and_load_may_panic_too() {
    let panics = Mounted::new(Panics);
    assert_eq!(panics.load(&Saved::Json("good".into())), Ok(()));
    let told = panicked(panics.load(&Saved::Json("bad".into())));
    assert_eq!(told, "in load of bad");
    is_refused(Run::new().fire(&panics, Hook::EpochEnd));
    assert_eq!(panicked(Mounted::new(Panics).save()), "in save");
}

static ENDED: AtomicU32 = AtomicU32::new(0);

#[derive(Default)]
struct PanicsAtItsEnd;

#[callback]
impl PanicsAtItsEnd {}

impl Drop for PanicsAtItsEnd {
    fn drop(&mut self) {
        ENDED.fetch_add(1, Ordering::SeqCst);
        panic!("at its end");
    }
}

#[test]
fn a_panic_at_the_end_of_a_callback_ends_nothing_else() {
    let exported = Exported::new(PanicsAtItsEnd);
    let handle = exported.handle();
    drop(exported);
    assert_eq!(ENDED.load(Ordering::SeqCst), 0);
    drop(handle);
    assert_eq!(ENDED.load(Ordering::SeqCst), 1);
}
