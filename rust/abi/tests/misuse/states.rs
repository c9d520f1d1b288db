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

struct Two;

#[callback]
impl Two {
    fn on_fit_begin(&mut self) {}

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _state: &str) {}
}

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
