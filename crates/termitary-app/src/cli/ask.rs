//! Asks before something is done that cannot be undone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::config::Mistake;

/// Asks whether to `act` (a verb) on `what`. Without a terminal, returns an error that names the
/// option to use.
pub(super) fn may(act: &str, what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Mistake::new(format!("this would {act} {what}: add --yes to do it")).into());
    }
    let (first, rest) = act.split_at(1);
    let mut stderr = std::io::stderr();
    write!(stderr, "{}{rest} {what}? [y/N] ", first.to_uppercase())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
