use lumbre_abi::callback;

struct Unsafe;

#[callback]
impl Unsafe {
    unsafe fn on_epoch_end(&mut self) {}
}

struct Once;

#[callback]
impl Once {
    fn on_epoch_end(self, _: &mut lumbre_abi::Ctx<'_>) {}
}

struct Boxed;

#[callback]
impl Boxed {
    fn on_epoch_end(self: Box<Self>) {}
}

struct Generic;

#[callback]
impl Generic {
    fn on_epoch_end<T>(&mut self) {}
}

struct Late;

#[callback]
impl Late {
    async fn on_epoch_end(&mut self) {}
}

fn main() {}
