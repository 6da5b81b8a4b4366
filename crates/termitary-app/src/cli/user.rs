//! `termitary user`: the first admin is made here, never by the first visitor.

use std::io::BufRead as _;

use anyhow::{Context as _, anyhow};
use serde_json::json;

use super::args::{UserCommand, UserCreateArgs};
use super::open::{Missing, System};
use super::out;
use crate::auth::{self, NewUser, Role};
use crate::config::{Config, Mistake};
use crate::secret::Secret;

/// Without those that are easily mistaken for each other; 32 of them, so that
/// each random byte picks one evenly.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 100 bits.
const GENERATED_LENGTH: usize = 20;

pub(super) async fn run(config: Config, command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Create(args) => create(&config, args).await,
    }
}

async fn create(config: &Config, args: UserCreateArgs) -> anyhow::Result<()> {
    let password = if args.password_stdin {
        from_stdin()?
    } else {
        generated()?
    };
    let name = args.name.clone().unwrap_or_else(|| local_part(&args.email));
    let role = if args.admin { Role::Admin } else { Role::User };
    let system = System::open(config, Missing::Create).await?;
    let app = system.app(config, config.local_url(config.port), Secret::default())?;
    let new = NewUser {
        email: args.email,
        name,
        password: password.clone(),
        role,
    };
    let user = auth::create_user(&app, new)
        .await
        .context("no user was created")?;
    system.db.close().await;
    let shown = (!args.password_stdin).then_some(password);
    if args.json {
        return out::json(&json!({
            "id": user.id,
            "email": user.email,
            "name": user.name,
            "role": user.role,
            "password": shown,
        }));
    }
    out::line(&format!(
        "created {} {} ({})",
        user.role, user.email, user.id
    ))?;
    match shown {
        Some(password) => out::line(&format!("password: {password}")),
        None => Ok(()),
    }
}

fn local_part(email: &str) -> String {
    email.split('@').next().unwrap_or_default().to_owned()
}

fn from_stdin() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the password from stdin")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Mistake::new(
            "--password-stdin: there is no password on stdin; write it on the first line",
        )
        .into());
    }
    Ok(password.to_owned())
}

fn generated() -> anyhow::Result<String> {
    let mut bytes = [0; GENERATED_LENGTH];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system has no randomness: {error}"))?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn generated_passwords_are_long_and_never_the_same() {
        let (one, two) = (generated().unwrap(), generated().unwrap());
        assert_eq!(one.len(), 20);
        assert_ne!(one, two);
    }
}
