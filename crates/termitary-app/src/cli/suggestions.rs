//! The known names that are near an unknown one.

use crate::config::{Mistake, escape};

/// The error of an unknown name. It lists the names that are near, or else all.
pub(super) fn unknown(kind: &str, name: &str, known: &[&str]) -> Mistake {
    if known.is_empty() {
        return Mistake::new(format!(
            "no {kind} is named `{}`: none exists yet",
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
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .filter(|(far, candidate)| *far <= candidate.len().max(name.len()) / 2)
        .collect();
    near.sort_unstable();
    near.into_iter()
        .take(3)
        .map(|(_, candidate)| candidate)
        .collect()
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
    }
}
