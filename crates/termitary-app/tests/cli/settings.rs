//! Settings: `.env`, its example, and what wins.

use std::collections::BTreeSet;

use crate::sandbox::{Sandbox, repository};

#[test]
fn the_example_lists_every_setting_and_no_other() {
    let example = std::fs::read_to_string(repository(".env.example")).unwrap();
    let listed: BTreeSet<String> = example
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('='))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    let known = termitary_app::config::documented()
        .into_iter()
        .map(|setting| setting.variable);
    assert_eq!(listed, known.collect());
}

#[test]
fn the_example_changes_nothing_by_itself() {
    let sandbox = Sandbox::new();
    std::fs::copy(repository(".env.example"), sandbox.path(".env")).unwrap();
    sandbox.ok(&["migrate"]);
    assert!(sandbox.path("termitary.db").exists());
}

#[test]
fn the_file_is_read_and_the_real_environment_wins() {
    let mut sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".env"), "DATABASE_URL=sqlite://from-file.db\n").unwrap();
    sandbox.ok(&["migrate"]);
    assert!(sandbox.path("from-file.db").exists());
    sandbox.set("DATABASE_URL", "sqlite://from-environment.db");
    sandbox.ok(&["migrate"]);
    assert!(sandbox.path("from-environment.db").exists());
}

#[test]
fn an_empty_variable_means_not_set() {
    let sandbox = Sandbox::new()
        .with("DATABASE_URL", "")
        .with("REDIS_URL", "")
        .with("SMTP_URL", "");
    assert!(sandbox.ok(&["migrate"]).contains("termitary.db"));
}

#[test]
fn a_broken_line_is_named_without_being_shown() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".env"), "PORT=3000\nhunter2 hunter2\n").unwrap();
    let text = sandbox.fails(2, &["status"]);
    assert!(
        text.contains(".env, line 2") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_secret_that_is_not_set_is_generated_once_and_shared() {
    let sandbox = Sandbox::new();
    let mut first = sandbox.start(&["api"]);
    first.port();
    let file = sandbox.path("termitary.db.secret");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert!(first.said().contains("TERMITARY_SECRET is not set"));
    assert!(!first.said().contains(secret.trim()));
    let mut second = sandbox.start(&["api"]);
    second.port();
    assert!(!second.said().contains("TERMITARY_SECRET"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
}

#[test]
fn a_secret_that_is_too_short_or_on_the_command_line_is_refused_and_not_shown() {
    let sandbox = Sandbox::new().with("TERMITARY_SECRET", "hunter2");
    let text = sandbox.fails(2, &["migrate"]);
    assert!(
        text.contains("TERMITARY_SECRET has 7 characters") && !text.contains("hunter2"),
        "{text}"
    );
    let secret = "a5f0".repeat(16);
    let text = Sandbox::new().fails(2, &["migrate", "--secret", &secret]);
    assert!(
        text.contains("TERMITARY_SECRET_FILE") && !text.contains(&secret),
        "{text}"
    );
}
