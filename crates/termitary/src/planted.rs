//! Deliberate bugs, which test the checkers of the chaos runs, the simulation and the
//! sweep: each bug must make a run fail. They are built only with the feature
//! `planted-bugs`.

/// Returns whether this process has the bug of this name: `settle-before-commit`, `no-owner-check`,
/// `maxlen-trim`, `cursor-relay` or `forgetful-relay` (which never returns to the
/// deliveries that it claimed).
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(mistake: &str) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("TERMITARY_PLANTED_BUG").ok());
    CHOSEN.as_deref() == Some(mistake)
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is(_mistake: &str) -> bool {
    false
}

/// The statement as it is; under `no-owner-check` without the last condition of its first
/// statement, which compares the owner of the delivery.
pub(crate) fn owned(sql: &'static str) -> &'static str {
    if !is("no-owner-check") {
        return sql;
    }
    let end = sql.find("RETURNING").or_else(|| sql.find(';'));
    let end = end.unwrap_or(sql.len());
    let condition = sql.rfind("/* owner */").unwrap_or(end);
    // Leaked: few statements, in a process that is about to be killed.
    format!("{} {}", &sql[..condition], &sql[end..]).leak()
}
