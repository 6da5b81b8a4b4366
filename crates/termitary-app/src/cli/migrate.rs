//! `termitary migrate`: brings the database to this version, or looks how far it is.

use anyhow::bail;
use serde_json::json;

use super::args::MigrateArgs;
use super::system::{self, Access, System};
use super::{database_file, output};
use crate::config::{Config, redact};
use crate::schema;

pub(super) async fn run(config: Config, args: &MigrateArgs) -> anyhow::Result<()> {
    if args.sql {
        return print_sql(&config).await;
    }
    let database = if args.check {
        check(&config).await?
    } else {
        let system = System::open(&config, Access::Create).await?;
        let database = system.db.place();
        system.db.close().await;
        database
    };
    if args.output.json {
        return output::json(
            &json!({ "database": database, "version": env!("CARGO_PKG_VERSION") }),
        );
    }
    output::line(&format!(
        "{database} is at version {}",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Prints the statements that the ledger lacks.
async fn print_sql(config: &Config) -> anyhow::Result<()> {
    match system::migration(config).await? {
        Some(migration) => output::line(migration.sql().trim_end()),
        None => Ok(()),
    }
}

/// Fails if the database is behind this version; returns its name.
async fn check(config: &Config) -> anyhow::Result<String> {
    database_file::check(&system::file_of(&config.database_url), Access::Create).await?;
    let behind = || {
        format!(
            "the database {} is behind version {} of this program: run `termitary migrate`",
            redact(&config.database_url),
            env!("CARGO_PKG_VERSION")
        )
    };
    if let Some(migration) = system::migration(config).await? {
        bail!(
            "{} (its ledger has step {} of {})",
            behind(),
            migration.from(),
            migration.to()
        );
    }
    let db = system::open_database(config, Access::Examine).await?;
    let migrated = schema::is_migrated(&db).await;
    db.close().await;
    if !migrated? {
        bail!("{} (its own tables)", behind());
    }
    Ok(db.place())
}
