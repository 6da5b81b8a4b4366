//! `termitary bench`: runs the measurements of `termitary-bench` and prints them.

use termitary_bench::{BenchArgs, Environment, Refused, Report};

use super::output;
use super::signals::Signals;
use super::system::file_of;
use crate::config::{Config, Mistake, documented};

pub(super) async fn run(config: Config, args: BenchArgs) -> anyhow::Result<()> {
    if config.on_postgres() {
        return Err(Mistake::new(
            "DATABASE_URL names a PostgreSQL database, and `termitary bench` measures SQLite files, with Redis or without: set DATABASE_URL to a file, such as DATABASE_URL=sqlite://termitary.db",
        )
        .into());
    }
    let mut signals = Signals::listen()?;
    let json = args.json;
    let environment = Environment {
        database: file_of(&config.database_url),
        redis: config.redis,
        concurrency: config.concurrency,
        settings: documented()
            .into_iter()
            .map(|setting| setting.variable)
            .collect(),
    };
    let report = Box::pin(termitary_bench::run(args, environment, async || {
        signals.next().await
    }))
    .await
    .map_err(mistake)?;
    if json {
        return output::json(&report);
    }
    print(&report)
}

fn mistake(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refused>() {
        Ok(refused) => Mistake::new(refused.to_string()).into(),
        Err(error) => error,
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(&report.conditions())?;
    let rows = report.rows();
    if !rows.is_empty() {
        output::table(&Report::HEADING, &rows, "")?;
    }
    for note in report.notes() {
        output::line("")?;
        output::line(&note)?;
    }
    Ok(())
}
