//! Every dependency must come from the one registry, under a licence that allows this project to be built
//! and shipped.

mod expression;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;
use expression::Expression;

/// Licences that require no more than their text and the copyright notice. MPL-2.0 and similar
/// licences are missing on purpose: a dependency that offers nothing else needs a decision, not a
/// line here.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks every package of `Cargo.lock`, for every platform.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let metadata = workspace.metadata(&[])?;
    let packages = metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let members = metadata["workspace_members"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mut wrong = Vec::new();
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let mut registries: BTreeSet<&str> = BTreeSet::new();
    for package in packages
        .iter()
        .filter(|package| !members.contains(&package["id"]))
    {
        if let Err(problem) = check_package(package, &mut registries) {
            let text = |field: &str| package[field].as_str().unwrap_or("?").to_owned();
            wrong.push(format!("{} {}: {problem}", text("name"), text("version")));
        }
        *used
            .entry(package["license"].as_str().unwrap_or("none"))
            .or_default() += 1;
    }
    if registries.len() > 1 {
        wrong.push(format!(
            "packages come from {} registries instead of one",
            registries.len()
        ));
    }
    if !wrong.is_empty() {
        bail!(
            "{} of {} dependencies are not allowed:\n  {}",
            wrong.len(),
            packages.len(),
            wrong.join("\n  ")
        );
    }
    println!(
        "{} dependencies are allowed, under {} licence expressions",
        used.values().sum::<usize>(),
        used.len()
    );
    Ok(())
}

fn check_package<'a>(package: &'a Value, registries: &mut BTreeSet<&'a str>) -> Result<()> {
    match package["source"].as_str() {
        Some(source) if source.starts_with("registry+") || source.starts_with("sparse+") => {
            registries.insert(source);
        }
        Some(source) => bail!("it comes from {source}, not from the registry"),
        None => bail!("it is a path outside the workspace"),
    }
    let Some(licence) = package["license"].as_str() else {
        bail!("its manifest names no licence");
    };
    let expression = Expression::parse(licence)?;
    if !expression.satisfied_by(&|licence| ALLOWED.contains(&licence)) {
        bail!("its licence `{licence}` is not on the list in xtask/src/licences/mod.rs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem(source: &str, licence: Option<&str>) -> Option<String> {
        let package = json!({ "source": source, "license": licence });
        check_package(&package, &mut BTreeSet::new())
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_dependency_needs_an_allowed_licence() {
        assert_eq!(problem("registry+x", Some("MIT OR GPL-3.0")), None);
        assert!(problem("registry+x", Some("GPL-3.0")).is_some_and(|p| p.contains("GPL-3.0")));
        assert!(problem("registry+x", None).is_some_and(|p| p.contains("no licence")));
    }

    #[test]
    fn a_dependency_comes_from_the_registry() {
        assert!(problem("git+x", Some("MIT")).is_some_and(|p| p.contains("git+x")));
        let local = json!({ "source": null, "license": "MIT" });
        assert!(check_package(&local, &mut BTreeSet::new()).is_err());
    }
}
