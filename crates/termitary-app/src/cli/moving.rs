//! `termitary move`: copies a stopped SQLite ledger into an empty PostgreSQL database.

use std::collections::BTreeMap;
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
use crate::schema;

/// The least time between two lines about the same table.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(config: Config, args: MoveArgs) -> anyhow::Result<()> {
    let to = target(&args.to)?;
    let system = System::open(&config, Access::Examine).await?;
    if schema::is_there(&system.db).await? {
        return Err(Mistake::new(format!(
            "{} has the tables of the application, which this version cannot move: it moves the ledger of a program of your own",
            system.db.place()
        ))
        .into());
    }
    let target = Db::open_with(to, Options::default().service("todo"))
        .await
        .with_context(|| format!("--to is `{}`", redact(to)))?;
    let mut progress = Progress::default();
    let moved = move_to(&system.db, &target, &[], |at| progress.show(at)).await?;
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
