//! The arguments of `termitary bench`.

use clap::{Args, ValueEnum, value_parser};

/// The measurements to run, and their sizes.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// The broker to measure [default: redis if it is configured, else sqlite]
    #[arg(long, value_enum)]
    pub(crate) broker: Option<Broker>,
    /// Events per measurement; the slower ones use fewer
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub(crate) events: u64,
    /// Tasks that publish at once, in the measurements that use several
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = value_parser!(u64).range(1..=10_000))]
    pub(crate) producers: u64,
    /// Worker processes, in the measurement that uses several
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = value_parser!(u64).range(1..=64))]
    pub(crate) workers: u64,
    /// Events per second while latency is measured, for ten seconds
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: u64,
    /// Also measure events published in database transactions, until they are
    /// finished in the ledger
    #[arg(long)]
    pub(crate) transactional: bool,
    /// Run only these measurements, separated by commas
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<Only>,
    /// Add this number of subscriptions that receive no events
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(0..=1_000))]
    pub(crate) idle_subscriptions: u64,
    /// Add this number of pending events of another name that no worker handles
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(0..=10_000_000))]
    pub(crate) backlog: u64,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// The broker that carries the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broker {
    /// In the database
    Sqlite,
    /// Through Redis or Valkey
    Redis,
}

/// The measurements that can be selected, and groups of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// The three publish measurements
    Publish,
    /// One task, each publish awaited before the next
    PublishOne,
    /// Many tasks publish at once
    PublishConcurrent,
    /// Many events with one call
    PublishAll,
    /// The two drain measurements
    Drain,
    /// A backlog and one worker process
    DrainOne,
    /// A backlog and several worker processes
    DrainSeveral,
    /// From the planned publish to the start of the handler, at a steady rate
    Latency,
    /// In transactions, from the first begin until every event is finished
    Transactional,
}

impl BenchArgs {
    /// Returns true if `what` or its group was selected, or if nothing was.
    pub(crate) fn wants(&self, what: Only) -> bool {
        let group = match what {
            Only::PublishOne | Only::PublishConcurrent | Only::PublishAll => Only::Publish,
            Only::DrainOne | Only::DrainSeveral => Only::Drain,
            other => other,
        };
        let named = |name: Only| self.only.contains(&name);
        match what {
            Only::Transactional => self.transactional || named(what),
            // With one worker the second drain would repeat the first.
            Only::DrainSeveral if self.only.is_empty() => self.workers > 1,
            _ => self.only.is_empty() || named(what) || named(group),
        }
    }

    /// The events of the measurement that awaits each publish: it is slow, so a tenth,
    /// but at least 1,000 if there are as many.
    pub(crate) fn awaited_events(&self) -> u64 {
        (self.events / 10).max(self.events.min(1_000))
    }

    /// The events of ten seconds, but no more than other measurements use.
    pub(crate) fn latency_events(&self) -> u64 {
        self.events.min(self.rate.saturating_mul(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn args(line: &str) -> BenchArgs {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().args
    }

    #[test]
    fn a_group_stands_for_its_members_and_nothing_for_all_but_transactions() {
        assert!(args("").wants(Only::DrainOne) && args("").wants(Only::Latency));
        assert!(!args("").wants(Only::Transactional));
        assert!(args("--transactional").wants(Only::Transactional));
        let publish = args("--only publish,latency");
        assert!(publish.wants(Only::PublishAll) && publish.wants(Only::Latency));
        assert!(!publish.wants(Only::DrainOne));
        assert!(!args("--only drain-one").wants(Only::DrainSeveral));
        assert!(!args("--workers 1").wants(Only::DrainSeveral));
    }

    #[test]
    fn slow_measurements_take_fewer_events() {
        assert_eq!(args("--events 50000").awaited_events(), 5_000);
        assert_eq!(args("--events 200").awaited_events(), 200);
        assert_eq!(args("--rate 500").latency_events(), 5_000);
        assert_eq!(args("--events 9 --rate 500").latency_events(), 9);
    }
}
