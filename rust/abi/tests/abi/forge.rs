//! Handles made of any bytes: good ones, and ones that are broken somewhere. What is too long to be
//! true is not there; all else is exactly as long as it says, so that a sanitizer sees who reads on.
//!
//! A test feeds this with chance, and the fuzzer with what it has learnt.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use lumbre_abi::host::{Foreign, Refused};
use lumbre_abi::layout::{
    Call, FIRST_TABLE, Filter, Filters, Handle, LARGEST, MAJOR, Store, Table, Text, Texts, form,
    status,
};
use lumbre_abi::{Hook, Saved};

use crate::host::Host;

/// The bytes that decide; zeros when they are used up, and zeros decide for what is good.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    pub fn below(&mut self, end: u8) -> usize {
        usize::from(self.byte() % end)
    }

    /// Seldom, so that most handles are broken in one place or none.
    fn breaks(&mut self) -> Option<u8> {
        let byte = self.byte();
        (byte >= 250).then_some(byte)
    }

    /// A good name.
    pub fn name(&mut self) -> String {
        const LETTERS: [&str; 8] = ["a", "Z", "0", "_", " ", "\0", "ß", "🔥"];
        match self.byte() {
            249 => "x".repeat(MOST),
            byte => (0..=byte % 16).map(|_| LETTERS[self.below(8)]).collect(),
        }
    }
}

/// The longest list that a host reads.
const MOST: usize = 1024;

/// What is broken, as the host's message has it.
type Faults = Vec<&'static str>;

#[derive(Default)]
struct Script {
    status: u32,
    message: Option<Vec<u8>>,
    form: u32,
    state: Option<Vec<u8>>,
    calls: Cell<u32>,
}

/// A handle with all that it leads to, and what a host is to find.
struct Forged {
    handle: *const Handle,
    faults: Faults,
    facts: Facts,
    script: Rc<Script>,
    _memory: Memory,
}

/// What the handle leads to. Vectors, as a box that is moved must not be pointed into.
#[derive(Default)]
struct Memory {
    handle: Vec<Handle>,
    table: Vec<u64>,
    filters: Vec<Filter>,
    bytes: Vec<Vec<u8>>,
    texts: Vec<Vec<Text>>,
}

/// Without room at its end, so that a sanitizer sees who reads there.
fn exactly<T>(values: Vec<T>) -> Vec<T> {
    values.into_boxed_slice().into_vec()
}

#[derive(Debug, PartialEq)]
struct Facts {
    names: [String; 3],
    hooks: Vec<Hook>,
    weight: u64,
    filters: Vec<(Hook, Filter)>,
    after: Vec<String>,
    before: Vec<String>,
    logs: Vec<String>,
    keeps_state: bool,
}

impl Facts {
    fn of(foreign: &Foreign) -> Self {
        Self {
            names: [
                foreign.name.clone(),
                foreign.crate_name.clone(),
                foreign.crate_version.clone(),
            ],
            hooks: foreign.hooks.clone(),
            weight: foreign.weight.to_bits(),
            filters: foreign.filters.clone(),
            after: foreign.after.clone(),
            before: foreign.before.clone(),
            logs: foreign.logs.clone(),
            keeps_state: foreign.keeps_state(),
        }
    }
}

struct Forge<'a, 'b> {
    from: &'a mut Bytes<'b>,
    faults: Faults,
    memory: Memory,
}

impl Forge<'_, '_> {
    fn fault(&mut self, fault: &'static str) {
        self.faults.push(fault);
    }

    fn text(&mut self, what: &'static str) -> (Text, String) {
        let name = self.from.name();
        let kept = exactly(name.as_bytes().to_vec());
        let mut text = Text {
            start: kept.as_ptr(),
            length: kept.len(),
        };
        self.memory.bytes.push(kept);
        if let Some(how) = self.from.breaks() {
            self.fault(what);
            match how {
                250 => text.length = 0,
                251 => text.start = ptr::null(),
                252 => text.length = MOST + 1,
                253 => text.length = usize::MAX,
                254 => text.length = isize::MAX.unsigned_abs() + 1,
                _ => {
                    let cut = exactly(vec![b'a', 0xF0, 0x9F]);
                    text = Text {
                        start: cut.as_ptr(),
                        length: 3,
                    };
                    self.memory.bytes.push(cut);
                }
            }
        }
        (text, name)
    }

