//! Runs every example of the library; each must end by itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;
use crate::steps::sheltered;
use crate::workspace::{Workspace, make_folder};

const LIMIT: Duration = Duration::from_mins(1);

/// Builds the examples with the features of the tests (so that nothing is built twice) and runs
/// each in its own folder.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let built = command::capture(&mut workspace.cargo(
        "build --workspace --all-features --locked --examples --message-format json-render-diagnostics",
    ))?;
    let examples: Vec<(String, PathBuf)> = built.lines().filter_map(example).collect();
    if examples.is_empty() {
        println!("no examples");
    }
    for (name, program) in examples {
        let folder = workspace.scratch().join("examples").join(&name);
        // Leftovers of an earlier run must not help this one.
        let _ = std::fs::remove_dir_all(&folder);
        make_folder(&folder)?;
        let time = run_one(&name, &program, &folder)?;
        println!(
            "example {name}: succeeded after {:.1} s",
            time.as_secs_f64()
        );
    }
    Ok(())
}

/// The name and program of an example, from one of cargo's messages.
fn example(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let is_example = target["kind"]
        .as_array()?
        .iter()
        .any(|kind| kind == "example");
    let program = message["executable"].as_str()?;
    is_example.then_some((target["name"].as_str()?.to_owned(), PathBuf::from(program)))
}

fn run_one(name: &str, program: &Path, folder: &Path) -> Result<Duration> {
    println!("$ cargo run -p termitary --all-features --example {name}");
    let start = Instant::now();
    let mut child = sheltered(Command::new(program))
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start the example {name}"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("the example {name} failed ({status})");
            }
            return Ok(start.elapsed());
        }
        if start.elapsed() > LIMIT {
            child.kill().and_then(|()| child.wait())?;
            bail!(
                "the example {name} did not end within {} s",
                LIMIT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_examples_that_were_built_are_run() {
        let line = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"hello"}},"executable":"/t/hello"}}"#
            )
        };
        assert_eq!(
            example(&line("example")),
            Some(("hello".to_owned(), PathBuf::from("/t/hello")))
        );
        assert_eq!(example(&line("bin")), None);
        assert_eq!(
            example(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
