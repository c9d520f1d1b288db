//! Callbacks read tensors of any shape, and do anything in a run, as lumbre-abi's own tests have it.
#![no_main]

#[path = "../../rust/abi/tests/abi/forge.rs"]
#[allow(dead_code)]
mod forge;
#[path = "../../rust/abi/tests/abi/host.rs"]
#[allow(dead_code)]
mod host;
#[path = "../../rust/abi/tests/abi/lent.rs"]
mod lent;

libfuzzer_sys::fuzz_target!(
    // The fuzzer's own hook ends the process at every panic; those of callbacks are to be caught.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| match bytes.split_first() {
        Some((0, bytes)) => lent::check_tensor(bytes),
        Some((_, bytes)) => lent::check_events(bytes),
        None => {}
    }
);
