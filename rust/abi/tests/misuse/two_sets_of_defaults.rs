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

fn main() {}
