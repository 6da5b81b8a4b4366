//! The systems, rows and numbers of events of a run.

/// One system on one broker.
pub(crate) struct System {
    /// Name in the report.
    pub(crate) name: &'static str,
    /// The program that runs the measurement.
    pub(crate) program: &'static str,
    /// Prefix of its row names on the command line.
    pub(crate) prefix: &'static str,
    /// Description of its settings, for the report.
    pub(crate) settings: &'static str,
    /// Its rows; it does not support the others.
    pub(crate) rows: &'static [Row],
}

/// One measurement.
pub(crate) struct Row {
    /// Its name, the same for all systems.
    pub(crate) name: &'static str,
    /// Number of events.
    pub(crate) events: usize,
    /// The row that fills the place first; without one, the place is emptied.
    pub(crate) fill: Option<&'static str>,
}

/// Rows in the order of measurement, with their repetitions in a round. `drain` takes the backlog
/// of the bulk row.
///
/// Latency depends on waking sleeping processors, and a shared machine takes twice as long for that
/// for some seconds at a time: many short measurements are more reliable than a few long ones.
pub(crate) const ROWS: &[(&str, usize)] = &[
    ("publish-one", 1),
    ("publish-64", 1),
    ("publish-bulk", 1),
    ("drain", 1),
    ("latency", 3),
    ("transactional", 1),
];

pub(crate) const RAW: &str = "raw";
pub(crate) const OURS: &str = "Termitary";
/// The program that measures itself.
pub(crate) const TERMITARY: &str = "termitary";

/// Enough events for half a second on a fast machine; a shorter run would measure the start.
const LONG: usize = 200_000;

const fn row(name: &'static str, events: usize) -> Row {
    Row {
        name,
        events,
        fill: None,
    }
}

const fn drain(events: usize, fill: &'static str) -> Row {
    Row {
        name: "drain",
        events,
        fill: Some(fill),
    }
}

pub(crate) const REDIS: &[System] = &[
    System {
        name: RAW,
        program: "bench-raw",
        prefix: "redis-",
        settings: "redis-rs on one stream by hand: one shared connection; pipelines of 500, four in flight; \
                   XREADGROUP of 256, XACK + XDEL on a second connection while the next page is read, JSON parsed; \
                   transactional: one row of one table for each event, group commits, added to the stream, \
                   read by a second process, updated there with one commit for each page, then acknowledged and deleted",
        rows: &[
            row("publish-one", 10_000),
            row("publish-64", LONG),
            row("publish-bulk", LONG),
            drain(LONG, "publish-bulk"),
            row("latency", 2_000),
            row("transactional", LONG / 2),
        ],
    },
    System {
        name: OURS,
        program: TERMITARY,
        prefix: "",
        settings: "`termitary bench`: `bus.publish`, `publish_all` of 500, four at once, a concurrency of 100; every safety setting on, the \
                   ledger on SQLite with synchronous=FULL",
        rows: &[
            row("publish-one", 10_000),
            row("publish-64", LONG),
            row("publish-bulk", LONG),
            row("drain", LONG),
            row("latency", 2_000),
            row("transactional", LONG / 2),
        ],
    },
    System {
        name: "BullMQ",
        program: "bullmq",
        prefix: "",
        settings: "concurrency 100, removeOnComplete (faster than its default), addBulk of 500, four at once",
        rows: &[
            row("publish-one", 5_000),
            row("publish-64", 20_000),
            row("publish-bulk", 20_000),
            drain(20_000, "publish-bulk"),
            row("latency", 2_000),
        ],
    },
    System {
        name: "rusty-sidekiq",
        program: "bench-sidekiq",
        prefix: "",
        settings: "64 workers, the pool's PING at check-out off (faster than its default); at most once, no bulk call",
        rows: &[
            row("publish-one", 5_000),
            row("publish-64", 20_000),
            drain(20_000, "publish-64"),
            row("latency", 2_000),
        ],
    },
    System {
        name: "apalis-redis",
        program: "bench-apalis",
        prefix: "",
        settings: "batches of 100, polled every 5 ms, parallelize(tokio::spawn), push_bulk of 500, four at once; \
                   7,500 jobs, because it fails with more than about 8,000 waiting",
        rows: &[
            row("publish-one", 5_000),
            row("publish-64", 20_000),
            row("publish-bulk", 7_500),
            drain(7_500, "publish-bulk"),
            row("latency", 2_000),
        ],
    },
];

