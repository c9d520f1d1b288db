//! Forged handles are refused for what is wrong with them, and good ones are taken as they are.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{forge, lent};

proptest! {
    #[test]
    fn a_handle_of_any_bytes_is_taken_as_it_is_or_refused_for_its_fault(
        bytes in vec(any::<u8>(), 0..400)
    ) {
        forge::check(&bytes);
    }

    #[test]
    fn a_tensor_of_any_shape_is_read_as_it_lies(bytes in vec(any::<u8>(), 0..64)) {
        lent::check_tensor(&bytes);
    }

    #[test]
    fn a_callback_that_does_anything_is_heard(bytes in vec(any::<u8>(), 0..200)) {
        lent::check_events(&bytes);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it would take minutes")]
fn every_fault_is_found_and_told() {
    let mut told: Vec<String> = Vec::new();
    // Each break at each place, in short lists and in long ones.
    for base in [0, 1, 2, 3] {
        assert_eq!(forge::check(&[base; 200]), None, "this one is good");
        for (place, how) in (0..200).flat_map(|place| (250..=255).map(move |how| (place, how))) {
            let mut bytes = [base; 200];
            bytes[place] = how;
            told.extend(forge::check(&bytes));
        }
    }
    for expected in [
        "it leads to no handle",
        "its table is NULL",
        "it was built for version 0.",
        "it was built for version 2.",
        "its table has 0 bytes",
        "its table has 136 bytes",
        "its table has 148 bytes",
        "its `call` is NULL",
        "its `drop` is NULL",
        "its state is NULL: the callback has been dropped",
        "its weight is NaN",
        "it wants to be called at breakpoint number 55, and there are 27 here: it needs a newer lumbre",
        "its name is empty",
        "its name is not there",
        "its name is not UTF-8",
        "its crate's name is empty",
        "its crate's version is not there",
        "its filters are not there",
        "one of its filters makes no sense",
        "its `after` is not there",
        "its `before` is not UTF-8",
        "its `logs` is empty",
    ] {
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{expected}: never told"
        );
    }
}
