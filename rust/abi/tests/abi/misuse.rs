//! What the macro refuses, with the messages that it has for it.
//!
//! `TRYBUILD=overwrite cargo test -p lumbre-abi misuse` writes the messages anew.

#[test]
fn misuse_does_not_compile_and_says_why() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/misuse/*.rs");
}
