use lumbre_abi::callback;

struct Never;

#[callback]
impl Never {
    #[every(0)]
    fn on_epoch_end(&mut self) {}
}

struct Often;

#[callback]
impl Often {
    #[every("day")]
    fn on_epoch_end(&mut self) {}
}

struct Backwards;

#[callback]
impl Backwards {
    #[epochs(5, 2)]
    fn on_epoch_end(&mut self) {}
}

fn main() {}
