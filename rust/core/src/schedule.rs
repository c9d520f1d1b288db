//! The compiled plan of a run: for each breakpoint, the ordered slots of those that have it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::callback::{Callback, Host};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::flow::{Flow, State};
use crate::hook::HookId;
use crate::order::{Item, order};

/// One callback, as it is handed to the scheduler.
pub struct Entry<H: Host> {
    /// Name, weight and constraints.
    pub item: Item,
    /// The parts to call: one, or several where some of its breakpoints are written in Rust.
    pub parts: Vec<Part<H>>,
}

/// A part of a callback, called at some of its breakpoints.
pub struct Part<H: Host> {
    /// Where its code lives, for the table: "Python" or "Rust", or a crate with its version.
    pub kind: String,
    /// The code.
    pub callback: Arc<dyn Callback<H>>,
    /// Its filters, by breakpoint.
    pub filters: Vec<(HookId, Filter)>,
}

impl<H: Host> Part<H> {
    fn filter(&self, hook: HookId) -> Option<Filter> {
        let here = self.filters.iter().find(|(at, _)| *at == hook);
        here.map(|&(_, filter)| filter)
            .filter(|filter| !filter.is_open())
    }
}

/// One call at one breakpoint.
struct Slot<H: Host> {
    callback: Arc<dyn Callback<H>>,
    entry: usize,
    part: usize,
    filter: Option<Filter>,
    done: AtomicBool,
}

impl<H: Host> Slot<H> {
    fn passes(&self, hook: HookId, state: &State) -> bool {
        self.filter.is_none_or(|filter| {
            filter.holds(state.count(hook), state.record_epoch())
                && !(filter.is_once() && self.done.swap(true, Relaxed))
        })
    }
}

/// A row of the plan, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The breakpoint's name.
    pub hook: String,
    /// The callback's name.
    pub name: String,
    /// Where its code lives.
    pub kind: String,
    /// Its weight.
    pub weight: f64,
    /// Its filter, as it is written; empty without one.
    pub filter: String,
}

/// The plan of a run: who is called where, in which order, under which filter. Compiled once a run.
pub struct Schedule<H: Host> {
    entries: Vec<Entry<H>>,
    slots: Vec<Vec<Slot<H>>>,
    hooks: Vec<String>,
    current: AtomicUsize,
    failed: AtomicUsize,
}

/// No callback is under way.
const NOBODY: usize = usize::MAX;

impl<H: Host> Schedule<H> {
    /// Put the callbacks in order. `hooks` names every breakpoint of the run, by number.
    ///
    /// # Errors
    /// The callbacks cannot be put in order (see [`order`]), or there are too many breakpoints.
    pub fn compile(entries: Vec<Entry<H>>, hooks: Vec<String>) -> Result<Self> {
        if hooks.len() > HookId::MAX {
            return Err(Error::Schedule(format!(
                "{} breakpoints are more than the {} that a run can have; declare fewer in `breakpoints`.",
                hooks.len(),
                HookId::MAX
            )));
        }
        let items: Vec<Item> = entries.iter().map(|entry| entry.item.clone()).collect();
        let sorted = order(&items)?;
        let slots = (0..hooks.len())
            .filter_map(HookId::new)
            .map(|hook| {
                let slots = |&i: &usize| {
                    let parts = entries[i].parts.iter().enumerate();
                    let here = parts.filter(|(_, part)| part.callback.hooks().contains(hook));
                    here.map(|(number, part)| Slot {
                        callback: Arc::clone(&part.callback),
                        entry: i,
                        part: number,
                        filter: part.filter(hook),
                        done: AtomicBool::new(false),
                    })
                    .collect::<Vec<_>>()
                };
                sorted.iter().flat_map(slots).collect()
            })
            .collect();
        Ok(Self {
            entries,
            slots,
            hooks,
            current: AtomicUsize::new(NOBODY),
            failed: AtomicUsize::new(NOBODY),
        })
    }

    /// The callbacks and breakpoints whose `once` has been used up.
    #[must_use]
    pub fn used_once(&self) -> Vec<(&str, &str)> {
        let slots = self
            .slots
            .iter()
            .zip(&self.hooks)
            .flat_map(|(slots, hook)| {
                let used = slots.iter().filter(|slot| slot.done.load(Relaxed));
                used.map(move |slot| (&*self.entries[slot.entry].item.name, &**hook))
            });
        slots.collect()
    }

