use lumbre_abi::callback;

struct OnNoHook;

#[callback]
impl OnNoHook {
    #[every(10)]
    fn median(&self) -> f64 {
        0.0
    }
}

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

struct Apart;

#[callback]
impl Apart {
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
