use lumbre_abi::callback;

struct Spike;

#[callback(wieght = 10)]
impl Spike {}

fn main() {}
