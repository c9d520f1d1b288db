use lumbre_abi::callback;

struct Spike;

#[callback(wieght = 10)]
impl Spike {}

struct Twice;

#[callback(weight = 1, weight = 2)]
impl Twice {}

struct Nameless;

#[callback(name = "")]
impl Nameless {}

struct AfterNobody;

#[callback(after(""))]
impl AfterNobody {}

fn main() {}
