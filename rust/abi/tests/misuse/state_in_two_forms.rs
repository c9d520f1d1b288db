use lumbre_abi::callback;

struct Two;

#[callback]
impl Two {
    fn on_fit_begin(&mut self) {}

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _state: &str) {}
}

fn main() {}