    fn texts(&mut self, what: &'static str) -> (Texts, Vec<String>) {
        let count = self.from.below(4);
        let (texts, names): (Vec<Text>, Vec<String>) = (0..count).map(|_| self.text(what)).unzip();
        let kept = exactly(texts);
        let (mut start, mut length) = (kept.as_ptr(), kept.len());
        self.memory.texts.push(kept);
        if let Some(how) = self.from.breaks() {
            self.fault(what);
            (start, length) = broken_list(how, start, length);
        }
        (Texts { start, length }, names)
    }

    fn hooks(&mut self) -> (u64, Vec<Hook>) {
        let mut bits = self.from.number() & ((1 << Hook::ALL.len()) - 1);
        let hooks = Hook::ALL
            .iter()
            .copied()
            .filter(|hook| bits >> hook.number() & 1 == 1)
            .collect();
        if let Some(how) = self.from.breaks() {
            self.fault("it needs a newer lumbre");
            bits |= 1 << (usize::from(how) % (64 - Hook::ALL.len()) + Hook::ALL.len());
        }
        (bits, hooks)
    }

    fn filter(&mut self, hooks: &[Hook]) -> Option<(Hook, Filter)> {
        let hook = *hooks.get(usize::from(self.from.byte()) % hooks.len().max(1))?;
        let first_epoch = self.from.number().max(1);
        let mut filter = Filter {
            hook: hook.number(),
            once: u32::from(self.from.byte() % 2),
            every: self.from.number().max(1),
            first_epoch,
            last_epoch: first_epoch.saturating_add(self.from.number()),
        };
        if let Some(how) = self.from.breaks() {
            self.fault("one of its filters makes no sense");
            match how {
                250 => filter.every = 0,
                251 => filter.first_epoch = 0,
                252 => filter.last_epoch = filter.first_epoch - 1,
                253 => filter.once = 2,
                254 => filter.hook = 63,
                _ => filter.hook = u32::MAX,
            }
        }
        Some((hook, filter))
    }

    fn filters(&mut self, hooks: &[Hook]) -> (Filters, Vec<(Hook, Filter)>) {
        let count = self.from.below(4);
        let filters: Vec<_> = (0..count).filter_map(|_| self.filter(hooks)).collect();
        self.memory.filters = exactly(filters.iter().map(|(_, filter)| *filter).collect());
        let (mut start, mut length) = (self.memory.filters.as_ptr(), filters.len());
        if let Some(how) = self.from.breaks() {
            self.fault("its filters are not there");
            (start, length) = broken_list(how, start, length);
        }
        (Filters { start, length }, filters)
    }

    fn table(&mut self) -> (Table, Facts) {
        let (bits, hooks) = self.hooks();
        let mut weight = f64::from_bits(self.from.number());
        if self.from.breaks().is_some() {
            weight = f64::NAN;
        }
        if weight.is_nan() {
            self.fault("its weight is NaN");
        }
        let (name, own_name) = self.text("its name");
        let (crate_name, from_crate) = self.text("its crate's name");
        let (crate_version, version) = self.text("its crate's version");
        let (filters, known_filters) = self.filters(&hooks);
        let (after, known_after) = self.texts("its `after`");
        let (before, known_before) = self.texts("its `before`");
        let missing = self.from.breaks();
        match missing {
            Some(250..=252) => self.fault("its `call` is NULL"),
            Some(_) => self.fault("its `drop` is NULL"),
            None => {}
        }
        let faults = self.faults.len();
        let (logs, known_logs) = self.texts("its `logs`");
        let (saves, loads) = (self.from.below(2) == 0, self.from.below(2) == 0);
        let size = FIRST_TABLE + 8 * usize::from(self.from.byte());
        if size < FIRST_TABLE + 16 {
            // Not reached, so that it cannot be wrong.
            self.faults.truncate(faults);
        }
        let table = Table {
            abi_major: MAJOR,
            abi_minor: u32::from(self.from.byte()),
            size: size.min(LARGEST),
            hooks: bits,
            weight,
            name,
            crate_name,
            crate_version,
            filters,
            after,
            before,
            call: (!matches!(missing, Some(250..=252))).then_some(call as _),
            drop: (!matches!(missing, Some(253..))).then_some(end as _),
            logs,
            save: saves.then_some(save as _),
            load: loads.then_some(load as _),
        };
        let facts = Facts {
            names: [own_name, from_crate, version],
            hooks,
            weight: weight.to_bits(),
            filters: known_filters,
            after: known_after,
            before: known_before,
            logs: if size < FIRST_TABLE + 16 {
                Vec::new()
            } else {
                known_logs
            },
            keeps_state: saves && loads && size >= FIRST_TABLE + 32,
        };
        (table, facts)
    }
}

