//! The compiler's messages for the mistakes of users. Each file of `cases` fails to compile, with
//! the text beside it; `good.rs` compiles.
//!
//! The compiler is run on the library that cargo built for this test, half a
//! second a case. (trybuild would build every dependency a second time.)
//!
//! After an intended change: `UI_UPDATE=1 cargo test -p termitary --test ui`, then review the diff
//! as users will see it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The texts are this compiler's. Another may word its own part differently, so
/// there only the headlines are compared.
const WRITTEN_BY: &str = "rustc 1.95.";

#[test]
fn the_compiler_explains_the_mistakes_that_users_make() {
    let libraries = libraries();
    let exact = version().starts_with(WRITTEN_BY);
    let mut wrong = Vec::new();
    for case in cases() {
        let found = compile(&libraries, &case).unwrap_or_default();
        let text = case.with_extension("stderr");
        if std::env::var_os("UI_UPDATE").is_some() {
            std::fs::write(&text, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&text).unwrap_or_default();
        let same = if exact {
            found == expected
        } else {
            headlines(&found) == headlines(&expected)
        };
        if found.is_empty() || !same {
            wrong.push(format!(
                "{}\n--- expected\n{expected}\n--- found\n{found}",
                case.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The crates that a case may use.
struct Libraries {
    termitary: PathBuf,
    serde: PathBuf,
}

/// Cargo may have left several builds of both crates beside this test. Returns the
/// newest that compile the control.
fn libraries() -> Libraries {
    let mut why = String::from("there is none");
    for termitary in built("libtermitary-") {
        for serde in built("libserde-") {
            let termitary = termitary.clone();
            let libraries = Libraries { termitary, serde };
            match compile(&libraries, Path::new("tests/ui/good.rs")) {
                None => return libraries,
                Some(error) => why = error,
            }
        }
    }
    panic!("no build of the library compiles good.rs: {why}")
}

/// The builds of one crate, the newest first.
fn built(prefix: &str) -> Vec<PathBuf> {
    let mut built: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(neighbours())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(".rlib")
        })
        .map(|path| (path.metadata().unwrap().modified().unwrap(), path))
        .collect();
    built.sort();
    built.into_iter().rev().map(|(_, path)| path).collect()
}

/// The folder of cargo's output for tests.
fn neighbours() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned()
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<_> = std::fs::read_dir("tests/ui/cases")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn version() -> String {
    let output = rustc().arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The compiler's message, if it does not compile.
fn compile(libraries: &Libraries, case: &Path) -> Option<String> {
    let out = tempfile::tempdir().unwrap();
    let output = rustc()
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--emit",
            "metadata",
        ])
        .args(["--diagnostic-width", "100", "--out-dir"])
        .arg(out.path())
        .arg("-L")
        .arg(format!("dependency={}", neighbours().display()))
        .arg("--extern")
        .arg(format!("termitary={}", libraries.termitary.display()))
        .arg("--extern")
        .arg(format!("serde={}", libraries.serde.display()))
        .arg(case)
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    (!output.status.success()).then(|| normal(&String::from_utf8_lossy(&output.stderr)))
}

/// Removes everything that differs between machines, edits and sets of features: the lines of the
/// library's own code, lists of other implementations of a trait, names of files with long types.
fn normal(stderr: &str) -> String {
    let mut lines = Vec::new();
    let mut skipping = Skip::Nothing;
    for line in stderr.lines() {
        let place = line.split_once("--> ").or_else(|| line.split_once("::: "));
        if let Some((before, place)) = place {
            let ours = place.starts_with("tests/ui/");
            skipping = if ours { Skip::Nothing } else { Skip::Code };
            if !ours {
                lines.push(format!("{before}--> {}", file_of(place)));
                continue;
            }
        }
        if skipping.covers(line) {
            continue;
        }
        let lists = line.contains("= help: the following") && line.contains("implement");
        skipping = if lists { Skip::List } else { Skip::Nothing };
        let about_a_file = line.contains(".long-type-") || line.contains("using `--verbose`");
        if !lists && !about_a_file {
            lines.push(line.trim_end().to_owned());
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The section to which the next lines belong.
enum Skip {
    Nothing,
    Code,
    List,
}

impl Skip {
    fn covers(&self, line: &str) -> bool {
        let text = line.trim_start();
        match self {
            Self::Nothing => false,
            Self::Code => text.starts_with(|c: char| c.is_ascii_digit() || c == '|' || c == '.'),
            Self::List => line.starts_with("          ") || text.starts_with("and "),
        }
    }
}

/// `src/registry.rs` of a place in the library, `core` of one elsewhere.
fn file_of(place: &str) -> &str {
    let file = place.split(':').next().unwrap_or_default();
    match file.split_once("crates/termitary/") {
        Some((_, file)) => file,
        None => "another crate",
    }
}

fn headlines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("error"))
        .collect()
}
