use lumbre_abi::callback;

struct Generic<T>(T);

#[callback]
impl<T> Generic<T> {}

#[callback]
impl Generic<f64> {}

struct Plain;

#[callback]
impl Default for Plain {
    fn default() -> Self {
        Self
    }
}

#[callback]
struct NoBlock;

fn main() {}
