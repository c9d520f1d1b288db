//! The two lists of breakpoints: the enum's, and the macro's, which knows them by name alone.

use lumbre_abi::Hook;

const NAMES: &[&str] = lumbre_abi_macros::hook_names!();

#[test]
fn the_macro_knows_every_breakpoint_and_no_other() {
    let names: Vec<&str> = Hook::ALL.iter().map(|hook| hook.name()).collect();
    assert_eq!(names.len(), 27);
    assert_eq!(NAMES, names);
}

macro_rules! at_every_hook {
    ($($hook:ident)+) => {
        #[derive(Default)]
        struct Everywhere(Vec<&'static str>);

        #[lumbre_abi::callback]
        impl Everywhere {
            $(fn $hook(&mut self) {
                self.0.push(stringify!($hook));
            })+
        }
    };
}

at_every_hook! {
    on_fit_begin on_epoch_begin on_train_begin on_train_batch_begin on_train_batch_after_pred
    on_train_batch_after_loss on_train_batch_before_backward on_train_batch_before_step
    on_train_batch_after_step on_train_batch_end on_train_end on_valid_begin on_valid_batch_begin
    on_valid_batch_after_pred on_valid_batch_after_loss on_valid_batch_end on_valid_end on_epoch_end
    on_early_stopping on_fit_end on_predict_begin on_predict_batch_begin on_predict_batch_end
    on_predict_end on_interrupt on_exception on_checkpoint
}

#[test]
fn each_method_is_called_at_the_breakpoint_that_has_its_name() {
    use lumbre_abi::testing::{Mounted, Run};

    let everywhere = Mounted::new(Everywhere::default());
    for &hook in Hook::ALL {
        Run::new().fire(&everywhere, hook).unwrap();
    }
    assert_eq!(everywhere.with(|callback| callback.0.clone()), NAMES);
}
