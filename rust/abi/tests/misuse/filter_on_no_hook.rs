use lumbre_abi::callback;

struct Spike;

#[callback]
impl Spike {
    #[every(10)]
    fn median(&self) -> f64 {
        0.0
    }
}

fn main() {}
