//! The breakpoints by name. A test of `lumbre-abi` holds this list against the enum there.

/// In the order of their numbers.
pub const NAMES: &[&str] = &[
    "on_fit_begin",
    "on_epoch_begin",
    "on_train_begin",
    "on_train_batch_begin",
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
    "on_train_batch_end",
    "on_train_end",
    "on_valid_begin",
    "on_valid_batch_begin",
    "on_valid_batch_after_pred",
    "on_valid_batch_after_loss",
    "on_valid_batch_end",
    "on_valid_end",
    "on_epoch_end",
    "on_early_stopping",
    "on_fit_end",
    "on_predict_begin",
    "on_predict_batch_begin",
    "on_predict_batch_end",
    "on_predict_end",
    "on_interrupt",
    "on_exception",
    "on_checkpoint",
];

/// The variant of `lumbre_abi::Hook` for a method, or what to say of a name that is none.
pub fn variant(name: &str) -> Result<String, String> {
    if NAMES.contains(&name) {
        let words = name.trim_start_matches("on_").split('_');
        return Ok(words.map(title).collect());
    }
    Err(match nearest(name) {
        Some(near) => {
            format!("`{name}` is no breakpoint and would never be called; did you mean `{near}`?")
        }
        None => format!(
            "`{name}` is no breakpoint and would never be called; they are: {}",
            NAMES.join(", ")
        ),
    })
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The shortest name that has all the words in their order, else the one with the fewest edits.
fn nearest(name: &str) -> Option<&'static str> {
    let has_words = |known: &&&str| {
        let mut words = known.split('_');
        name.split('_').all(|word| words.any(|other| other == word))
    };
    let longer = NAMES
        .iter()
        .filter(has_words)
        .min_by_key(|known| known.len());
    let near = || {
        let edits = NAMES
            .iter()
            .map(|known| (strsim::levenshtein(name, known), known));
        let near = edits.filter(|(edits, known)| *edits <= name.len().max(known.len()) / 3);
        near.min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
    };
    longer.or_else(near).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_variants() {
        assert_eq!(variant("on_train_batch_end").unwrap(), "TrainBatchEnd");
        assert_eq!(variant("on_fit_begin").unwrap(), "FitBegin");
    }

    #[test]
    fn a_misspelt_name_shows_the_nearest() {
        for (name, near) in [
            ("on_train_bach_end", "`on_train_batch_end`?"),
            ("on_batch_end", "`on_train_batch_end`?"),
            ("on_epoch_ends", "`on_epoch_end`?"),
        ] {
            assert!(variant(name).unwrap_err().ends_with(near), "{name}");
        }
        assert!(
            variant("on_zzzzzzzzzzzzzzzzzzzzzzz")
                .unwrap_err()
                .contains("they are: on_fit_begin")
        );
    }
}
