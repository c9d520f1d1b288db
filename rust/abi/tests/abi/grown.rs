//! Tables of other ages: the first layout, every length since, and one that has grown.

use std::ffi::c_void;
use std::ptr;

use crate::host::{Host, hand_over};
use lumbre_abi::host::{Foreign, Refused};
use lumbre_abi::layout::{FIRST_CALL, FIRST_TABLE, Handle, LARGEST, Table, Text};
use lumbre_abi::{Ctx, Exported, Hook, Saved, callback};

/// The first layout as it was published, written down by itself: it must load for ever.
#[repr(C)]
struct FirstTable {
    abi_major: u32,
    abi_minor: u32,
    size: usize,
    hooks: u64,
    weight: f64,
    name: (*const u8, usize),
    crate_name: (*const u8, usize),
    crate_version: (*const u8, usize),
    filters: (*const FirstFilter, usize),
    after: (*const (*const u8, usize), usize),
    before: (*const (*const u8, usize), usize),
    call: unsafe extern "C" fn(*mut c_void, *const c_void) -> u32,
    drop: unsafe extern "C" fn(*mut c_void),
}

#[repr(C)]
struct FirstFilter {
    hook: u32,
    once: u32,
    every: u64,
    first_epoch: u64,
    last_epoch: u64,
}

