//! A callback ends once, with the last of those who share it.

use std::ptr;
use std::sync::Arc;

use crate::host::{Host, hand_over};
use lumbre_abi::layout::status;
use lumbre_abi::testing::{Mounted, Run};
use lumbre_abi::{Exported, Hook, OwnedHandle, Result, callback};

/// Its `Arc` is the count of those that live.
#[derive(Default)]
struct Counted(Arc<()>);

#[callback]
impl Counted {
    fn on_fit_begin(&mut self) -> Result {
        Err(format!("{} alive", Arc::strong_count(&self.0) - 1).into())
    }
}

fn counted() -> (Arc<()>, Counted) {
    let count = Arc::new(());
    (Arc::clone(&count), Counted(count))
}

fn alive(count: &Arc<()>) -> usize {
    Arc::strong_count(count) - 1
}

#[test]
fn the_last_handle_ends_it() {
    let (count, counted) = counted();
    let exported = Exported::new(counted);
    let (first, second) = (exported.handle(), exported.handle());
    drop(exported.clone());
    drop(exported);
    drop(first);
    assert_eq!(alive(&count), 1);
    drop(second);
    assert_eq!(alive(&count), 0);
}

#[test]
fn an_owner_in_rust_may_outlive_the_handles() {
    let (count, counted) = counted();
    let exported = Exported::new(counted);
    drop(exported.handle());
    assert_eq!(exported.with(|counted| alive(&counted.0)), Some(1));
    drop(exported);
    assert_eq!(alive(&count), 0);
}

#[test]
fn each_run_over_it_leaves_it_as_it_was() {
    let (count, counted) = counted();
    let mounted = Mounted::new(counted);
    for _ in 0..3 {
        let trouble = Run::new().fire(&mounted, Hook::FitBegin).unwrap_err();
        assert_eq!(trouble.message.as_deref(), Some("1 alive"));
    }
    drop(mounted);
    assert_eq!(alive(&count), 0);
}

#[test]
fn a_handle_travels_through_c_and_ends_when_it_is_back() {
    let (count, counted) = counted();
    let raw = Exported::new(counted).handle().into_raw();
    assert_eq!(alive(&count), 1);
    // SAFETY: it comes from `into_raw`, once.
    drop(unsafe { OwnedHandle::from_raw(raw) });
    assert_eq!(alive(&count), 0);
    // SAFETY: NULL is what C gives for none.
    assert!(unsafe { OwnedHandle::from_raw(ptr::null_mut()) }.is_none());
}

#[test]
fn a_handle_that_was_ended_is_refused_and_can_be_ended_again() {
    let (count, counted) = counted();
    let (foreign, handle) = hand_over(counted);
    let raw = handle.as_ptr();
    // SAFETY: a handle of this library's; nobody is calling it.
    unsafe {
        let end = (*(*raw).table).drop.unwrap();
        end(raw);
        assert_eq!(alive(&count), 0);
        assert!((*raw).state.is_null());
        end(raw);
        let refused = lumbre_abi::host::Foreign::open(raw).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "its state is NULL: the callback has been dropped"
        );
    }
    let outcome = Host::at(Hook::FitBegin.number()).fire(&foreign);
    assert_eq!(
        outcome,
        Err((status::GONE, None)),
        "who has opened it before finds it gone"
    );
    drop(handle);
    assert_eq!(alive(&count), 0);
}

#[test]
fn it_may_end_in_another_thread() {
    let (count, counted) = counted();
    let handle = Exported::new(counted).handle();
    std::thread::spawn(move || drop(handle)).join().unwrap();
    assert_eq!(alive(&count), 0);
}
