use lumbre_abi::callback;

struct Spike;

#[callback]
impl Spike {
    fn on_train_bach_end(&mut self) {}
}

fn main() {}
