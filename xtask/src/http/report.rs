//! Medians, and the page with them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::load::{CONNECTIONS, Outcome};
use super::server::Kind;
use crate::command;
use std::process::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    List,
    Create,
    ListMany,
}

impl Row {
    pub(super) const ALL: [Self; 3] = [Self::List, Self::Create, Self::ListMany];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => "GET, of 1,000 todos",
            Self::Create => "POST",
            Self::ListMany => "GET, of all that the POSTs created",
        }
    }

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Create => "POST",
            Self::List | Self::ListMany => "GET",
        }
    }
}

pub(super) struct Sample {
    pub(super) kind: Kind,
    pub(super) row: Row,
    pub(super) cpu_seconds_per_100k: Option<f64>,
    pub(super) result: Outcome,
}

pub(super) struct Run {
    rounds: usize,
    seconds: u32,
    seed: usize,
    pub(super) samples: Vec<Sample>,
}

impl Run {
    pub(super) fn new(rounds: usize, seconds: u32, seed: usize) -> Self {
        Self {
            rounds,
            seconds,
            seed,
            samples: Vec::new(),
        }
    }

    /// Writes `benchmarks-http.md` into `folder` and prints it.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let page = self.page(&conditions());
        let file = folder.join("benchmarks-http.md");
        std::fs::write(&file, &page)?;
        println!("\n{page}\nwritten to {}", file.display());
        Ok(())
    }

    fn page(&self, conditions: &str) -> String {
        let Self {
            rounds,
            seconds,
            seed,
            ..
        } = self;
        let mut page = format!(
            "# The API under load\n\nWritten by `cargo xtask bench --http`; do not edit. {conditions}\n\n\
             wrk with one thread and {CONNECTIONS} connections on the same machine, {seconds} s a figure; medians of {rounds} (min–max), the systems one after the other in every round.\n\
             Every request carries a session token that is looked up in the database. `POST /api/v1/todos` is validated, and confirmed when it is on disk (`synchronous=FULL`, or the same by other means). Our API commits the todo, its durable event with a delivery for each subscription, and the name of the user, in one transaction. Elysia commits the todo and then sends a Redis PUBLISH, which nobody acknowledges. `GET /api/v1/todos` returns the newest 50, first of {seed}, then of all that the POSTs created. All use a Redis without an append-only file.\n\n"
        );
        page.push_str("| | system | requests/s | of Elysia | p50 ms | p99 ms | CPU s/100k | errors |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
        for row in Row::ALL {
            let elysia = self.median(row, Kind::Elysia, |result| result.per_second);
            for kind in Kind::ALL {
                self.line(&mut page, row, kind, elysia);
            }
        }
        page
    }

    fn line(&self, page: &mut String, row: Row, kind: Kind, elysia: f64) {
        let of = |pick: fn(&Outcome) -> f64| self.spread(row, kind, pick);
        let speed = self.median(row, kind, |result| result.per_second);
        let cpu = middle(
            self.of(row, kind)
                .filter_map(|s| s.cpu_seconds_per_100k)
                .collect(),
        );
        let errors: u64 = self.of(row, kind).map(|s| s.result.errors).sum();
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.2} | {} | {} | {cpu:.1} | {errors} |",
            row.name(),
            kind.name(),
            of(|result| result.per_second),
            speed / elysia.max(1e-9),
            of(|result| result.p50_ms),
            of(|result| result.p99_ms),
        );
    }

    fn of(&self, row: Row, kind: Kind) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.row == row && sample.kind == kind)
    }

    fn values(&self, row: Row, kind: Kind, pick: fn(&Outcome) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.of(row, kind).map(|s| pick(&s.result)).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, row: Row, kind: Kind, pick: fn(&Outcome) -> f64) -> f64 {
        middle(self.values(row, kind, pick))
    }

    fn spread(&self, row: Row, kind: Kind, pick: fn(&Outcome) -> f64) -> String {
        let values = self.values(row, kind, pick);
        let (Some(least), Some(most)) = (values.first(), values.last()) else {
            return "–".to_owned();
        };
        let (least, most) = (*least, *most);
        let shown = |value: f64| {
            if value >= 100.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.2}")
            }
        };
        format!(
            "{} ({}–{})",
            shown(middle(values)),
            shown(least),
            shown(most)
        )
    }
}

/// The median; of an even number of values, the lower of the two in the middle.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) / 2;
    values.get(at).copied().unwrap_or(0.0)
}

/// The machine and the versions.
fn conditions() -> String {
    let first = |mut command: Command| {
        let said = command::capture(&mut command).unwrap_or_default();
        said.lines().next().unwrap_or_default().trim().to_owned()
    };
    let say = |program: &str, arg: &str| {
        let mut command = Command::new(program);
        command.arg(arg);
        first(command)
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} on {cores} × {cpu}, {}; {}; versions of Elysia and Bun in bench/http/package.json.",
        say("date", "+%Y-%m-%d"),
        say("uname", "-sr"),
        say("redis-server", "--version"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind, per_second: f64) -> Sample {
        Sample {
            kind,
            row: Row::Create,
            cpu_seconds_per_100k: Some(3.0),
            result: Outcome {
                requests: 1_000.0,
                per_second,
                p50_ms: 1.0,
                p99_ms: 2.0,
                errors: 0,
            },
        }
    }

    #[test]
    fn the_page_shows_medians_beside_the_other_system() {
        let mut run = Run::new(3, 8, 1_000);
        for per_second in [900.0, 3_000.0, 2_000.0] {
            run.samples.push(sample(Kind::Api, per_second));
            run.samples.push(sample(Kind::Elysia, 1_000.0));
        }
        let page = run.page("Somewhere.");
        assert!(
            page.contains("| POST | Termitary, API | 2000 (900–3000) | 2.00 | 1.00 (1.00–1.00) |"),
            "{page}"
        );
    }
}
