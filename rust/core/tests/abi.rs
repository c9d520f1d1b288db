//! The breakpoints, as the core and the callback ABI each list them.

use std::collections::BTreeSet;

use lumbre_core::hook::Hook;

/// The numbers that were published: no name here may ever get another one.
const PUBLISHED: [(u32, &str); 27] = [
    (0, "on_fit_begin"),
    (1, "on_epoch_begin"),
    (2, "on_train_begin"),
    (3, "on_train_batch_begin"),
    (4, "on_train_batch_after_pred"),
    (5, "on_train_batch_after_loss"),
    (6, "on_train_batch_before_backward"),
    (7, "on_train_batch_before_step"),
    (8, "on_train_batch_after_step"),
    (9, "on_train_batch_end"),
    (10, "on_train_end"),
    (11, "on_valid_begin"),
    (12, "on_valid_batch_begin"),
    (13, "on_valid_batch_after_pred"),
    (14, "on_valid_batch_after_loss"),
    (15, "on_valid_batch_end"),
    (16, "on_valid_end"),
    (17, "on_epoch_end"),
    (18, "on_early_stopping"),
    (19, "on_fit_end"),
    (20, "on_predict_begin"),
    (21, "on_predict_batch_begin"),
    (22, "on_predict_batch_end"),
    (23, "on_predict_end"),
    (24, "on_interrupt"),
    (25, "on_exception"),
    (26, "on_checkpoint"),
];

#[test]
fn a_published_number_stays() {
    for (number, name) in PUBLISHED {
        let hook = lumbre_abi::Hook::from_number(number);
        assert_eq!(hook.map(lumbre_abi::Hook::name), Some(name), "{number}");
        assert_eq!(
            lumbre_abi::Hook::from_name(name).map(lumbre_abi::Hook::number),
            Some(number)
        );
    }
}

#[test]
fn the_abi_has_a_number_for_every_breakpoint_of_the_core() {
    let core: BTreeSet<&str> = Hook::ALL.iter().map(|hook| hook.name()).collect();
    let abi: BTreeSet<&str> = lumbre_abi::Hook::ALL
        .iter()
        .map(|hook| hook.name())
        .collect();
    assert!(core.len() >= PUBLISHED.len());
    assert_eq!(core, abi);
}

#[test]
fn every_number_is_a_bit_of_the_tables_set() {
    let numbers: BTreeSet<u32> = lumbre_abi::Hook::ALL
        .iter()
        .map(|hook| hook.number())
        .collect();
    assert_eq!(numbers.len(), lumbre_abi::Hook::ALL.len());
    assert!(numbers.iter().all(|&number| number < u64::BITS));
}
