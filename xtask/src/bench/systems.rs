//! Measures the rows: in every round, all systems of a row one after the other, so that a slow
//! minute of the machine affects all of them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::build::Programs;
use super::ours;
use super::place::Place;
use super::plan::{REDIS, ROWS, Row, SQLITE, System, TERMITARY};
use super::program::call;
use super::samples::{Run, Sample};

/// Measures the rows selected by `options` and adds them to `run`.
pub(crate) fn measure(programs: &Programs, options: &Options, run: &mut Run) -> Result<()> {
    for (broker, systems) in [("redis", REDIS), ("sqlite", SQLITE)] {
        let mut stands = Vec::new();
        for system in systems {
            let redis = broker == "redis";
            let place = Place::make(&programs.scratch, system.name, redis)?;
            stands.push(Stand {
                broker,
                system,
                place,
            });
        }
        for round in 1..=options.rounds {
            for &(row, times) in ROWS {
                for stand in (0..times).flat_map(|_| &stands) {
                    stand.row(row, round, programs, options, run);
                }
            }
        }
    }
    Ok(())
}

/// A system in its place.
struct Stand<'a> {
    broker: &'static str,
    system: &'a System,
    place: Place,
}

impl Stand<'_> {
    fn row(&self, name: &str, round: usize, programs: &Programs, options: &Options, run: &mut Run) {
        let Some(row) = self.system.rows.iter().find(|row| row.name == name) else {
            return;
        };
        let full = format!("{}/{name}/{}", self.broker, self.system.name);
        if !options.wants(&full) {
            return;
        }
        match self.sample(row, programs, options) {
            Ok((result, server_cpu)) => {
                println!("{full} {round}: {}", Sample::shown(&result));
                run.samples.push(Sample {
                    row: format!("{}/{name}", self.broker),
                    system: self.system.name.to_owned(),
                    result,
                    server_cpu,
                });
            }
            Err(error) => {
                println!("{full} {round}: FAILED: {error:#}");
                run.failures.push(format!("{full}: {error:#}"));
            }
        }
    }

    /// Fills the place if the row needs that, and measures.
    fn sample(
        &self,
        row: &Row,
        programs: &Programs,
        options: &Options,
    ) -> Result<(Value, Option<f64>)> {
        self.place.empty()?;
        let events = options.events(row.events);
        if let Some(fill) = row.fill {
            self.call(fill, events, programs).context("to fill it")?;
        }
        let before = self.place.server_cpu();
        let result = self.call(row.name, events, programs)?;
        let after = self.place.server_cpu();
        Ok((
            result,
            before.zip(after).map(|(before, after)| after - before),
        ))
    }

    fn call(&self, row: &str, events: usize, programs: &Programs) -> Result<Value> {
        if self.system.program == TERMITARY {
            return ours::measure(programs, &self.place, self.broker, row, events);
        }
        let mut command = programs.command(self.system.program);
        command
            .arg(format!("{}{row}", self.system.prefix))
            .args(["--events", &events.to_string()])
            .args(self.place.options());
        call(&mut command)
    }
}