fn broken_list<T>(how: u8, start: *const T, length: usize) -> (*const T, usize) {
    match how {
        250 => (ptr::null(), length.max(1)),
        251 => (start.wrapping_byte_add(1), length.max(1)),
        252 => (start.wrapping_byte_add(4), length.max(1)),
        253 => (start, MOST + 1),
        254 => (start, usize::MAX),
        _ => (start, isize::MAX.unsigned_abs()),
    }
}

fn forge(from: &mut Bytes<'_>) -> Forged {
    let script = Rc::new(Script {
        status: u32::from(from.byte() % 8),
        message: (from.below(4) > 0).then(|| (0..from.below(9)).map(|_| from.byte()).collect()),
        form: u32::from(from.byte() % 4),
        state: (from.below(4) < 3).then(|| (0..from.below(9)).map(|_| from.byte()).collect()),
        calls: Cell::default(),
    });
    let mut forge = Forge {
        from,
        faults: Faults::new(),
        memory: Memory::default(),
    };
    let (mut table, facts) = forge.table();

    let mut length = table.size;
    match forge.from.breaks() {
        None => {}
        // Of a table that cannot be read, no more than version and size is there.
        Some(250..=252) => {
            table.abi_major = [0, 2, u32::MAX][forge.from.below(3)];
            (length, forge.faults) = (16, vec!["it was built for version"]);
        }
        Some(_) => {
            table.size = [
                0,
                16,
                FIRST_TABLE - 8,
                FIRST_TABLE + 4,
                LARGEST + 8,
                usize::MAX,
            ][forge.from.below(6)];
            (length, forge.faults) = (16, vec!["its table has"]);
        }
    }
    forge.memory.table = exactly(vec![u64::MAX; length / 8]);
    let copied = length.min(size_of::<Table>());
    let start = forge.memory.table.as_mut_ptr();
    // SAFETY: as many bytes as both have.
    unsafe { ptr::copy_nonoverlapping((&raw const table).cast::<u8>(), start.cast(), copied) };

    let mut handle = Handle {
        table: forge.memory.table.as_ptr().cast(),
        state: Rc::as_ptr(&script).cast_mut().cast(),
    };
    match forge.from.breaks() {
        None => {}
        Some(250..=252) => {
            handle.state = ptr::null_mut();
            forge.fault("the callback has been dropped");
        }
        Some(how) => {
            let off = handle.table.wrapping_byte_add(usize::from(how - 252));
            handle.table = if how == 253 { ptr::null() } else { off };
            forge.faults = vec!["its table is NULL"];
        }
    }
    forge.memory.handle = exactly(vec![handle]);
    let mut handle = forge.memory.handle.as_ptr();
    match forge.from.breaks() {
        None => {}
        Some(how) => {
            let off = handle.wrapping_byte_add(usize::from(how - 249));
            handle = if how == 250 { ptr::null() } else { off };
            forge.faults = vec!["it leads to no handle"];
        }
    }
    Forged {
        handle,
        faults: forge.faults,
        facts,
        script,
        _memory: forge.memory,
    }
}

