//! The host opens handles of any bytes: none crashes it, each is taken as it is or refused for its
//! fault. The forge and its oracle are those of lumbre-abi's own tests.
#![no_main]

#[path = "../../rust/abi/tests/abi/forge.rs"]
mod forge;
#[path = "../../rust/abi/tests/abi/host.rs"]
#[allow(dead_code)]
mod host;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    forge::check(bytes);
});
