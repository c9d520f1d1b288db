use lumbre_abi::callback;

struct Files;

#[callback]
impl Files {
    fn save(&self, to: &std::path::Path) {
        let _ = to;
    }
}

struct Reader;

#[callback]
impl Reader {
    fn load(from: &std::path::Path) -> Self {
        let _ = from;
        Self
    }
}

struct Changes;

#[callback]
impl Changes {
    fn save(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8]) {}
}

fn main() {}
