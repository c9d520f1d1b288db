use lumbre_abi::callback;

struct Misspelt;

#[callback]
impl Misspelt {
    fn on_train_bach_end(&mut self) {}
}

struct Shortened;

#[callback]
impl Shortened {
    fn on_batch_end(&mut self) {}
}

struct Unknown;

#[callback]
impl Unknown {
    fn on_full_moon_over_the_sea(&mut self) {}
}

struct NoSelf;

#[callback]
impl NoSelf {
    fn on_fit_begin(ctx: &mut lumbre_abi::Ctx<'_>) {}
}

struct TooMany;

#[callback]
impl TooMany {
    fn on_fit_begin(&mut self, ctx: &mut lumbre_abi::Ctx<'_>, epoch: u64) {}
}

struct Async;

#[callback]
impl Async {
    async fn on_fit_begin(&mut self) {}
}

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

fn main() {}
