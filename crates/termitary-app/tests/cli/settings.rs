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
