//! The arguments of `bench`.

use clap::{Args, ValueEnum, value_parser};

/// What `termitary bench` measures, and how much of it.
#[derive(Args, Clone)]
pub(crate) struct BenchArgs {
    /// Where the events travel [default: redis where it is configured, else sqlite]
    #[arg(long, value_enum)]
    pub(super) broker: Option<Travel>,
    /// How many events a measurement takes; the slower ones take fewer
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub(super) events: u64,
    /// How many tasks publish at once where that is measured
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = value_parser!(u64).range(1..=10_000))]
    pub(super) producers: u64,
    /// How many worker processes, where several are measured
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = value_parser!(u64).range(1..=64))]
    pub(super) workers: u64,
    /// How many events a second, where latency is measured; for ten seconds
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(super) rate: u64,
    /// Measure publishing in database transactions too: published, handled and
    /// finished in the ledger
    #[arg(long)]
    pub(super) transactional: bool,
    /// Only these, joined by commas
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    pub(super) only: Vec<Only>,
    /// So many further subscriptions that have nothing to do
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(0..=1_000))]
    pub(super) idle_subscriptions: u64,
    /// So many events of another name that wait for a worker that is not there
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(0..=10_000_000))]
    pub(super) backlog: u64,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// Where events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Travel {
    /// In the database
    Sqlite,
    /// Through Redis or Valkey
    Redis,
}

impl Travel {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
        }
    }
}

/// What can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Only {
    /// The next three
    Publish,
    /// One task, each publish awaited before the next
    PublishOne,
    /// Many tasks that publish at once
    PublishConcurrent,
    /// Many events with one call
    PublishAll,
    /// The next two
    Drain,
    /// A backlog and one worker process
    DrainOne,
    /// A backlog and several worker processes
    DrainSeveral,
    /// From the planned publish to the start of the handler, at a steady rate
    Latency,
    /// In transactions: from the first begin until all are finished
    Transactional,
}

impl BenchArgs {
    /// Whether to measure this: `what` itself or its group was asked for, or
    /// nothing in particular.
    pub(super) fn wants(&self, what: Only) -> bool {
        let group = match what {
            Only::PublishOne | Only::PublishConcurrent | Only::PublishAll => Only::Publish,
            Only::DrainOne | Only::DrainSeveral => Only::Drain,
            other => other,
        };
        let named = |name: Only| self.only.contains(&name);
        match what {
            Only::Transactional => self.transactional || named(what),
            // With one worker the second drain would say the same again.
            Only::DrainSeveral if self.only.is_empty() => self.workers > 1,
            _ => self.only.is_empty() || named(what) || named(group),
        }
    }

    /// One awaited at a time is slow: a tenth, but never very few.
    pub(super) fn awaited_events(&self) -> u64 {
        (self.events / 10).max(self.events.min(1_000))
    }

    /// Ten seconds' worth, and not more than a measurement takes.
    pub(super) fn latency_events(&self) -> u64 {
        self.events.min(self.rate.saturating_mul(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::cli::args::Command;
    use clap::Parser as _;

    #[expect(clippy::panic, reason = "a test fails by panicking")]
    fn args(line: &str) -> BenchArgs {
        let words = ["termitary", "bench"]
            .into_iter()
            .chain(line.split_whitespace());
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Some(Command::Bench(args))) => args,
            Ok(_) => panic!("another command"),
            Err(error) => panic!("{error}"),
        }
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
