//! Histories in order: each publish with its outcome, each run with its end.

use std::collections::{BTreeMap, HashMap};

use crate::events::Path;
use crate::facts::Facts;
use crate::history::{Entry, Fault, Line, Run, Sample};

/// The input of all checks.
pub(crate) struct View<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) publishes: BTreeMap<u64, Publish>,
    /// In the order of their starts.
    pub(crate) runs: Vec<Ran<'a>>,
    /// Without the final drain.
    pub(crate) faults: Vec<&'a Fault>,
    /// From the end of all faults until no work was left.
    pub(crate) drain: Option<&'a Fault>,
    pub(crate) samples: Vec<&'a Sample>,
    /// Processes that exited by themselves, with their status.
    pub(crate) ended: Vec<(&'a str, &'a str)>,
}

/// One call to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish {
    pub(crate) path: Path,
    pub(crate) at_ms: u64,
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Fail,
    /// No outcome, or an unclear one.
    Unknown,
}

/// One run of a handler.
pub(crate) struct Ran<'a> {
    pub(crate) process: &'a str,
    pub(crate) run: &'a Run,
    pub(crate) at_ms: u64,
    /// Time of return, and success; none if it was interrupted.
    pub(crate) end: Option<(u64, bool)>,
}

impl Ran<'_> {
    pub(crate) fn succeeded(&self) -> bool {
        self.end.is_some_and(|(_, ok)| ok)
    }
}

/// The name of the final drain, which is recorded like a fault.
pub(crate) const DRAIN: &str = "drain";

impl<'a> View<'a> {
    pub(crate) fn of(facts: &'a Facts, history: &'a [Entry]) -> Self {
        let mut view = Self {
            facts,
            publishes: BTreeMap::new(),
            runs: Vec::new(),
            faults: Vec::new(),
            drain: None,
            samples: Vec::new(),
            ended: Vec::new(),
        };
        let mut open: HashMap<(&str, &Run), Vec<usize>> = HashMap::new();
        for entry in history {
            match &entry.line {
                Line::Invoke { n, path } => {
                    let publish = Publish {
                        path: *path,
                        at_ms: entry.at_ms,
                        answer: Answer::Unknown,
                    };
                    view.publishes.insert(*n, publish);
                }
                Line::Ok { n } => view.answered(*n, Answer::Ok),
                Line::Fail { n, .. } => view.answered(*n, Answer::Fail),
                Line::Unknown { n, .. } => view.answered(*n, Answer::Unknown),
                Line::Start(run) => {
                    open.entry((&entry.process, run))
                        .or_default()
                        .push(view.runs.len());
                    view.runs.push(Ran {
                        process: &entry.process,
                        run,
                        at_ms: entry.at_ms,
                        end: None,
                    });
                }
                Line::End { run, ok } => {
                    let started = open.get_mut(&(&*entry.process, run)).and_then(Vec::pop);
                    if let Some(started) = started {
                        view.runs[started].end = Some((entry.at_ms, *ok));
                    }
                }
                Line::Ended { name, status } => view.ended.push((name, status)),
                Line::Fault(fault) if fault.name == DRAIN => view.drain = Some(fault),
                Line::Fault(fault) => view.faults.push(fault),
                Line::Sample(sample) => view.samples.push(sample),
            }
        }
        view
    }

    fn answered(&mut self, n: u64, answer: Answer) {
        if let Some(publish) = self.publishes.get_mut(&n) {
            publish.answer = answer;
        }
    }

    /// Runs by event and subscription, in the order of their starts.
    pub(crate) fn by_delivery(&self) -> HashMap<(&'a str, &'a str), Vec<&Ran<'a>>> {
        let mut by: HashMap<_, Vec<_>> = HashMap::new();
        for ran in &self.runs {
            let key = (&*ran.run.event, &*ran.run.subscription);
            by.entry(key).or_default().push(ran);
        }
        by
    }
}
