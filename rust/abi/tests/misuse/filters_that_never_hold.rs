use lumbre_abi::callback;

struct Never;

#[callback]
impl Never {
    #[epochs(1, 2)]
    #[every(10)]
    #[epochs(3, None)]
    fn on_epoch_end(&mut self) {}
}

struct Seldom;

#[callback]
impl Seldom {
    #[epochs(1, 2)]
    #[epochs(2, 3)]
    fn on_epoch_end(&mut self) {}
}

fn main() {}
