use lumbre_abi::callback;

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

fn main() {}
