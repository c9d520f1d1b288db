//! The order of callbacks: weights, then positions, under the constraints `after` and `before`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::error::{Error, Result};

/// The facts that decide a callback's place.
#[derive(Clone, Debug, Default)]
pub struct Item {
    /// The name by which others may refer to it; unique in its list.
    pub name: String,
    /// Smaller runs earlier; ±inf allowed, NaN refused.
    pub weight: f64,
    /// Names it has to come after.
    pub after: Vec<String>,
    /// Names it has to come before.
    pub before: Vec<String>,
}

/// The positions of `items` in the order in which they run: the topological order that always
/// takes the smallest (weight, position) that is free. Constraints on absent names are ignored.
///
/// # Errors
/// A NaN weight names its callback; a cycle is printed.
pub fn order(items: &[Item]) -> Result<Vec<usize>> {
    if let Some(item) = items.iter().find(|item| item.weight.is_nan()) {
        return Err(Error::Schedule(format!(
            "{} has the weight NaN, which has no place in an order. Give it a number; -inf and inf run first and last.",
            item.name
        )));
    }
    let mut by_weight: Vec<usize> = (0..items.len()).collect();
    // A stable sort. Adding zero turns -0.0 into 0.0, which total_cmp would tell apart.
    let weight = |i: usize| items[i].weight + 0.0;
    by_weight.sort_by(|&a, &b| weight(a).total_cmp(&weight(b)));
    let mut rank = vec![0; items.len()];
    for (place, &i) in by_weight.iter().enumerate() {
        rank[i] = place;
    }
    let successors = successors(items);
    let mut blockers = vec![0_usize; items.len()];
    for &next in successors.iter().flatten() {
        blockers[next] += 1;
    }
    let mut free: BinaryHeap<_> = (0..items.len())
        .filter(|&i| blockers[i] == 0)
        .map(|i| Reverse(rank[i]))
        .collect();
    let mut sorted = Vec::with_capacity(items.len());
    while let Some(Reverse(first)) = free.pop() {
        let i = by_weight[first];
        sorted.push(i);
        for &next in &successors[i] {
            blockers[next] -= 1;
            if blockers[next] == 0 {
                free.push(Reverse(rank[next]));
            }
        }
    }
    if sorted.len() == items.len() {
        return Ok(sorted);
    }
    let cycle: Vec<&str> = cycle(&successors, &blockers)
        .into_iter()
        .map(|i| items[i].name.as_str())
        .collect();
    Err(Error::Schedule(format!(
        "The callbacks' `after` and `before` form a cycle: {}. Take one of these constraints away.",
        cycle.join(" → ")
    )))
}

/// For each item, those that have to come later.
fn successors(items: &[Item]) -> Vec<Vec<usize>> {
    let place: HashMap<&str, usize> = (0..).zip(items).map(|(i, item)| (&*item.name, i)).collect();
    let named = |names: &[String]| -> Vec<usize> {
        let known = names.iter().filter_map(|name| place.get(name.as_str()));
        known.copied().collect()
    };
    let mut successors = vec![Vec::new(); items.len()];
    for (i, item) in items.iter().enumerate() {
        for earlier in named(&item.after) {
            successors[earlier].push(i);
        }
        successors[i].extend(named(&item.before));
    }
    successors
}

