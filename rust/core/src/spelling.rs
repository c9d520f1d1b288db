//! The nearest name to a misspelt one, for messages that show the mend.

/// The candidate that was most likely meant: the shortest one that has all the words of the name in
/// their order (`on_batch_end` in `on_train_batch_end`), else the one that takes the fewest edits to
/// reach, if it is near enough, else the longest one of which the name is a longer form
/// (`valid_accuracy` of `valid_acc`).
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let longer = candidates
        .iter()
        .filter(|candidate| has_words(candidate, name));
    if let Some(candidate) = longer.min_by_key(|candidate| candidate.len()) {
        return Some(candidate);
    }
    let near = candidates
        .iter()
        .map(|&candidate| (edits(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (name.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|&(distance, _)| distance);
    if let Some((_, candidate)) = near {
        return Some(candidate);
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() > 2 && name.starts_with(candidate))
        .max_by_key(|candidate| candidate.len())
}

/// True if a name is one letter away from another one.
#[must_use]
pub fn is_slip_of(name: &str, meant: &str) -> bool {
    edits(name, meant) == 1
}

/// True if the words of a name of two or more stand in the candidate, in their order.
fn has_words(candidate: &str, name: &str) -> bool {
    let mut words = candidate.split('_');
    name.contains('_') && name.split('_').all(|word| words.any(|other| other == word))
}

/// Levenshtein distance, counted in characters, in one row of memory.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["on_epoch_end", "on_train_batch_end", "on_fit_end"];
        assert_eq!(nearest("on_epoch_ends", names), Some("on_epoch_end"));
        assert_eq!(nearest("on_batch_end", names), Some("on_train_batch_end"));
        assert_eq!(nearest("zzz", names), None);
        let records = ["valid_loss", "valid_a", "valid_acc", "va"];
        assert_eq!(nearest("valid_accuracy", records), Some("valid_acc"));
        assert_eq!(nearest("vast_and_far", records), None);
    }

    #[test]
    fn counts_edits() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