unsafe extern "C" fn count(state: *mut c_void, _: *const c_void) -> u32 {
    // SAFETY: the test's own state.
    unsafe { *state.cast::<u32>() += 1 };
    0
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

const fn pair(text: &str) -> (*const u8, usize) {
    (text.as_ptr(), text.len())
}

#[test]
fn the_first_layout_loads_and_keeps_no_state() {
    assert_eq!((size_of::<FirstTable>(), FIRST_TABLE), (144, 144));
    let filters = [FirstFilter {
        hook: 9,
        once: 0,
        every: 2,
        first_epoch: 1,
        last_epoch: u64::MAX,
    }];
    let after = [pair("Progress")];
    let table = FirstTable {
        abi_major: 1,
        abi_minor: 0,
        size: 144,
        hooks: 1 << 9,
        weight: 2.5,
        name: pair("First"),
        crate_name: pair("old"),
        crate_version: pair("0.0.1"),
        filters: (filters.as_ptr(), 1),
        after: (after.as_ptr(), 1),
        before: (ptr::null(), 0),
        call: count,
        drop: nothing,
    };
    // Nothing behind it may be looked at: it would make no sense.
    let followed = (table, [usize::MAX; 16]);
    let mut calls = 0_u32;
    let handle = Handle {
        table: (&raw const followed.0).cast(),
        state: (&raw mut calls).cast(),
    };
    // SAFETY: the table is as long as it says, and all that it points at is here.
    let foreign = unsafe { Foreign::open(&raw const handle) }.unwrap();
    assert_eq!(
        (foreign.name.as_str(), foreign.crate_name.as_str()),
        ("First", "old")
    );
    assert_eq!(
        (foreign.hooks.as_slice(), foreign.weight.to_bits()),
        (&[Hook::TrainBatchEnd][..], 2.5_f64.to_bits(),)
    );
    assert_eq!((foreign.filters.len(), foreign.filters[0].1.every), (1, 2));
    assert_eq!(
        (foreign.after.as_slice(), foreign.before.len()),
        (&["Progress".to_owned()][..], 0)
    );
    assert!(foreign.logs.is_empty() && !foreign.keeps_state());
    assert_eq!(foreign.save(), Ok(None));
    Host::at(9).fire(&foreign).unwrap();
    drop(foreign);
    assert_eq!(calls, 1);
}

#[derive(Default)]
struct Means;

#[callback]
impl Means {
    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> lumbre_abi::Result {
        ctx.log_mean("kl", 0.5)?;
        ctx.log_mean_weighted("rec", 0.25, 3.0)
    }
}

#[test]
fn a_host_of_the_first_layout_says_that_it_has_no_means() {
    let (foreign, _handle) = hand_over(Means);
    let host = Host::at(9);
    host.fire(&foreign).unwrap();
    let means = host.means.take();
    assert_eq!((means[0].0.as_str(), means[0].1), ("kl", 0.5));
    assert!(means[0].2.is_nan(), "the weight is that of the batch");
    assert_eq!(means[1], ("rec".to_owned(), 0.25, 3.0));

    let mut host = Host::at(9);
    (host.call.abi_minor, host.call.size) = (0, FIRST_CALL);
    let (status, message) = host.fire(&foreign).unwrap_err();
    assert_eq!(status, lumbre_abi::layout::status::FAILED);
    assert_eq!(
        message.as_deref(),
        Some(
            "log_mean needs version 1.1 of the callback ABI, and this lumbre has 1.0: install a newer \
             one, or use `log`"
        )
    );
    assert!(host.means.take().is_empty());
}

#[test]
fn a_weight_that_is_no_number_is_refused() {
    #[derive(Default)]
    struct Nan;

    #[callback]
    impl Nan {
        fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> lumbre_abi::Result {
            ctx.log_mean_weighted("kl", 0.5, f64::NAN)
        }
    }

    let mut run = lumbre_abi::testing::Run::new();
    let trouble = run.fire(&lumbre_abi::testing::Mounted::new(Nan), Hook::TrainEnd);
    assert!(trouble.unwrap_err().to_string().ends_with("got NaN"));
}

#[derive(Default)]
struct Today(u32);

#[callback(logs("ratio"))]
impl Today {
    fn on_fit_begin(&mut self, _: &mut Ctx<'_>) {
        self.0 += 1;
    }

    fn save(&self) -> String {
        self.0.to_string()
    }

    fn load(&mut self, _: &str) {}
}

/// A table that begins with today's, then has fields that nobody here knows.
#[repr(C)]
struct Longer {
    table: Table,
    more: [usize; LARGEST / 8],
}

fn with_size(size: usize, test: impl FnOnce(Result<Foreign, Refused>)) {
    with(|table| table.size = size, test);
}

fn with(change: impl FnOnce(&mut Table), test: impl FnOnce(Result<Foreign, Refused>)) {
    let handle = Exported::new(Today::default()).handle();
    // SAFETY: a handle of this library's, whose table is a constant.
    let (table, state) = unsafe { (*(*handle.as_ptr()).table, (*handle.as_ptr()).state) };
    let mut longer = Longer {
        table,
        more: [usize::MAX; LARGEST / 8],
    };
    change(&mut longer.table);
    let changed = Handle {
        table: (&raw const longer).cast(),
        state,
    };
    // SAFETY: the table is as long as it says; the handle it was taken from lives on.
    test(unsafe { Foreign::open(&raw const changed) });
}

#[test]
fn a_table_with_more_fields_at_its_end_loads() {
    for size in [size_of::<Table>(), size_of::<Table>() + 8, 1024, LARGEST] {
        with_size(size, |opened| {
            let foreign = opened.unwrap();
            assert_eq!(
                (foreign.name.as_str(), foreign.logs.as_slice()),
                ("Today", &["ratio".to_owned()][..],)
            );
            Host::at(0).fire(&foreign).unwrap();
            assert_eq!(foreign.save(), Ok(Some(Saved::Json("1".into()))), "{size}");
        });
    }
}

#[test]
fn a_table_that_ends_before_today_has_what_it_reaches() {
    for (size, logs, keeps_state) in [
        (FIRST_TABLE, 0, false),
        (FIRST_TABLE + 8, 0, false),
        (FIRST_TABLE + 16, 1, false),
        (FIRST_TABLE + 24, 1, false),
        (FIRST_TABLE + 32, 1, true),
    ] {
        with_size(size, |opened| {
            let foreign = opened.unwrap();
            assert_eq!(
                (foreign.logs.len(), foreign.keeps_state()),
                (logs, keeps_state),
                "{size}"
            );
            Host::at(0).fire(&foreign).unwrap();
            assert_eq!(foreign.save().unwrap().is_some(), keeps_state);
        });
    }
    assert_eq!(
        FIRST_TABLE + 32,
        size_of::<Table>(),
        "a new field belongs into the list above"
    );
}

#[test]
fn a_size_that_no_table_has_is_refused() {
    for size in [
        0,
        8,
        FIRST_TABLE - 8,
        FIRST_TABLE + 4,
        LARGEST + 8,
        usize::MAX - 7,
        usize::MAX,
    ] {
        with_size(size, |opened| {
            let refused = opened.unwrap_err();
            assert_eq!(refused, Refused::Size(size));
            let (text, start) = (refused.to_string(), format!("its table has {size} bytes"));
            assert!(text.starts_with(&start), "{text}");
            let end = "144 to 4096 in steps of 8 (here 176)";
            assert!(text.ends_with(end), "{text}");
        });
    }
}

#[test]
fn another_major_version_is_refused_before_anything_else_is_read() {
    // Nothing but the version and the size is there.
    let head = [u64::from(2_u32) | 5 << 32, 144];
    let handle = Handle {
        table: head.as_ptr().cast(),
        state: ptr::null_mut(),
    };
    // SAFETY: the head of a table, which is all that another version promises.
    let refused = unsafe { Foreign::open(&raw const handle) }.unwrap_err();
    assert_eq!(refused, Refused::Version { major: 2, minor: 5 });
    assert_eq!(
        refused.to_string(),
        "it was built for version 2.5 of lumbre's callback ABI, and version 1.1 runs here"
    );
}

#[test]
fn a_later_minor_version_is_taken() {
    let newer = |table: &mut Table| (table.abi_minor, table.name) = (99, Text::of("Newer"));
    with(newer, |opened| assert_eq!(opened.unwrap().name, "Newer"));
}
