//! What stands in the block is what the host reads in the table, and what is called.

use lumbre_abi::layout::Filter;
use lumbre_abi::testing::{Mounted, Run, Values};
use lumbre_abi::{Ctx, DType, Hook, Result, Set, callback};

#[derive(Default)]
struct Plain;

#[callback]
impl Plain {}

#[derive(Default)]
struct Full {
    ends: u32,
}

#[callback(
    weight = -f64::INFINITY,
    name = "Größe",
    module = "elsewhere",
    after("Progress", "EMA"),
    before("CSVLogger"),
    logs("ratio")
)]
impl Full {
    const TWICE: u32 = 2;

    #[defaults(ends = 0)]
    fn new(ends: u32) -> Self {
        Self { ends }
    }

    #[every(100)]
    #[epochs(2, None)]
    fn on_train_batch_end(&mut self, _: &mut Ctx<'_>) {
        self.count();
    }

    #[once]
    #[epochs(3)]
    fn on_valid_end(&self) -> Result {
        Ok(())
    }

    #[epochs(2, 10)]
    fn on_epoch_end(&mut self) -> std::result::Result<(), std::fmt::Error> {
        Ok(())
    }

    fn count(&mut self) {
        self.ends += Self::TWICE;
    }

    fn save(&self) -> String {
        self.ends.to_string()
    }

    fn load(&mut self, state: &str) -> Result {
        self.ends = state.parse()?;
        Ok(())
    }
}

#[test]
fn a_block_without_a_word_is_a_callback_that_is_never_called() {
    let plain = Mounted::new(Plain);
    let foreign = plain.foreign();
    assert_eq!(
        (foreign.name.as_str(), foreign.weight.to_bits()),
        ("Plain", 0)
    );
    assert_eq!(foreign.crate_name, "lumbre-abi");
    assert_eq!(foreign.crate_version, env!("CARGO_PKG_VERSION"));
    assert!(foreign.hooks.is_empty() && foreign.filters.is_empty() && foreign.logs.is_empty());
    assert!(foreign.after.is_empty() && foreign.before.is_empty() && !foreign.keeps_state());
}

#[test]
fn every_option_and_filter_arrives() {
    let full = Mounted::new(Full::default());
    let foreign = full.foreign();
    assert_eq!(foreign.name, "Größe");
    assert_eq!(foreign.weight.to_bits(), f64::NEG_INFINITY.to_bits());
    assert_eq!(foreign.after, ["Progress", "EMA"]);
    assert_eq!(foreign.before, ["CSVLogger"]);
    assert_eq!(foreign.logs, ["ratio"]);
    assert_eq!(
        foreign.hooks,
        [Hook::TrainBatchEnd, Hook::ValidEnd, Hook::EpochEnd]
    );
    let filter = |hook: Hook, once, every, first_epoch, last_epoch| {
        let hook_number = hook.number();
        (
            hook,
            Filter {
                hook: hook_number,
                once,
                every,
                first_epoch,
                last_epoch,
            },
        )
    };
    let expected = [
        filter(Hook::TrainBatchEnd, 0, 100, 1, u64::MAX),
        filter(Hook::TrainBatchEnd, 0, 1, 2, u64::MAX),
        filter(Hook::ValidEnd, 1, 1, 1, u64::MAX),
        filter(Hook::ValidEnd, 0, 1, 3, u64::MAX),
        filter(Hook::EpochEnd, 0, 1, 2, 10),
    ];
    assert_eq!(foreign.filters, expected);
    assert!(foreign.keeps_state());
}

#[test]
fn methods_and_constants_beside_the_hooks_are_the_authors_own() {
    let full = Mounted::new(Full::new(5));
    for hook in [
        Hook::TrainBatchEnd,
        Hook::ValidEnd,
        Hook::EpochEnd,
        Hook::FitEnd,
    ] {
        Run::new().fire(&full, hook).unwrap();
    }
    assert_eq!(full.with(|full| full.ends), 7);
}

/// Uses all that a ctx has.
#[derive(Default)]
struct Asks(Vec<String>);

#[callback]
impl Asks {
    fn on_valid_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let place = (ctx.epoch(), ctx.iter(), ctx.step_count(), ctx.training());
        self.0.push(format!("{place:?} {:?}", ctx.hook()));
        self.0
            .push(format!("{:?} {:?}", ctx.batch_size()?, ctx.loss()?));
        for name in ["loss", "train_loss", "valid_loss", "valid_nothing"] {
            self.0.push(format!("{:?}", ctx.metric(name)?));
        }
        self.0
            .push(format!("{:?}", ctx.metric_at("valid_loss", 2)?));
        for tensor in [ctx.input()?, ctx.target()?, ctx.pred()?] {
            self.0.push(format!(
                "{:?}",
                tensor.map(|tensor| (tensor.dtype(), tensor.len()))
            ));
        }
        ctx.log("here", 1.0)?;
        ctx.log_to(Set::Train, "there", 2.0)?;
        ctx.skip_batch();
        ctx.skip_epoch();
        ctx.stop("first");
        ctx.stop(String::from("second"));
        Ok(())
    }
}

#[test]
fn a_ctx_answers_and_takes_wishes() {
    let mut run = Run {
        epoch: 3,
        iter: 7,
        step_count: 20,
        training: false,
        ..Run::new()
    };
    run.batch_size = Some(4);
    run.loss = Some(0.5);
    run.metrics.insert("train_loss".into(), 1.0);
    run.metrics.insert("valid_loss".into(), 2.0);
    run.input = Some(Values::new(&[1_u8, 2, 3, 4], &[2, 2]));
    run.pred = Some(Values::new(&[1.0_f32], &[]));
    let asks = Mounted::new(Asks::default());
    run.fire(&asks, Hook::ValidBatchEnd).unwrap();
    let expected = [
        "(3, 7, 20, false) Some(ValidBatchEnd)",
        "Some(4) Some(0.5)",
        "Some(2.0)",
        "Some(1.0)",
        "Some(2.0)",
        "None",
        "None",
        &format!("Some(({:?}, 4))", DType::U8),
        "None",
        &format!("Some(({:?}, 1))", DType::F32),
    ];
    assert_eq!(asks.with(|asks| asks.0.clone()), expected);
    assert_eq!(
        run.logged,
        [("valid_here".into(), 1.0), ("train_there".into(), 2.0)]
    );
    assert_eq!(run.stopped.as_deref(), Some("first"));
    assert!(run.batch_skipped && run.epoch_skipped);
}