pub(crate) const SQLITE: &[System] = &[
    System {
        name: RAW,
        program: "bench-raw",
        prefix: "sqlite-",
        settings: "rusqlite on one table with a partial index: 100 inserts a commit; 64 callers: a writer thread \
                   that commits up to 100 waiting inserts; claims of 100 and deletes of 100, two commits, JSON parsed",
        rows: &[
            row("publish-one", 3_000),
            row("publish-64", LONG),
            row("publish-bulk", LONG),
            drain(LONG, "publish-bulk"),
        ],
    },
    System {
        name: OURS,
        program: TERMITARY,
        prefix: "",
        settings: "`termitary bench`: `bus.publish`, `publish_all` of 500, four at once, a concurrency of 100; every safety setting on",
        rows: &[
            row("publish-one", 3_000),
            row("publish-64", LONG / 2),
            row("publish-bulk", LONG / 2),
            row("drain", LONG / 2),
            row("latency", 1_000),
            row("transactional", LONG / 2),
        ],
    },
    System {
        name: "apalis-sqlite",
        program: "bench-apalis",
        prefix: "",
        settings: "batches of 100, polled every 5 ms, parallelize(tokio::spawn), push_bulk of 100; 3,000 jobs drained",
        rows: &[
            row("publish-one", 2_000),
            row("publish-64", 5_000),
            row("publish-bulk", 3_000),
            drain(3_000, "publish-bulk"),
            row("latency", 1_000),
        ],
    },
    System {
        name: "riverqueue",
        program: "bench-river",
        prefix: "",
        settings: "a pool of 5, fetch cool-down and polling at 1 ms (the least it allows), 100 workers, insert_many of 100",
        rows: &[
            row("publish-one", 2_000),
            row("publish-64", 5_000),
            row("publish-bulk", 10_000),
            drain(10_000, "publish-bulk"),
            row("latency", 1_000),
        ],
    },
];

/// A target for Termitary.
pub(crate) struct Aim {
    pub(crate) broker: &'static str,
    pub(crate) row: &'static str,
    /// Description.
    pub(crate) what: &'static str,
    /// The raw row for comparison.
    pub(crate) raw: (&'static str, &'static str),
    /// The figure of the result.
    pub(crate) figure: &'static str,
    /// Target share of the raw figure: a minimum, or a maximum for times.
    pub(crate) share: f64,
}

const fn aim(
    broker: &'static str,
    row: &'static str,
    what: &'static str,
    raw: (&'static str, &'static str),
    figure: &'static str,
    share: f64,
) -> Aim {
    Aim {
        broker,
        row,
        what,
        raw,
        figure,
        share,
    }
}

pub(crate) const AIMS: &[Aim] = &[
    aim(
        "redis",
        "publish-64",
        "Redis, publish, 64 concurrent awaits",
        ("redis", "publish-64"),
        "perSecond",
        0.7,
    ),
    aim(
        "redis",
        "publish-bulk",
        "Redis, `publish_all` in pipelines",
        ("redis", "publish-bulk"),
        "perSecond",
        0.7,
    ),
    aim(
        "redis",
        "drain",
        "Redis, drain, one worker process",
        ("redis", "drain"),
        "perSecond",
        0.7,
    ),
    aim(
        "redis",
        "latency",
        "Redis, publish to handler start at 500/s, p50",
        ("redis", "latency"),
        "p50Us",
        1.5,
    ),
    aim(
        "redis",
        "latency",
        "the same, p99",
        ("redis", "latency"),
        "p99Us",
        2.0,
    ),
    aim(
        "sqlite",
        "publish-64",
        "SQLite FULL, publish, 64 concurrent, to raw commits of 100",
        ("sqlite", "publish-bulk"),
        "perSecond",
        0.4,
    ),
    aim(
        "sqlite",
        "drain",
        "SQLite FULL, drain, one worker process",
        ("sqlite", "drain"),
        "perSecond",
        0.5,
    ),
    aim(
        "redis",
        "transactional",
        "`tx.publish` from 64 tasks over Redis, handled and finished in the ledger, to raw commits of 100",
        ("sqlite", "publish-bulk"),
        "perSecond",
        0.3,
    ),
    // Not every machine can reach that: this row shows the limit of the machine.
    aim(
        "redis",
        "transactional",
        "the same, to the whole path by hand",
        ("redis", "transactional"),
        "perSecond",
        0.5,
    ),
    aim(
        "sqlite",
        "transactional",
        "the same without Redis, to raw commits of 100",
        ("sqlite", "publish-bulk"),
        "perSecond",
        0.3,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_known_and_filled_by_a_row_of_the_same_system() {
        for system in REDIS.iter().chain(SQLITE) {
            for row in system.rows {
                let measured = ROWS.iter().any(|(name, _)| *name == row.name);
                assert!(measured, "{} {}", system.name, row.name);
                let known = |fill| system.rows.iter().any(|other| other.name == fill);
                assert!(row.fill.is_none_or(known), "{} {}", system.name, row.name);
            }
        }
    }

    #[test]
    fn every_aim_compares_rows_that_are_measured() {
        let measured = |systems: &[System], name: &str, row: &str| {
            systems
                .iter()
                .any(|s| s.name == name && s.rows.iter().any(|r| r.name == row))
        };
        let of = |broker| if broker == "redis" { REDIS } else { SQLITE };
        for aim in AIMS {
            assert!(measured(of(aim.broker), OURS, aim.row), "{}", aim.what);
            assert!(measured(of(aim.raw.0), RAW, aim.raw.1), "{}", aim.what);
        }
    }
}
