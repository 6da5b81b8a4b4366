//! Findings about a system: what is all right, what is worth knowing, and what puts work
//! at risk, with the way out.

mod ledger;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod sqlite;

#[cfg(feature = "postgres")]
use std::time::Duration;

use serde::Serialize;

use super::Inspect;
use crate::engine::Engine;
use crate::error::Error;

/// One finding of [`Inspect::doctor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// The kind of the finding, such as `redis.persistence`; the same in every version.
    pub check: &'static str,
    /// The weight of the finding.
    pub level: Level,
    /// The fact.
    pub found: String,
    /// The work that the fact puts at risk, or its effect. Empty if all is well.
    pub at_risk: String,
    /// The way out. Empty if all is well.
    pub advice: String,
}

/// The weight of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Work may be lost, delayed or refused.
    Risk,
}

impl Finding {
    /// A finding of any weight. The application uses it for its own checks.
    pub fn new(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        at_risk: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level,
            found: found.into(),
            at_risk: at_risk.into(),
            advice: advice.into(),
        }
    }

    /// A finding that all is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found, "", "")
    }

    fn note(
        check: &'static str,
        found: impl Into<String>,
        at_risk: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, Level::Note, found, at_risk, advice)
    }

    fn risk(
        check: &'static str,
        found: impl Into<String>,
        at_risk: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, Level::Risk, found, at_risk, advice)
    }
}

impl Inspect {
    /// Examines the ledger, its database and the broker. Changes nothing. A ledger whose
    /// tables are older than this program is not examined further: that is then the only
    /// finding about it.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the database cannot be read. An unreachable Redis is a
    /// finding.
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let db = self.0.db();
        let mut findings = match db.engine() {
            Engine::Sqlite(engine) => sqlite::examine(&engine.facts()),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => postgres::examine(db, engine).await?,
        };
        let current = db.is_current().await?;
        findings.push(ledger::schema(current));
        #[cfg(feature = "redis")]
        let reachable = match self.0.redis_facts().await {
            None => true,
            Some(Ok(facts)) => {
                findings.extend(redis::examine(&facts));
                true
            }
            Some(Err(error)) => {
                findings.push(redis::unreachable(&error));
                false
            }
        };
        #[cfg(not(feature = "redis"))]
        let reachable = true;
        if current && reachable {
            let other = self.0.worker_of_another_mode().await?;
            findings.extend(ledger::mode(other.as_ref()));
        }
        if current {
            findings.extend(ledger::examine(&self.status().await?, db.clock().now()));
        }
        Ok(findings)
    }
}

/// A number of bytes as a person reads it.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = (number, "bytes");
    for unit in UNITS {
        if shown.0 < 10 * 1024 {
            break;
        }
        shown = (shown.0 / 1024, unit);
    }
    format!("{} {}", shown.0, shown.1)
}

/// A time as a person reads it.
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The clocks of two machines differ by more: worth knowing, and a risk.
#[cfg(feature = "postgres")]
const SKEW: [Duration; 2] = [Duration::from_secs(2), Duration::from_mins(1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_shown_in_units_of_a_person() {
        assert_eq!(bytes(900), "900 bytes");
        assert_eq!(bytes(20 * MIB), "20 MiB");
        assert_eq!(bytes(30 * GIB), "30 GiB");
        assert_eq!(time(90), "90 s");
        assert_eq!(time(600), "10 min");
        assert_eq!(time(86_400 * 3), "3 days");
    }
}
