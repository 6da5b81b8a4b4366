//! Settings: `.env`, its example, and precedence.

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

/// A `.env` as it stands beside other programs.
const FOREIGN: &str = r#"
export NODE_ENV=development
APP NAME=hunter2
hunter2 hunter2
export GREETING
DEBUG = app:*  # spaces around, and a comment
SALT=$2b$10$hunter2
GREETING="Hello,
it's $USER"
KEY='-----BEGIN-----
hunter2
-----END-----'
JSON={"a": "b"}
REDIS_PORT=tcp://10.0.0.1:6379
DATABASE_URL = "sqlite://from-$file.db" # ours
"#;

#[test]
fn the_file_of_another_program_stops_nothing_and_shows_nothing() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".env"), FOREIGN).unwrap();
    let output = sandbox.run(&["migrate"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(sandbox.path("from-$file.db").exists(), "{text}");
    for line in [3, 4, 5] {
        assert!(text.contains(&format!(".env, line {line}: ")), "{text}");
    }
    assert_eq!(text.matches(".env, line").count(), 3, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    for args in [
        &["--help"][..],
        &["--version"],
        &["completions", "bash"],
        &["help", "dead"],
    ] {
        let output = sandbox.run(args);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{args:?}"
        );
        assert!(!String::from_utf8(output.stdout).unwrap().contains("from-"));
    }
}

#[test]
fn a_nul_in_the_file_is_left_out_without_being_shown() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".env"), "PORT=0\nSECRET=hunter2\0hunter2\n").unwrap();
    let output = sandbox.run(&["migrate"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(".env, line 2: ") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_setting_that_the_file_gets_wrong_is_named_with_its_line_and_help_still_works() {
    let mut sandbox = Sandbox::new();
    std::fs::write(
        sandbox.path(".env"),
        "hunter2\nTERMITARY_CONCURRENCY=many\n",
    )
    .unwrap();
    let text = sandbox.fails(2, &["migrate"]);
    assert!(
        text.contains("TERMITARY_CONCURRENCY is `many`") && text.contains("(.env, line 2)"),
        "{text}"
    );
    assert!(
        text.contains(".env, line 1: ignored") && !text.contains("hunter2"),
        "{text}"
    );
    sandbox.ok(&["--help"]);
    sandbox.set("TERMITARY_CONCURRENCY", "some");
    let text = sandbox.fails(2, &["migrate"]);
    assert!(
        text.contains("`some`") && !text.contains("(.env, line 2)"),
        "{text}"
    );
    let text = sandbox.fails(2, &["migrate", "--concurrency", "any"]);
    assert!(
        text.contains("`any`") && !text.contains("(.env, line 2)"),
        "{text}"
    );
}

#[test]
fn a_flag_wins_over_the_file_wherever_it_stands() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".env"), "DATABASE_URL=sqlite://from-file.db\n").unwrap();
    sandbox.ok(&["migrate", "--database-url", "sqlite://behind.db"]);
    sandbox.ok(&["--database-url", "sqlite://before.db", "migrate"]);
    assert!(sandbox.path("behind.db").exists() && sandbox.path("before.db").exists());
    assert!(!sandbox.path("from-file.db").exists());
}

#[test]
fn a_folder_named_like_the_file_is_another_programs() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path(".env")).unwrap();
    sandbox.ok(&["migrate"]);
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

#[test]
fn an_empty_value_leaves_the_setting_to_the_next_source() {
    let mut sandbox = Sandbox::new().with("DATABASE_URL", "");
    std::fs::write(
        sandbox.path(".env"),
        "DATABASE_URL=sqlite://from-file.db\nTERMITARY_CONCURRENCY=many\n",
    )
    .unwrap();
    sandbox.set("TERMITARY_CONCURRENCY", "4");
    sandbox.ok(&["migrate"]);
    assert!(sandbox.path("from-file.db").exists());
    sandbox.set("DATABASE_URL", "sqlite://from-environment.db");
    sandbox.ok(&["migrate", "--database-url", ""]);
    assert!(sandbox.path("from-environment.db").exists());
    sandbox.set("TERMITARY_CONCURRENCY", " ");
    let text = sandbox.fails(2, &["migrate"]);
    assert!(
        text.contains("`many`") && text.contains("(.env, line 2)"),
        "{text}"
    );
}

#[test]
fn a_misspelt_setting_is_told_once_with_the_name_that_was_meant() {
    let sandbox = Sandbox::new()
        .with("TERMITARY_CONCURENCY", "8")
        .with("TERMITARY_EMPTY", "")
        // Set by Kubernetes for services named `termitary` and `termitary-api`.
        .with("TERMITARY_SERVICE_HOST", "10.0.0.1")
        .with("TERMITARY_PORT", "tcp://10.0.0.1:80")
        .with("TERMITARY_API_PORT_80_TCP_ADDR", "10.0.0.1");
    std::fs::write(
        sandbox.path(".env"),
        "TERMITARY_PUBLIC_URI=http://hunter2\n",
    )
    .unwrap();
    for args in [&["migrate"][..], &["status"], &["events"]] {
        let output = sandbox.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        for (wrong, right) in [
            ("TERMITARY_CONCURENCY", "TERMITARY_CONCURRENCY"),
            ("TERMITARY_PUBLIC_URI", "TERMITARY_PUBLIC_URL"),
        ] {
            let about = text.lines().filter(|line| line.contains(wrong));
            let about: Vec<_> = about.collect();
            assert!(about.len() == 1 && about[0].contains(right), "{text}");
        }
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
