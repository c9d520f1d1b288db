use lumbre_abi::callback;

struct Saves;

#[callback]
impl Saves {
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }
}

struct Loads;

#[callback]
impl Loads {
    fn load(&mut self, _: &str) {}
}

fn main() {}
