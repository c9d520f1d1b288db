//! What comes back from a call: errors with their causes, and refusals.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::host::{Host, hand_over};
use lumbre_abi::layout::{Call, answer, status};
use lumbre_abi::testing::{Mounted, Run};
use lumbre_abi::{Ctx, Hook, Result, callback};

const FIT_BEGIN: u32 = Hook::FitBegin.number();

#[derive(Debug)]
struct Because(&'static str, Option<Box<Because>>);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for Because {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

#[derive(Default)]
struct Fails;

#[callback]
impl Fails {
    fn on_fit_begin(&mut self) -> Result {
        let cause = Because("the disk is full", None);
        let cause = Because("the row cannot be written", Some(cause.into()));
        Err(Because("no log", Some(cause.into())).into())
    }

    fn on_fit_end(&mut self, ctx: &mut Ctx<'_>) -> Result<(), lumbre_abi::Error> {
        ctx.fail(format_args!("nothing came in {} batches", ctx.iter()))
    }

    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.loss()?;
        Ok(())
    }
}

#[test]
fn an_error_is_told_with_its_causes() {
    let fails = Mounted::new(Fails);
    let trouble = Run::new().fire(&fails, Hook::FitBegin).unwrap_err();
    assert_eq!(trouble.status, status::FAILED);
    let told = "no log: the row cannot be written: the disk is full";
    assert_eq!(trouble.to_string(), told);
    let trouble = Run::new().fire(&fails, Hook::FitEnd).unwrap_err();
    assert_eq!(trouble.to_string(), "nothing came in 1 batches");
    assert_eq!(Run::new().fire(&fails, Hook::EpochEnd), Ok(()));
}

#[test]
fn what_the_host_could_not_do_goes_back_to_it_by_its_number() {
    let (foreign, _handle) = hand_over(Fails);
    for (said, status) in [
        (answer::NONE, Ok(())),
        (answer::GIVEN, Ok(())),
        (answer::FAILED, Err(status::HOST)),
        (answer::FAILED + 7, Err(status::HOST + 7)),
        (u32::MAX, Err(u32::MAX)),
        // No answer that there is.
        (answer::FAILED - 1, Err(status::HOST)),
    ] {
        let mut host = Host::at(Hook::EpochEnd.number());
        host.answer = said;
        let trouble = status.map_err(|status| (status, None));
        assert_eq!(host.fire(&foreign), trouble, "{said}");
    }
}

#[derive(Default)]
struct Counts(u32);

#[callback]
impl Counts {
    fn on_fit_begin(&mut self) -> Result {
        self.0 += 1;
        Err(format!("call {}", self.0).into())
    }
}

#[test]
fn a_call_of_another_version_is_refused_and_a_newer_breakpoint_is_let_pass() {
    let (foreign, _handle) = hand_over(Counts::default());
    for (major, size) in [(0, 128), (2, 128), (1, 0), (1, 120)] {
        let mut host = Host::at(FIT_BEGIN);
        (host.call.abi_major, host.call.size) = (major, size);
        let trouble = (status::FAILED, None);
        assert_eq!(host.fire(&foreign), Err(trouble), "{major} {size}");
    }
    for newer in [26, 63, 64, u32::MAX] {
        assert_eq!(Host::at(newer).fire(&foreign), Ok(()));
    }
    let (_, message) = Host::at(FIT_BEGIN).fire(&foreign).unwrap_err();
    assert_eq!(message.as_deref(), Some("call 1"), "it was called above");
}

#[test]
fn a_call_that_has_grown_is_taken() {
    let (foreign, _handle) = hand_over(Counts::default());
    for more in [8, 32] {
        let mut host = Host::at(FIT_BEGIN);
        host.call.abi_minor = 7;
        host.call.size = size_of::<Call>() + more;
        assert_eq!(host.fire(&foreign).unwrap_err().0, status::FAILED);
    }
    let (_, message) = Host::at(FIT_BEGIN).fire(&foreign).unwrap_err();
    assert_eq!(message.as_deref(), Some("call 3"));
}

thread_local! {
    static WITHIN: RefCell<Option<Rc<Mounted<Within>>>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Within {
    heard: Vec<String>,
}

#[callback]
impl Within {
    fn on_epoch_begin(&mut self) {
        let own = WITHIN.with(|within| within.borrow().clone()).unwrap();
        let trouble = Run::new().fire(&own, Hook::FitBegin).unwrap_err();
        assert_eq!(trouble.status, status::BUSY);
        assert_eq!(own.save().unwrap_err().status, status::BUSY);
        self.heard.push(trouble.to_string());
    }

    fn on_fit_begin(&mut self) {
        self.heard.push("called".into());
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8]) {}
}

#[test]
fn a_call_from_within_is_refused_and_not_waited_for() {
    let mounted = Rc::new(Mounted::new(Within::default()));
    WITHIN.set(Some(Rc::clone(&mounted)));
    Run::new().fire(&mounted, Hook::EpochBegin).unwrap();
    Run::new().fire(&mounted, Hook::FitBegin).unwrap();
    WITHIN.set(None);
    let heard = mounted.with(|within| within.heard.clone());
    assert_eq!(heard.len(), 2);
    let told = &heard[0];
    assert!(told.starts_with("Within is being called already"), "{told}");
    assert!(
        told.ends_with("Give each run a callback of its own."),
        "{told}"
    );
    assert_eq!(heard[1], "called");
}

#[derive(Default)]
struct Waits(Option<(Sender<()>, Receiver<()>)>);

#[callback]
impl Waits {
    fn on_fit_begin(&mut self) -> Result {
        if let Some((entered, leave)) = &self.0 {
            entered.send(())?;
            leave.recv()?;
        }
        Ok(())
    }
}

#[test]
fn a_call_from_a_second_thread_is_refused_while_the_first_is_under_way() {
    let ((entered, has_entered), (may_leave, leave)) = (channel(), channel());
    let (foreign, _handle) = hand_over(Waits(Some((entered, leave))));
    let fire = || Host::at(FIT_BEGIN).fire(&foreign);
    let second = thread::scope(|scope| {
        let first = scope.spawn(fire);
        has_entered.recv().unwrap();
        let second = fire();
        may_leave.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Ok(()));
        second
    });
    assert_eq!(second, Err((status::BUSY, None)));
    may_leave.send(()).unwrap();
    assert_eq!(fire(), Ok(()), "it is free again");
}

/// Logs at the end of a pass and of an epoch.
#[derive(Default)]
struct Ends;

#[callback]
impl Ends {
    fn on_valid_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.log("end", 1.0)
    }

    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        ctx.log("end", 2.0)
    }
}

#[test]
fn outside_of_a_pass_what_is_logged_is_of_training_as_in_lumbre() {
    let (mut run, ends) = (Run::new(), Mounted::new(Ends));
    run.training = false;
    run.fire(&ends, Hook::ValidEnd).unwrap();
    run.fire(&ends, Hook::EpochEnd).unwrap();
    let logged = [("valid_end".to_owned(), 1.0), ("train_end".to_owned(), 2.0)];
    assert_eq!(run.logged, logged);
}