/// One cycle among the items that stayed blocked, closed: its first item is also its last.
fn cycle(successors: &[Vec<usize>], blockers: &[usize]) -> Vec<usize> {
    // A blocked item has a blocked predecessor, so that walking backwards must come round.
    let before =
        |i: usize| (0..successors.len()).find(|&j| blockers[j] > 0 && successors[j].contains(&i));
    let mut path: Vec<usize> = (0..blockers.len())
        .find(|&i| blockers[i] > 0)
        .into_iter()
        .collect();
    while let Some(previous) = path.last().and_then(|&last| before(last)) {
        let seen = path.iter().position(|&i| i == previous);
        path.push(previous);
        if let Some(start) = seen {
            path.drain(..start);
            break;
        }
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(name: &str, weight: f64, after: &[&str], before: &[&str]) -> Item {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Item {
            name: name.into(),
            weight,
            after: owned(after),
            before: owned(before),
        }
    }

    #[test]
    fn weights_then_positions() {
        let items = [
            item("a", 1.0, &[], &[]),
            item("b", f64::NEG_INFINITY, &[], &[]),
            item("c", 0.0, &[], &[]),
            item("d", -0.0, &[], &[]),
            item("e", f64::INFINITY, &[], &[]),
            item("f", 1.0, &[], &[]),
        ];
        assert_eq!(order(&items).unwrap(), [1, 2, 3, 0, 5, 4]);
    }

    #[test]
    fn constraints_win_over_weights_and_absent_names_are_ignored() {
        let items = [
            item("late", -1.0, &["early", "nobody"], &[]),
            item("early", 5.0, &[], &[]),
            item("first", 9.0, &[], &["early"]),
        ];
        assert_eq!(order(&items).unwrap(), [2, 1, 0]);
    }

    #[test]
    fn nan_is_refused_by_name() {
        let error = order(&[item("Odd", f64::NAN, &[], &[])])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("Odd has the weight NaN"), "{error}");
    }

    #[test]
    fn a_cycle_is_printed_without_what_hangs_on_it() {
        let items = [
            item("a", 0.0, &["c"], &[]),
            item("b", 0.0, &["a"], &[]),
            item("c", 0.0, &["b"], &[]),
            item("hanger", 0.0, &["c"], &[]),
        ];
        let error = order(&items).unwrap_err().to_string();
        assert!(error.contains("form a cycle"), "{error}");
        assert!(
            error.contains("a → b → c → a")
                || error.contains("b → c → a → b")
                || error.contains("c → a → b → c"),
            "{error}"
        );
        assert!(!error.contains("hanger"), "{error}");
        let own = order(&[item("self", 0.0, &["self"], &[])])
            .unwrap_err()
            .to_string();
        assert!(own.contains("self → self"), "{own}");
    }

    fn weights() -> impl Strategy<Value = f64> {
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(1.0),
            Just(-1.0),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            -10.0..10.0_f64
        ]
    }

    proptest! {
        #[test]
        fn without_constraints_it_is_the_stable_sort(weights in prop::collection::vec(weights(), 0..40)) {
            let items: Vec<Item> = weights.iter().enumerate()
                .map(|(i, &w)| item(&format!("c{i}"), w, &[], &[])).collect();
            let mut expected: Vec<usize> = (0..items.len()).collect();
            expected.sort_by(|&a, &b| weights[a].partial_cmp(&weights[b]).unwrap());
            prop_assert_eq!(order(&items).unwrap(), expected);
        }

        #[test]
        fn constraints_are_kept_and_each_choice_is_the_smallest_free(
            weights in prop::collection::vec(weights(), 1..12),
            edges in prop::collection::vec((0..12_usize, 0..12_usize, any::<bool>()), 0..20),
        ) {
            let mut items: Vec<Item> = weights.iter().enumerate()
                .map(|(i, &w)| item(&format!("c{i}"), w, &[], &[])).collect();
            let n = items.len();
            let mut pairs = Vec::new();
            for (a, b, as_before) in edges {
                let (a, b) = (a % n, b % n);
                if a >= b { continue; } // edges that only point forward cannot form a cycle
                if as_before { items[a].before.push(format!("c{b}")); }
                else { items[b].after.push(format!("c{a}")); }
                pairs.push((a, b));
            }
            let sorted = order(&items).unwrap();
            let place = |i: usize| sorted.iter().position(|&j| j == i).unwrap();
            for &(a, b) in &pairs { prop_assert!(place(a) < place(b)); }
            for (step, &chosen) in sorted.iter().enumerate() {
                let open = &sorted[step..];
                for &other in open {
                    let free = pairs.iter().all(|&(a, b)| b != other || !open.contains(&a));
                    if free {
                        prop_assert!((weights[chosen], chosen) <= (weights[other], other)
                            || weights[chosen] < weights[other]);
                    }
                }
            }
        }
    }
}
