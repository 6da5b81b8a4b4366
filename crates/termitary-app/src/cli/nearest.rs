//! The known names that somebody probably meant.

use crate::config::{Mistake, escape};

/// No `kind` has this name: those that are near it, or else all there are.
pub(super) fn unknown(kind: &str, name: &str, known: &[&str]) -> Mistake {
    if known.is_empty() {
        return Mistake::new(format!(
            "no {kind} is named `{}`: there is none at all yet",
            escape(name)
        ));
    }
    let near = nearest(name, known.iter().copied());
    let listed = if near.is_empty() { known } else { &near };
    Mistake::new(format!(
        "no {kind} is named `{}`: there is {}",
        escape(name),
        listed.join(", ")
    ))
}

/// Up to three of `known` that are near `name`, the nearest first.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(far, candidate)| *far <= candidate.len().max(name.len()) / 2)
        .collect();
    near.sort_unstable();
    near.into_iter()
        .take(3)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// Number of letters to add, remove or change (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_comes_first() {
        let known = [
            "todos.created",
            "todos.updated",
            "todos.deleted",
            "users.login",
        ];
        assert_eq!(
            nearest("todo.created", known).first(),
            Some(&"todos.created")
        );
        assert_eq!(nearest("user.login", known), ["users.login"]);
        assert!(nearest("x", known).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
