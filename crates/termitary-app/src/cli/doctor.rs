//! `termitary doctor`: finds what puts work at risk, and says what to do.

use std::fmt::Write as _;

use anyhow::anyhow;
use termitary::Db;
use termitary::inspect::{Finding, Level};

use super::args::JsonArgs;
use super::output;
use super::system::{Access, System};
use crate::config::{Config, escape};
use crate::schema;

pub(super) async fn run(config: Config, args: &JsonArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Examine).await?;
    let mut findings = system.broker.inspect().doctor().await?;
    findings.extend(own_tables(&system.db).await?);
    system.db.close().await;
    // The worst first; among equals the order of the examination.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    if args.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            output::line(&text(finding))?;
        }
    }
    let risks = findings.iter().filter(|found| found.level == Level::Risk);
    match risks.count() as u64 {
        0 => Ok(()),
        risks => Err(anyhow!("{} found", output::count(risks, "risk", "risks"))),
    }
}

/// The application's own tables; no finding about the database of another program.
async fn own_tables(db: &Db) -> anyhow::Result<Option<Finding>> {
    const CHECK: &str = "application.schema";
    if !schema::is_there(db).await? {
        return Ok(None);
    }
    if schema::is_migrated(db).await? {
        return Ok(Some(Finding::ok(
            CHECK,
            "the application's tables are of this version",
        )));
    }
    Ok(Some(Finding::new(
        CHECK,
        Level::Risk,
        "the application's tables are of another version than this program",
        "requests and handlers of this program fail there",
        "`termitary migrate` brings older tables to this version; newer ones need the newer program",
    )))
}

/// A finding as lines of text.
fn text(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok  ",
        Level::Note => "note",
        _ => "RISK",
    };
    let mut text = format!("{level}  {}: {}", finding.check, escape(&finding.found));
    for (name, part) in [("at risk", &finding.at_risk), ("to do", &finding.advice)] {
        if !part.is_empty() {
            let _ = write!(text, "\n      {name}: {}", escape(part));
        }
    }
    text
}
