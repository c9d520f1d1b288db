//! Filters, weight, name and constraints, all in the table.

use lumbre_abi::callback;

/// Counts how often it is called where.
#[derive(Default)]
pub struct Sieve {
    thirds: u64,
    once: u64,
    middle: u64,
    late: u64,
}

/// Says in its table all that a table can say.
#[callback(
    weight = -2.5,
    name = "Strainer",
    after("EarlyStopping"),
    before("Profile", "Nobody"),
    logs("strained")
)]
impl Sieve {
    #[every(3)]
    fn on_train_batch_end(&mut self) {
        self.thirds += 1;
    }

    #[once]
    fn on_epoch_begin(&mut self) {
        self.once += 1;
    }

    #[epochs(2, 3)]
    fn on_epoch_end(&mut self) {
        self.middle += 1;
    }

    #[every(2)]
    #[epochs(2, None)]
    fn on_valid_batch_end(&mut self) {
        self.late += 1;
    }

    fn save(&self) -> String {
        let Self {
            thirds,
            once,
            middle,
            late,
        } = self;
        format!(r#"{{"thirds": {thirds}, "once": {once}, "middle": {middle}, "late": {late}}}"#)
    }

    fn load(&mut self, state: &str) {
        let _ = state;
        *self = Self::default();
    }
}
