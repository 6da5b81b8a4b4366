//! The files in `deploy/` fit the project: the image's build context is complete, and every setting
//! reaches the container.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// Copies a file or folder, without build output.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
        return;
    }
    for entry in std::fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "target" {
            copy(&from.join(&name), &to.join(&name));
        }
    }
}

#[test]
fn the_docker_build_context_holds_every_package_of_the_workspace() {
    let context = std::env::temp_dir().join(format!("termitary-context-{}", std::process::id()));
    let rules = text("deploy/Dockerfile.dockerignore");
    for name in rules.lines().filter_map(|line| line.strip_prefix('!')) {
        copy(&root().join(name), &context.join(name));
    }
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(&context)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&context).unwrap();
    let error = String::from_utf8_lossy(&metadata.stderr);
    assert!(metadata.status.success(), "{error}");
}

/// The settings that `.env.example` shows. A test of the application compares them with `--help`.
fn settings() -> Vec<String> {
    let example = text(".env.example");
    let names = example.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("# ")?.split_once('=')?;
        let upper = |c: char| c.is_ascii_uppercase() || c == '_';
        name.chars().all(upper).then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn compose_passes_every_setting_on() {
    let compose = text("deploy/compose.yml");
    // The image sets these; secrets from files need a mount of their own.
    let fixed = ["DATABASE_URL", "HOST", "PORT", "MAIL_DIR"];
    let missing: Vec<_> = settings()
        .into_iter()
        .filter(|name| !fixed.contains(&&**name) && !name.ends_with("_FILE"))
        .filter(|name| !compose.contains(&format!("{name}: ${{{name}")))
        .collect();
    assert!(missing.is_empty(), "not in compose.yml: {missing:?}");
}

#[test]
fn every_service_of_compose_belongs_to_a_profile() {
    let compose = text("deploy/compose.yml");
    let (_, services) = compose.split_once("\nservices:\n").unwrap();
    let (services, _) = services.split_once("\nvolumes:\n").unwrap();
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = services
        .lines()
        .filter(is_name)
        .filter(|l| l.ends_with(':'));
    assert_eq!(names.count(), 4);
    assert_eq!(services.matches("    profiles: [").count(), 4);
    assert_eq!(services.matches("    profiles: [file]").count(), 1);
}

/// The lines `Environment=NAME=value` of a unit.
fn environment(unit: &str) -> Vec<String> {
    let unit = text(unit);
    let lines = unit.lines().filter_map(|l| l.strip_prefix("Environment="));
    lines.map(str::to_owned).collect()
}

#[test]
fn commands_beside_the_units_run_with_the_settings_of_the_units() {
    let api = environment("deploy/systemd/termitary-api.service");
    let worker = environment("deploy/systemd/termitary-worker@.service");
    assert!(api.len() >= 4, "{api:?}");
    assert_eq!(api, worker);
    let command = text("deploy/systemd/termitary-ctl");
    for setting in api.iter().filter(|line| !line.starts_with("LOG_FORMAT")) {
        assert!(command.contains(setting), "{setting}");
    }
    assert!(command.contains("EnvironmentFile=-/etc/termitary/termitary.env"));
}
