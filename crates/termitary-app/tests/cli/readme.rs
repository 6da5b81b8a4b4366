//! The README works word for word.

use std::process::Command;

use crate::sandbox::{Process, Sandbox, eventually, repository};

/// The shell commands of the five-minute walk.
fn walk() -> Vec<String> {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let walk = readme
        .split("## Five minutes")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let blocks = walk.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().trim().to_owned())
        .collect()
}

#[test]
fn it_opens_with_two_commands() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let opening = "# Termitary\n\n```sh\ncargo run --release\ncargo xtask test\n```\n";
    assert!(readme.starts_with(opening));
}

#[test]
fn it_names_every_setting() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    for setting in termitary_app::config::documented() {
        assert!(
            readme.contains(&format!("`{}`", setting.variable)),
            "{}",
            setting.variable
        );
    }
}

#[test]
fn its_links_lead_somewhere() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(
            target.starts_with("http") || repository(target).exists(),
            "{target}"
        );
    }
}

#[test]
fn the_five_minute_walk_works_word_for_word() {
    if !Command::new("curl")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("SKIPPED: the walk of the README needs curl, which is not installed");
        return;
    }
    let sandbox = Sandbox::new();
    let mut blocks = walk().into_iter();
    assert_eq!(blocks.next().as_deref(), Some("cargo run --release"));
    let mut dev = sandbox.start(&[]);
    let port = dev.port();
    dev.says("worker started");

    let mut script = String::from("set -eu\n");
    let mut tail: Option<Process> = None;
    let mut answers = Vec::new();
    for block in blocks {
        let block = block
            .replace("127.0.0.1:3000", &format!("127.0.0.1:{port}"))
            .replace("target/release/termitary", env!("CARGO_BIN_EXE_termitary"));
        if block.ends_with(" tail") {
            tail = Some(sandbox.start(&["tail"]));
            std::thread::sleep(std::time::Duration::from_secs(1));
            continue;
        }
        if block.contains("*.eml") {
            eventually("the mail is there", || sandbox.mails().len() == 1);
        }
        if block.contains("/activity") {
            sandbox.settled();
        }
        // Variables of a block, such as the token, are kept for the next blocks.
        let said = shell(&sandbox, &format!("{script}{block}"));
        if block.contains("TOKEN=$(") {
            script.push_str(&block);
            script.push('\n');
        }
        answers.push(said);
    }
    let said = answers.join("\n---\n");
    for words in [
        "\"token\"",
        "Subject: Welcome to Termitary",
        "todos.created",
        "Water the plants",
        "users.send-welcome",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    tail.unwrap().says("todos.created");
}

fn shell(sandbox: &Sandbox, script: &str) -> String {
    let inherit = sandbox.command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(sandbox.path(""))
        .env_clear();
    command.envs(
        inherit
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        crate::sandbox::stderr(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}
