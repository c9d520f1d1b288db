use lumbre_abi::callback;

struct Spike;

#[callback]
impl Spike {
    fn on_batch_end(&mut self) {}
}

fn main() {}
