//! The question before an action that cannot be undone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::config::Mistake;

/// Asks on the terminal whether to `act` (a verb) on `what`.
///
/// # Errors
///
/// If there is no terminal; the error names the flag that replaces the question.
pub(super) fn confirmed(act: &str, what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Mistake::new(format!("this would {act} {what}: add --yes to confirm")).into());
    }
    let (first, rest) = act.split_at(1);
    let mut stderr = std::io::stderr();
    write!(stderr, "{}{rest} {what}? [y/N] ", first.to_uppercase())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
