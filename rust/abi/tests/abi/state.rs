//! A state that is saved and taken up again, as bytes or as JSON.

use lumbre_abi::host::Trouble;
use lumbre_abi::layout::status;
use lumbre_abi::testing::Mounted;
use lumbre_abi::{Exported, Result, Saved, callback};
use proptest::prelude::*;

#[derive(Default)]
struct Bytes(Vec<u8>);

#[callback]
impl Bytes {
    fn save(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn load(&mut self, state: &[u8]) {
        self.0 = state.to_vec();
    }
}

#[derive(Default)]
struct Json(String);

#[callback]
impl Json {
    fn save(&self) -> Result<String> {
        if self.0.is_empty() {
            return Err("there is nothing yet".into());
        }
        Ok(self.0.clone())
    }

    fn load(&mut self, state: &str) -> Result<(), std::num::ParseIntError> {
        state.parse::<u64>()?;
        state.clone_into(&mut self.0);
        Ok(())
    }
}

#[derive(Default)]
struct Either(Option<Saved>);

#[callback]
impl Either {
    fn save(&self) -> Result<Vec<u8>> {
        Err(format!("{:?}", self.0).into())
    }

    fn load(&mut self, state: &Saved) {
        self.0 = Some(state.clone());
    }
}

#[derive(Default)]
struct Stateless;

#[callback]
impl Stateless {}

fn failed<T: std::fmt::Debug>(outcome: Result<T, Trouble>) -> String {
    let trouble = outcome.unwrap_err();
    assert_eq!(trouble.status, status::FAILED);
    trouble.to_string()
}

proptest! {
    #[test]
    fn bytes_come_back_as_they_went(state: Vec<u8>) {
        let saved = Mounted::new(Bytes(state.clone())).save().unwrap().unwrap();
        prop_assert_eq!(&saved, &Saved::Bytes(state.clone()));
        let taken_up = Mounted::new(Bytes::default());
        taken_up.load(&saved).unwrap();
        prop_assert_eq!(taken_up.with(|bytes| bytes.0.clone()), state);
    }

    #[test]
    fn text_comes_back_as_it_went(state in ".+") {
        let saved = Mounted::new(Json(state.clone())).save().unwrap();
        prop_assert_eq!(saved, Some(Saved::Json(state)));
    }
}

#[test]
fn json_is_taken_up_as_text() {
    let json = Mounted::new(Json::default());
    json.load(&Saved::Json("42".into())).unwrap();
    assert_eq!(json.save(), Ok(Some(Saved::Json("42".into()))));
}

#[test]
fn both_forms_are_taken_by_who_asks_for_either() {
    let either = Mounted::new(Either::default());
    for saved in [Saved::Bytes(vec![1]), Saved::Json("1".into())] {
        either.load(&saved).unwrap();
        assert_eq!(failed(either.save()), format!("{:?}", Some(saved)));
    }
}

#[test]
fn the_wrong_form_says_which_is_due() {
    let bytes = Mounted::new(Bytes::default());
    let told = failed(bytes.load(&Saved::Json("1".into())));
    assert_eq!(told, "the saved state is JSON, and bytes are due");
    let json = Mounted::new(Json::default());
    let told = failed(json.load(&Saved::Bytes(vec![49])));
    assert_eq!(told, "the saved state is bytes, and JSON is due");
}

#[test]
fn errors_of_save_and_load_are_told() {
    let json = Mounted::new(Json::default());
    assert_eq!(failed(json.save()), "there is nothing yet");
    let told = failed(json.load(&Saved::Json("x".into())));
    assert_eq!(told, "invalid digit found in string");
}

#[test]
fn a_callback_without_a_state_says_so() {
    let stateless = Mounted::new(Stateless);
    assert_eq!(stateless.save(), Ok(None));
    let told = failed(stateless.load(&Saved::Bytes(vec![])));
    assert_eq!(told, "it keeps no state");
    let own = Exported::new(Stateless);
    assert_eq!(own.save().unwrap_err().to_string(), "it keeps no state");
    let own = own.load(&Saved::Bytes(vec![])).unwrap_err();
    assert_eq!(own.to_string(), "it keeps no state");
}

#[test]
fn its_own_side_saves_and_loads_without_a_host() {
    let exported = Exported::new(Bytes(vec![1, 2]));
    assert_eq!(exported.save().unwrap(), Saved::Bytes(vec![1, 2]));
    exported.load(&Saved::Bytes(vec![3])).unwrap();
    assert_eq!(exported.with(|bytes| bytes.0.clone()), Some(vec![3]));
    let within = exported.with(|_| exported.save().unwrap_err().to_string());
    assert_eq!(within.as_deref(), Some("it is being called just now"));
}
