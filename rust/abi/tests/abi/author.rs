//! A crate as an author has it, built by cargo: what the compiler refuses beyond the macro.

use std::fs;
use std::path::Path;
use std::process::Command;

const GOOD: &str = "
    #[derive(Default)]
    pub struct Quiet;

    #[lumbre_abi::callback(weight = WEIGHT)]
    impl Quiet {}

    pub fn quiet() -> lumbre_abi::Exported<Quiet> {
        lumbre_abi::Exported::new(Quiet)
    }
";

/// What cargo says to such a crate, or nothing if it is built.
fn build(name: &str, weight: &str, settings: &[&str]) -> Option<String> {
    let abi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let package = place.join(name);
    fs::create_dir_all(package.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nlumbre-abi = {{ path = {:?} }}\n",
        abi.to_str().unwrap()
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("src/lib.rs"), GOOD.replace("WEIGHT", weight)).unwrap();
    // The versions that are here already: nothing has to come over the network.
    fs::copy(abi.join("../../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--color", "never"])
        .args(settings.iter().flat_map(|setting| ["--config", setting]))
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", place.join("author"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (!output.status.success()).then_some(said)
}

#[test]
fn an_authors_crate_builds_unless_it_aborts_on_panics_or_weighs_nan() {
    assert_eq!(build("good", "f64::INFINITY", &[]), None);
    let nan = build("nan", "f64::NAN", &[]).unwrap();
    assert!(nan.contains("the weight is NaN"), "{nan}");
    let abort = build("aborts", "0", &["profile.dev.panic='abort'"]).unwrap();
    assert!(
        abort.contains("Take `panic = \"abort\"` out of this profile"),
        "{abort}"
    );
}
