//! `cargo xtask test`: runs steps one after the other and prints a summary.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::steps::{ALL, Step, Tally};
use crate::workspace::Workspace;

/// The steps with these names, in their usual order; all steps if `names` is empty.
pub(crate) fn choose(names: &[&str]) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| ALL.iter().all(|step| step.name != **name))
    {
        bail!("there is no step `{unknown}`");
    }
    Ok(ALL
        .iter()
        .filter(|step| names.is_empty() || names.contains(&step.name))
        .collect())
}

/// Runs the steps until one fails; returns whether all passed.
pub(crate) fn run(workspace: &Workspace, steps: &[&Step]) -> bool {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut lines: Vec<String> = Vec::new();
    let mut failure = None;
    for (index, step) in steps.iter().enumerate() {
        println!(
            "\n== [{}/{}] {}: {}",
            index + 1,
            steps.len(),
            step.name,
            step.about
        );
        let start = Instant::now();
        let result = (step.run)(workspace, &mut tally);
        let time = shown_time(start.elapsed());
        println!("-- {} took {time}", step.name);
        let word = if result.is_ok() { "passed" } else { "FAILED" };
        lines.push(format!("{:<10} {word}  {time:>9}", step.name));
        if let Err(error) = result {
            failure = Some((step, error));
            break;
        }
    }
    for step in &steps[lines.len()..] {
        lines.push(format!("{:<10} not run", step.name));
    }
    println!("\n== Summary\n{}", lines.join("\n"));
    println!("{:<10}         {:>9}", "total", shown_time(begin.elapsed()));
    if let Some((step, error)) = &failure {
        println!("\nFAILED: {}: {error:#}", step.name);
        println!("To run this step alone: cargo xtask test {}", step.name);
    }
    if steps.iter().any(|step| step.name == "tests") {
        println!("\n{}", shown_tally(tally));
    }
    failure.is_none()
}

fn shown_tally(tally: Tally) -> String {
    let Tally {
        passed,
        failed,
        ignored,
    } = tally;
    match ignored {
        0 => format!("{passed} passed, {failed} failed"),
        _ => format!("{passed} passed, {failed} failed, {ignored} ignored"),
    }
}

fn shown_time(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_in_their_usual_order_however_they_are_named() {
        let names = |wanted: &[&str]| {
            choose(wanted)
                .map(|steps| steps.iter().map(|s| s.name).collect::<Vec<_>>())
                .ok()
        };
        assert_eq!(names(&["docs", "fmt"]), Some(vec!["fmt", "docs"]));
        assert_eq!(names(&[]).map(|all| all.len()), Some(ALL.len()));
        assert_eq!(names(&["fmt", "nothing"]), None);
    }

    #[test]
    fn times_and_counts_read_plainly() {
        assert_eq!(shown_time(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(shown_time(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(
            shown_tally(Tally {
                passed: 7,
                failed: 0,
                ignored: 0
            }),
            "7 passed, 0 failed"
        );
        assert_eq!(
            shown_tally(Tally {
                passed: 7,
                failed: 1,
                ignored: 2
            }),
            "7 passed, 1 failed, 2 ignored"
        );
    }
}
