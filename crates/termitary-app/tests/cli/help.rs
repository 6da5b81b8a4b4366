//! The help of every command, as a newcomer sees it.

use crate::sandbox::Sandbox;

#[test]
fn the_help_of_every_command_is_as_reviewed() {
    let sandbox = Sandbox::new();
    let commands = [
        "",
        "dev",
        "api",
        "worker",
        "migrate",
        "publish",
        "tail",
        "events",
        "status",
        "doctor",
        "check",
        "move",
        "dead",
        "dead list",
        "dead show",
        "dead replay",
        "dead drop",
        "schedule",
        "schedule list",
        "schedule run",
        "schedule pause",
        "schedule resume",
        "subscription",
        "subscription drop",
        "user",
        "user create",
        "user list",
        "user logout",
        "user password",
        "user role",
        "user confirm",
        "bench",
        "health",
        "completions",
    ];
    for command in commands {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let name = if command.is_empty() {
            "termitary"
        } else {
            command
        }
        .replace(' ', "-");
        insta::assert_snapshot!(format!("help-{name}"), sandbox.ok(&args));
    }
}

#[test]
fn every_command_shows_an_example() {
    let sandbox = Sandbox::new();
    for command in [
        "dev",
        "api",
        "worker",
        "migrate",
        "publish",
        "tail",
        "events",
        "status",
        "doctor",
        "check",
        "move",
        "bench",
        "health",
        "completions",
    ] {
        assert!(
            sandbox.ok(&[command, "--help"]).contains("xample"),
            "{command}"
        );
    }
}

#[test]
fn help_never_shows_what_a_setting_holds() {
    let sandbox = Sandbox::new()
        .with("REDIS_PASSWORD", "hunter2")
        .with("REDIS_URL", "redis://:hunter2@h")
        .with("SMTP_URL", "smtp://u:hunter2@h")
        .with("DATABASE_URL", "sqlite://hunter2.db");
    for args in [["--help"], ["-h"]] {
        assert!(!sandbox.ok(&args).contains("hunter2"));
    }
}

#[test]
fn output_has_no_colour_without_a_terminal() {
    let sandbox = Sandbox::new();
    for args in [&["--help"][..], &["events"], &["nonsense"]] {
        let output = sandbox.run(args);
        assert!(
            !output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b),
            "{args:?}"
        );
    }
}

#[test]
fn the_event_map_names_the_original_events() {
    let map = Sandbox::new().json(&["events", "--json"]);
    let names: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["event"].as_str().unwrap())
        .collect();
    for event in [
        "todos.created",
        "todos.updated",
        "todos.deleted",
        "todos.overdue.check",
        "users.created",
        "users.updated",
        "users.deleted",
        "users.login",
        "users.inactive.check",
    ] {
        assert!(names.contains(&event), "{event}: {names:?}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["events", "--json"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    drop(stdout);
    assert!(child.wait().unwrap().success());
}

#[test]
fn completions_are_a_script() {
    assert!(
        Sandbox::new()
            .ok(&["completions", "bash"])
            .contains("_termitary")
    );
}