    /// Use up the `once` of a callback at a breakpoint, as it was in the run that is resumed.
    pub fn use_once(&self, name: &str, hook: &str) {
        for (slots, known) in self.slots.iter().zip(&self.hooks) {
            for slot in slots {
                if known == hook && self.entries[slot.entry].item.name == name {
                    slot.done.store(true, Relaxed);
                }
            }
        }
    }

    /// The breakpoints at which somebody is called, as a set of bits.
    #[must_use]
    pub fn used(&self) -> u64 {
        let bit = |(index, slots): (usize, &Vec<Slot<H>>)| u64::from(!slots.is_empty()) << index;
        self.slots.iter().enumerate().map(bit).sum()
    }

    /// Call everybody who is due at a breakpoint, in order. All of them run, whatever they wish.
    ///
    /// # Errors
    /// The first error ends it; [`Schedule::failed`] then names who raised it.
    pub fn fire(&self, hook: HookId, state: &State, ctx: &H::Context<'_>) -> Result<()> {
        let Some(slots) = self.slots.get(hook.index()) else {
            return Ok(());
        };
        let outer = self.current.load(Relaxed);
        for slot in slots {
            if slot.passes(hook, state) {
                self.current.store(slot.entry, Relaxed);
                match slot.callback.on(hook, ctx) {
                    Ok(Flow::Continue) => {}
                    Ok(flow) => state.wish(flow, self.current()),
                    Err(error) => {
                        self.failed.store(slot.entry, Relaxed);
                        self.current.store(outer, Relaxed);
                        return Err(error);
                    }
                }
            }
        }
        self.current.store(outer, Relaxed);
        Ok(())
    }

    /// The name of the callback under way.
    #[must_use]
    pub fn current(&self) -> Option<&str> {
        self.name(self.current.load(Relaxed))
    }

    /// The name of the callback that raised the last error.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.name(self.failed.load(Relaxed))
    }

    fn name(&self, entry: usize) -> Option<&str> {
        self.entries
            .get(entry)
            .map(|entry| entry.item.name.as_str())
    }

    /// The name of a breakpoint.
    #[must_use]
    pub fn hook_name(&self, hook: HookId) -> &str {
        self.hooks.get(hook.index()).map_or("?", String::as_str)
    }

    /// The plan, breakpoint by breakpoint, in the order of the calls.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.slots
            .iter()
            .zip(&self.hooks)
            .flat_map(|(slots, hook)| slots.iter().map(move |slot| (slot, hook)))
            .map(|(slot, hook)| {
                let entry = &self.entries[slot.entry];
                Row {
                    hook: hook.clone(),
                    name: entry.item.name.clone(),
                    kind: entry.parts[slot.part].kind.clone(),
                    weight: entry.item.weight,
                    filter: slot
                        .filter
                        .map_or(String::new(), |filter| filter.to_string()),
                }
            })
            .collect()
    }

    /// The names of metrics that callbacks in Rust log.
    pub fn logs(&self) -> impl Iterator<Item = &String> {
        let parts = self.entries.iter().flat_map(|entry| &entry.parts);
        parts.flat_map(|part| part.callback.logs())
    }
}

/// The plan as a table: a heading a breakpoint, a line a call.
impl<H: Host> std::fmt::Display for Schedule<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.rows();
        // Whoever has a longer name than that has a crooked table.
        let width = |cell: fn(&Row) -> &str| {
            let widths = rows.iter().map(|row| cell(row).chars().count());
            widths.filter(|&width| width <= 200).max().unwrap_or(0)
        };
        let (names, kinds) = (width(|row| &row.name), width(|row| &row.kind));
        let mut hook = "";
        for (i, row) in rows.iter().enumerate() {
            if row.hook != hook {
                hook = &row.hook;
                writeln!(f, "{}{hook}", if i == 0 { "" } else { "\n" })?;
            }
            let line = format!(
                "  {:names$}  {:kinds$}  weight {:<5} {}",
                row.name, row.kind, row.weight, row.filter
            );
            write!(
                f,
                "{}{}",
                line.trim_end(),
                if i + 1 < rows.len() { "\n" } else { "" }
            )?;
        }
        if rows.is_empty() {
            f.write_str("nobody runs anywhere")?;
        }
        Ok(())
    }
}

