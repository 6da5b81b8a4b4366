//! The tests that the reliability guide names for its promises exist.

use std::path::Path;

/// Folders to which the paths in the guide are relative.
const ROOTS: [&str; 3] = ["crates/termitary", "crates", "."];

/// Every `path.rs::name` between backticks.
fn named(guide: &str) -> Vec<(&str, &str)> {
    let quoted = guide.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once(".rs::")).collect()
}

/// The error in naming the test `name` of the file `path`, if any.
fn wrong(repository: &Path, path: &str, name: &str) -> Option<String> {
    let files = ROOTS.map(|root| repository.join(root).join(format!("{path}.rs")));
    let found: Vec<_> = files.iter().filter(|file| file.is_file()).collect();
    let [file] = found.as_slice() else {
        return Some(format!("{path}.rs is {} files", found.len()));
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else {
        return Some(format!("{path}.rs has no {name}"));
    };
    // A function of the conformance suite is a test if its suite lists it.
    let suite = file.with_file_name("main.rs");
    let listed = std::fs::read_to_string(suite)
        .is_ok_and(|suite| suite.lines().any(|line| line.trim() == name));
    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
    let is_test = attributes.contains("#[test]") || attributes.contains("#[tokio::test");
    (!listed && !is_test).then(|| format!("{path}.rs: {name} is no test"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_test_that_the_guide_of_promises_names_exists() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let guide = std::fs::read_to_string(repository.join("docs/guide/reliability.md")).unwrap();
        let named = named(&guide);
        assert!(named.len() > 40, "{} tests named", named.len());
        let wrong: Vec<_> = named
            .iter()
            .filter_map(|(path, name)| wrong(&repository, path, name))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        for promise in 1..=13 {
            let row = format!("| G{promise} | `");
            assert!(guide.contains(&row), "G{promise} names no test");
        }
    }

    #[test]
    fn a_test_that_does_not_exist_is_found() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let of = |path, name| wrong(&repository, path, name);
        let here = "xtask/src/promises";
        assert_eq!(of(here, "a_test_that_does_not_exist_is_found"), None);
        assert!(of(here, "no_such_test").is_some());
        assert!(of(here, "named").is_some(), "a function is no test");
        assert!(of("xtask/src/no_such_file", "named").is_some());
    }
}
