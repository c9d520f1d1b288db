use lumbre_abi::callback;

struct Spike;

#[callback]
impl Spike {
    fn on_full_moon_over_the_sea(&mut self) {}
}

fn main() {}