/// The callbacks' names made unique: of two alike the second gets `_2`, the third `_3`.
#[must_use]
pub fn unique_names(names: &[String]) -> Vec<String> {
    let mut taken = HashSet::with_capacity(names.len());
    // The number that comes next: what is below it is taken and stays so.
    let mut next: HashMap<&str, usize> = HashMap::new();
    let unique = names.iter().map(|name| {
        let number = next.entry(name).or_insert(2);
        let mut free = name.clone();
        while !taken.insert(free.clone()) {
            free = format!("{name}_{number}");
            *number += 1;
        }
        free
    });
    unique.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback::Context;
    use crate::hook::{Hook, HookSet};
    use crate::testing::{Bare, Run};
    use std::sync::Mutex;

    type Log = Arc<Mutex<Vec<&'static str>>>;

    struct Spy(&'static str, Log, Flow);

    impl Callback<Bare> for Spy {
        fn hooks(&self) -> HookSet {
            HookSet::of(&[Hook::EpochEnd])
        }
        fn on(&self, _: HookId, _: &Run) -> Result<Flow> {
            if self.0 == "Bad" {
                return Err(Error::Metric("broken".into()));
            }
            self.1.lock().unwrap().push(self.0);
            Ok(self.2.clone())
        }
    }

    fn entry(name: &'static str, weight: f64, log: &Log, flow: Flow) -> Entry<Bare> {
        Entry {
            item: Item {
                name: name.into(),
                weight,
                ..Item::default()
            },
            parts: vec![Part {
                kind: "Rust".into(),
                callback: Arc::new(Spy(name, Arc::clone(log), flow)),
                filters: vec![],
            }],
        }
    }

    fn compile(entries: Vec<Entry<Bare>>) -> Schedule<Bare> {
        Schedule::compile(entries, Hook::names()).unwrap()
    }

    fn fire(schedule: &Schedule<Bare>, hook: Hook, run: &Run) -> Result<()> {
        schedule.fire(hook.into(), run.state(), run)
    }

    #[test]
    fn all_run_in_order_and_the_wish_names_who_had_it() {
        let log = Log::default();
        let entries = vec![
            entry("Late", 1.0, &log, Flow::Continue),
            entry("Early", -1.0, &log, Flow::Stop("enough".into())),
        ];
        let schedule = compile(entries);
        let run = Run::new(1);
        fire(&schedule, Hook::EpochEnd, &run).unwrap();
        fire(&schedule, Hook::EpochBegin, &run).unwrap();
        assert_eq!(*log.lock().unwrap(), ["Early", "Late"]);
        assert_eq!(run.state().stop_reason().as_deref(), Some("Early: enough"));
        assert_eq!(schedule.used(), 1 << Hook::EpochEnd as u8);
        assert_eq!(schedule.current(), None);
    }

    #[test]
    fn filters_hold_before_anything_is_called() {
        let log = Log::default();
        let mut spy = entry("Spy", 0.0, &log, Flow::Continue);
        let filter = Filter::every(2).unwrap().and(Filter::once()).unwrap();
        spy.parts[0].filters = vec![(Hook::EpochEnd.into(), filter)];
        let schedule = compile(vec![spy]);
        let run = Run::new(9);
        let mut seen = vec![];
        while run.state().next_epoch() {
            fire(&schedule, Hook::EpochEnd, &run).unwrap();
            seen.push(log.lock().unwrap().len());
        }
        assert_eq!(seen, [0, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn an_error_leaves_the_name_of_who_raised_it() {
        let log = Log::default();
        let entries = vec![entry("Bad", 0.0, &log, Flow::Continue)];
        let schedule = compile(entries);
        let run = Run::new(1);
        assert!(fire(&schedule, Hook::EpochEnd, &run).is_err());
        assert_eq!(schedule.failed(), Some("Bad"));
        assert_eq!(schedule.current(), None);
    }

    #[test]
    fn the_table_shows_who_runs_where() {
        let log = Log::default();
        let mut spy = entry("Spy", f64::INFINITY, &log, Flow::Continue);
        spy.parts[0].filters = vec![(Hook::EpochEnd.into(), Filter::every(2).unwrap())];
        let entries = vec![spy, entry("A", 0.0, &log, Flow::Continue)];
        let table = compile(entries).to_string();
        assert_eq!(
            table,
            "on_epoch_end\n  A    Rust  weight 0\n  Spy  Rust  weight inf   every(2)"
        );
    }

    #[test]
    fn names_become_unique() {
        let names = ["A", "B", "A", "A_2", "A"].map(String::from);
        assert_eq!(unique_names(&names), ["A", "B", "A_2", "A_2_2", "A_3"]);
        // Not a search from the first number on for each of them.
        let alike = unique_names(&vec!["A".to_owned(); 100_000]);
        assert_eq!(alike.last().map(String::as_str), Some("A_100000"));
    }
}
