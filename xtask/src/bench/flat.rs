//! Loads that must not change the cost of an event: pending events, subscriptions, and the work of
//! a neighbour. Every size has its own place, so that the sizes can be measured in turn.

use anyhow::Result;
use serde_json::Value;

use super::Options;
use super::build::Programs;
use super::place::Place;
use super::plan::OURS;
use super::program::call;
use super::samples::{Run, Sample};

/// Number of events in one measurement.
const EVENTS: usize = 100_000;

const PENDING: &[usize] = &[1_000, 10_000, 100_000, 1_000_000];
const SUBSCRIPTIONS: &[usize] = &[1, 10, 50, 200];
const NEIGHBOUR: &[usize] = &[0, 1_000, 100_000, 1_000_000];

/// Results by name.
type Results = Vec<(&'static str, Value)>;

/// One question: the quantity that varies, and its measurement.
struct Question {
    name: &'static str,
    sizes: &'static [usize],
    /// Runs before the first round.
    prepare: fn(&Stand<'_>, usize) -> Result<()>,
    /// Runs in every round.
    measure: fn(&Stand<'_>, usize) -> Result<Results>,
}

const QUESTIONS: &[Question] = &[
    Question {
        name: "pending",
        sizes: PENDING,
        prepare: |stand, at| stand.publish("publish-bulk", at, 1).map(drop),
        measure: |stand, _| {
            let one = stand.publish("publish-64", stand.events, 1)?;
            Ok(vec![("publish", one), ("drain", stand.drain("drain", 1)?)])
        },
    },
    Question {
        name: "subscriptions",
        sizes: SUBSCRIPTIONS,
        prepare: |_, _| Ok(()),
        measure: |stand, at| {
            let bulk = stand.publish("publish-bulk", stand.events, at)?;
            Ok(vec![
                ("publish", bulk),
                ("drain", stand.drain("drain", at)?),
            ])
        },
    },
    Question {
        name: "neighbour",
        sizes: NEIGHBOUR,
        prepare: |stand, at| stand.publish("fill-neighbour", at, 1).map(drop),
        measure: |stand, _| {
            let bulk = stand.publish("publish-bulk", stand.events, 1)?;
            Ok(vec![
                ("publish", bulk),
                ("drain", stand.drain("drain-neighbour", 1)?),
            ])
        },
    },
];

/// Measures the rows selected by `options` and adds them to `run`.
pub(crate) fn measure(programs: &Programs, options: &Options, run: &mut Run) -> Result<()> {
    for broker in ["redis", "sqlite"] {
        for question in QUESTIONS {
            let row = format!("flat/{broker}/{}", question.name);
            if options.wants(&row) {
                ask(question, &row, programs, options, run)?;
            }
        }
    }
    if options.wants("flat/cold-start") {
        cold_start(programs, options, run)?;
    }
    Ok(())
}

fn ask(
    question: &Question,
    row: &str,
    programs: &Programs,
    options: &Options,
    run: &mut Run,
) -> Result<()> {
    let mut stands = Vec::new();
    for &size in question.sizes {
        // The number of subscriptions is small in any case.
        let at = if options.quick && size >= 1_000 {
            size / 10
        } else {
            size
        };
        let stand = Stand::make(row, at, programs, options)?;
        if let Err(error) = (question.prepare)(&stand, at) {
            run.failures.push(format!("{row} of {at}: {error:#}"));
            continue;
        }
        stands.push((at, stand));
    }
    for round in 1..=options.rounds {
        for (at, stand) in &stands {
            match (question.measure)(stand, *at) {
                Ok(results) => stand.keep(row, *at, round, results, run),
                Err(error) => run.failures.push(format!("{row} of {at}: {error:#}")),
            }
        }
    }
    Ok(())
}

/// Time from the start of a process on the embedded default to the first handled event.
fn cold_start(programs: &Programs, options: &Options, run: &mut Run) -> Result<()> {
    let stand = Stand::make("flat/sqlite/cold-start", 0, programs, options)?;
    for _ in 0..options.rounds {
        stand.place.empty()?;
        let result = stand.call("cold-start", 1, 1)?;
        println!("flat/cold-start: {} s", result["seconds"]);
        run.samples.push(Sample {
            row: "flat/cold-start".to_owned(),
            system: OURS.to_owned(),
            result,
            server_cpu: None,
        });
    }
    Ok(())
}

/// Termitary in its own place.
struct Stand<'a> {
    programs: &'a Programs,
    place: Place,
    events: usize,
}

impl<'a> Stand<'a> {
    fn make(row: &str, at: usize, programs: &'a Programs, options: &Options) -> Result<Self> {
        let name = format!("{}-{at}", row.replace('/', "-"));
        let place = Place::make(&programs.scratch, &name, row.contains("redis"))?;
        Ok(Self {
            programs,
            place,
            events: options.events(EVENTS),
        })
    }

    fn publish(&self, row: &str, events: usize, subscriptions: usize) -> Result<Value> {
        if events == 0 {
            return Ok(Value::Null);
        }
        self.call(row, events, subscriptions)
    }

    fn drain(&self, row: &str, subscriptions: usize) -> Result<Value> {
        self.call(row, self.events, subscriptions)
    }

    fn call(&self, row: &str, events: usize, subscriptions: usize) -> Result<Value> {
        let mut command = self.programs.command("bench-ours");
        command
            .arg(row)
            .args(["--events", &events.to_string()])
            .args(["--subscriptions", &subscriptions.to_string()])
            .args(self.place.options());
        call(&mut command)
    }

    fn keep(&self, row: &str, at: usize, round: usize, results: Results, run: &mut Run) {
        for (what, mut result) in results {
            result["at"] = at.into();
            if let Some(bytes) = self.place.server_memory() {
                result["serverMemory"] = bytes.into();
            }
            println!("{row}/{what} at {at}, {round}: {}", Sample::shown(&result));
            run.samples.push(Sample {
                row: format!("{row}/{what}"),
                system: OURS.to_owned(),
                result,
                server_cpu: None,
            });
        }
    }
}
