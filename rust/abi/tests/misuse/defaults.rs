use lumbre_abi::callback;

struct Twofold(u8);

#[callback]
impl Twofold {
    #[defaults(a = 1)]
    #[defaults(b = 2)]
    fn new(a: u8, b: u8) -> Self {
        Self(a + b)
    }
}

struct Doubled(u8);

#[callback]
impl Doubled {
    #[defaults(a = 1, a = 2)]
    fn new(a: u8) -> Self {
        Self(a)
    }
}

struct Unknown;

#[callback]
impl Unknown {
    #[defaults(facter = 3.0)]
    fn new(factor: f64) -> Self {
        Self
    }
}

struct Gap;

#[callback]
impl Gap {
    #[defaults(factor = 3.0)]
    fn new(factor: f64, window: usize) -> Self {
        Self
    }
}

struct Elsewhere;

#[callback]
impl Elsewhere {
    #[defaults(factor = 3.0)]
    fn on_fit_begin(&mut self) {}
}

struct Unnamed;

#[callback]
impl Unnamed {
    fn new((factor, window): (f64, usize)) -> Self {
        Self
    }
}

fn main() {}
