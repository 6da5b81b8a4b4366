//! `termitary user`: creates the first admin, who is never the first visitor, and
//! administers accounts.

mod password;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::args::{
    JsonArgs, UserCommand, UserCreateArgs, UserNameArgs, UserPasswordArgs, UserRoleArgs,
};
use super::output;
use super::system::{Access, System};
use crate::app::App;
use crate::auth::{self, NewUser, Role, User, operator};
use crate::config::Config;
use crate::secret::Secret;

/// The users of one read.
const PAGE: i64 = 500;

pub(super) async fn run(config: Config, command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Create(args) => create(&config, args).await,
        UserCommand::List(args) => list(&config, &args).await,
        UserCommand::Logout(args) => logout(&config, &args).await,
        UserCommand::Password(args) => set_password(&config, &args).await,
        UserCommand::Role(args) => set_role(&config, &args).await,
        UserCommand::Confirm(args) => confirm(&config, &args).await,
    }
}

async fn create(config: &Config, args: UserCreateArgs) -> anyhow::Result<()> {
    let password = if args.password_stdin {
        password::from_stdin()?
    } else {
        password::generated()?
    };
    let name = args.name.clone().unwrap_or_else(|| local_part(&args.email));
    let role = if args.admin { Role::Admin } else { Role::User };
    let (system, app) = open(config).await?;
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
    let done = format!("created {} {} ({})", user.role, user.email, user.id);
    let json = args.json.then(|| {
        json!({
            "id": user.id,
            "email": user.email,
            "name": user.name,
            "role": user.role,
            "password": shown,
        })
    });
    print(&user.email, &done, shown.as_deref(), json)
}

/// Prints the result, with the password if the command generated it, in one write: a reader
/// that goes away between two lines would take the password along. The change is committed, so
/// the error of a failed write says how to get another password.
fn print(
    email: &str,
    done: &str,
    password: Option<&str>,
    json: Option<Value>,
) -> anyhow::Result<()> {
    let printed = match (json, password) {
        (Some(json), _) => output::json(&json),
        (None, Some(password)) => output::line(&format!("{done}\npassword: {password}")),
        (None, None) => output::line(done),
    };
    if password.is_none() {
        return printed;
    }
    printed.with_context(|| {
        format!("{done}, but the password could not be shown: make another one with `termitary user password {email} --generate`")
    })
}

fn local_part(email: &str) -> String {
    email.split('@').next().unwrap_or_default().to_owned()
}

/// The application on the database.
async fn open(config: &Config) -> anyhow::Result<(System, App)> {
    let system = System::open(config, Access::Change).await?;
    let url = config.local_url(config.port);
    let app = system
        .app(config, url, async || Ok(Secret::default()))
        .await?;
    Ok((system, app))
}

async fn list(config: &Config, args: &JsonArgs) -> anyhow::Result<()> {
    let (system, app) = open(config).await?;
    let mut users: Vec<User> = Vec::new();
    loop {
        let after = users.last().map(|user| user.id);
        let page = operator::list_users(&app, after, PAGE).await?;
        let full = page.read as i64 == PAGE && !page.readable.is_empty();
        users.extend(page.readable);
        if !full {
            break;
        }
    }
    system.db.close().await;
    if args.json {
        return output::json(&users);
    }
    let rows: Vec<_> = users.iter().map(row).collect();
    output::table(
        &["email", "name", "role", "confirmed", "created", "id"],
        &rows,
        "no users",
    )
}

fn row(user: &User) -> Vec<String> {
    let confirmed = if user.email_confirmed { "yes" } else { "no" };
    vec![
        user.email.clone(),
        output::short(&user.name, 40),
        user.role.to_string(),
        confirmed.to_owned(),
        user.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        user.id.to_string(),
    ]
}

async fn logout(config: &Config, args: &UserNameArgs) -> anyhow::Result<()> {
    let (system, app) = open(config).await?;
    let ended = operator::end_sessions(&app, &args.email).await?;
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "ended": ended }));
    }
    output::line(&format!(
        "ended {}",
        output::count(ended, "session", "sessions")
    ))
}

async fn set_password(config: &Config, args: &UserPasswordArgs) -> anyhow::Result<()> {
    let password = if args.generate {
        password::generated()?
    } else if args.password_stdin {
        password::from_stdin()?
    } else {
        password::asked()?
    };
    let (system, app) = open(config).await?;
    let user = operator::set_password(&app, &args.email, &password).await?;
    system.db.close().await;
    let shown = args.generate.then_some(password);
    let done = format!("set the password of {}; their sessions ended", user.email);
    let json = args
        .json
        .then(|| json!({ "id": user.id, "email": user.email, "password": shown }));
    print(&user.email, &done, shown.as_deref(), json)
}

async fn set_role(config: &Config, args: &UserRoleArgs) -> anyhow::Result<()> {
    let role = Role::parse(&args.role);
    let (system, app) = open(config).await?;
    let changed = operator::set_role(&app, &args.email, role).await?;
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "role": role, "changed": changed }));
    }
    let (email, already) = (&args.email, if changed { "now" } else { "already" });
    output::line(&format!("{email} is {already} {role}"))
}

async fn confirm(config: &Config, args: &UserNameArgs) -> anyhow::Result<()> {
    let (system, app) = open(config).await?;
    let user = operator::confirm_email(&app, &args.email).await?;
    system.db.close().await;
    if args.json {
        return output::json(&user);
    }
    output::line(&format!("{} is confirmed and will get mail", user.email))
}
