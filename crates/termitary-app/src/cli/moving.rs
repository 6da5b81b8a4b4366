//! `termitary move`: copies a stopped SQLite ledger into an empty PostgreSQL database.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use termitary::Db;
use termitary::db::{MoveProgress, Options, move_to};

use super::args::MoveArgs;
use super::output;
use super::system::{Access, System};
use crate::config::{Config, Mistake, escape, redact};
use crate::logging;
use crate::{schema, secret};

/// The least time between two lines about the same table.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(config: Config, args: MoveArgs) -> anyhow::Result<()> {
    let to = target(&args.to)?;
    let system = System::open(&config, Access::Examine).await?;
    let beside = beside(&system.db).await?;
    let target = Db::open_with(to, Options::default().service("todo"))
        .await
        .with_context(|| format!("--to is `{}`", redact(to)))?;
    if !beside.is_empty() {
        schema::migrate(&target).await?;
    }
    let mut progress = Progress::default();
    let moved = move_to(&system.db, &target, beside, |at| progress.show(at)).await?;
    if !beside.is_empty() {
        keep_secret(&config, &system.db, &target).await?;
    }
    let (from, to) = (system.db.place(), target.place());
    system.db.close().await;
    target.close().await;
    if args.json {
        let tables: BTreeMap<_, _> = moved.into_iter().collect();
        return output::json(&json!({ "from": from, "to": to, "tables": tables }));
    }
    let rows: u64 = moved.iter().map(|(_, rows)| rows).sum();
    let rows = output::count(rows, "row", "rows");
    output::line(&format!(
        "{from} is moved to {to}: {rows}, all of them the same there\n"
    ))?;
    output::line("Next:")?;
    output::line("  1. Set DATABASE_URL to the new address, for every process.")?;
    output::line("  2. Start them, and run `termitary doctor` and `termitary status`.")?;
    output::line(&format!(
        "  3. Keep {} as a backup, under another name: events published into it now would stay there.",
        escape(&from)
    ))
}

/// The application's own tables, if the file has them.
async fn beside(db: &Db) -> anyhow::Result<&'static [&'static str]> {
    if !schema::is_there(db).await? {
        return Ok(&[]);
    }
    if schema::is_migrated(db).await? {
        return Ok(schema::MOVED);
    }
    Err(Mistake::new(format!(
        "the tables of the application in {} are of another version than this program: run `termitary migrate` first",
        db.place()
    ))
    .into())
}

/// Takes the secret beside the file along: hashes and sealed responses need it.
async fn keep_secret(config: &Config, from: &Db, to: &Db) -> anyhow::Result<()> {
    let file = from.path().map(secret::file_beside);
    if config.secret.is_some() || !file.as_deref().is_some_and(Path::exists) {
        return Ok(());
    }
    let file = file.unwrap_or_default();
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("the secret in {}", file.display()))?;
    Ok(schema::keep_secret(to, text.trim()).await?)
}

/// The address, unless it has a password, which every user of the machine could read.
fn target(url: &str) -> Result<&str, Mistake> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("postgres" | "postgresql")) {
        return Err(Mistake::new(format!(
            "--to is `{}`: write the address of an empty PostgreSQL database, such as postgres://app@localhost/shop",
            redact(url)
        )));
    }
    if has_password(url) {
        return Err(Mistake::new(
            "other users can read a password on the command line: leave it out of --to, and set PGPASSWORD in the environment or write it into ~/.pgpass",
        ));
    }
    Ok(url)
}

/// Returns true if a URL has a password, or cannot be read and may have one.
fn has_password(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return url.contains('@');
    };
    url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
}

/// Prints lines about the progress on stderr.
#[derive(Default)]
struct Progress {
    /// The table of the last line, with its time.
    last: Option<(String, bool, Instant)>,
}

impl Progress {
    fn show(&mut self, at: &MoveProgress) {
        let soon = |(table, compares, time): &(String, bool, Instant)| {
            *table == at.table && *compares == at.compares && time.elapsed() < PAUSE
        };
        if at.rows < at.total && self.last.as_ref().is_some_and(soon) {
            return;
        }
        self.last = Some((at.table.clone(), at.compares, Instant::now()));
        let done = if at.compares { "compared" } else { "copied" };
        let MoveProgress {
            table, rows, total, ..
        } = at;
        logging::print(&format!("{table}: {done} {rows} of {total} rows"));
    }
}