fn script<'a>(state: *mut c_void) -> &'a Script {
    // SAFETY: the state that `forge` has put there, which outlives what is opened.
    unsafe { &*state.cast() }
}

fn text_of(bytes: &[u8]) -> Text {
    Text {
        start: bytes.as_ptr(),
        length: bytes.len(),
    }
}

unsafe extern "C" fn call(state: *mut c_void, call: *const Call) -> u32 {
    let script = script(state);
    script.calls.set(script.calls.get() + 1);
    if let Some(message) = &script.message {
        // SAFETY: the host's own function and call.
        unsafe { ((*call).fail)(call, text_of(message)) };
    }
    script.status
}

unsafe extern "C" fn save(state: *mut c_void, store: *const Store) -> u32 {
    let script = script(state);
    // SAFETY: the host's own functions and store.
    unsafe {
        if let Some(state) = &script.state {
            ((*store).write)(store, script.form, state.as_ptr(), state.len());
        }
        if let Some(message) = &script.message {
            ((*store).fail)(store, text_of(message));
        }
    }
    script.status
}

unsafe extern "C" fn load(
    state: *mut c_void,
    store: *const Store,
    form: u32,
    start: *const u8,
    length: usize,
) -> u32 {
    let script = script(state);
    // SAFETY: the host lends that many bytes, and its own functions and store.
    unsafe {
        assert_eq!(form, form::BYTES);
        assert_eq!(std::slice::from_raw_parts(start, length), [7; 3]);
        if let Some(message) = &script.message {
            ((*store).fail)(store, text_of(message));
        }
    }
    script.status
}

unsafe extern "C" fn end(_: *mut Handle) {}

/// Make a handle of these bytes, and see that a host takes it as it is.
///
/// Gives what the host has against it, if anything.
pub fn check(bytes: &[u8]) -> Option<String> {
    let forged = forge(&mut Bytes(bytes));
    // SAFETY: all that is not too long to be true is there as it says.
    match unsafe { Foreign::open(forged.handle) } {
        Err(refused) => {
            let told = refused.to_string();
            assert!(
                forged.faults.iter().any(|&fault| told.contains(fault)),
                "{told}: {refused:?}"
            );
            let by_kind = match refused {
                Refused::Version { .. } => forged.faults[0] == "it was built for version",
                Refused::Size(_) => forged.faults[0] == "its table has",
                Refused::Broken(_) => true,
            };
            assert!(by_kind, "{told}: {:?}", forged.faults);
            Some(told)
        }
        Ok(foreign) => {
            assert_eq!(forged.faults, Faults::new(), "it was taken");
            assert_eq!(Facts::of(&foreign), forged.facts);
            use_it(&foreign, &forged.script);
            None
        }
    }
}

fn use_it(foreign: &Foreign, script: &Script) {
    let told = script
        .message
        .as_deref()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let outcome = match script.status {
        status::OK => Ok(()),
        status => Err((status, told.clone())),
    };
    assert_eq!(Host::at(0).fire(foreign), outcome);
    assert_eq!(script.calls.get(), 1);

    let saved = foreign
        .save()
        .map_err(|trouble| (trouble.status, trouble.message));
    let loaded = foreign.load(&Saved::Bytes(vec![7; 3]));
    let loaded = loaded.map_err(|trouble| (trouble.status, trouble.message));
    if !foreign.keeps_state() {
        assert_eq!(saved, Ok(None));
        assert_eq!(loaded.unwrap_err().0, status::FAILED);
        return;
    }
    assert_eq!(loaded, outcome);
    let json = script.state.clone().map(String::from_utf8);
    match (outcome, script.form, &script.state, json) {
        (Err(trouble), ..) => assert_eq!(saved, Err(trouble)),
        (Ok(()), form::BYTES, Some(state), _) => {
            assert_eq!(saved, Ok(Some(Saved::Bytes(state.clone()))));
        }
        (Ok(()), form::JSON, _, Some(Ok(text))) => assert_eq!(saved, Ok(Some(Saved::Json(text)))),
        _ => assert_eq!(saved.map_err(|(status, _)| status), Err(status::FAILED)),
    }
}
