//! The report as text.

use crate::report::{Cpu, Draining, Latency, Report, Speed, Storage, Transactional};

impl Report {
    /// The heading of [`rows`](Self::rows).
    pub const HEADING: [&str; 8] = [
        "measured",
        "events",
        "seconds",
        "a second",
        "cpu s/100k: publisher",
        "workers",
        "redis",
        "worker peak",
    ];

    /// The machine, the broker and the settings, in two lines and an empty one.
    pub fn conditions(&self) -> String {
        conditions(self)
    }

    /// One row of cells for each measured speed.
    pub fn rows(&self) -> Vec<Vec<String>> {
        rows(self)
    }

    /// The latency and the storage, each in a paragraph of its own.
    pub fn notes(&self) -> Vec<String> {
        let latency = self.latency.as_ref().map(latency);
        let storage = self.storage.as_ref().map(storage);
        latency.into_iter().chain(storage).collect()
    }
}

fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let cpu = machine.cpu.as_deref().unwrap_or("unknown CPU");
    let memory = machine.memory_bytes.map_or_else(String::new, |bytes| {
        format!(", {:.0} GiB", bytes as f64 / f64::from(1 << 30))
    });
    let through = match &report.redis {
        Some(redis) => {
            let written = match (redis.append_only, &redis.append_fsync) {
                (false, _) => "no append-only file".to_owned(),
                (true, Some(when)) => format!("append-only file, fsync {when}"),
                (true, None) => "append-only file".to_owned(),
            };
            format!(
                "{} {} ({written}), with SQLite as ledger",
                redis.server, redis.version
            )
        }
        None => "SQLite".to_owned(),
    };
    let settings = &report.settings;
    format!(
        "Termitary {} ({}) on {} × {cpu}{memory}, {}\nthrough {through}, synchronous={}; events of {} bytes, concurrency {}\n",
        report.version,
        report.build,
        machine.cores,
        machine.system,
        report.database.synchronous,
        settings.payload_bytes,
        settings.concurrency,
    )
}

fn rows(report: &Report) -> Vec<Vec<String>> {
    let settings = &report.settings;
    let mut rows = Vec::new();
    let mut row = |what: String, speed: &Speed, resident: Option<u64>| {
        rows.push(cells(what, speed, resident));
    };
    let publish = &report.publish;
    for (what, speed) in [
        ("publish, one awaited at a time".to_owned(), &publish.one),
        (
            format!("publish, {} at once", settings.producers),
            &publish.concurrent,
        ),
        (
            format!(
                "publish_all, {} at once, {} a call",
                settings.calls, settings.batch
            ),
            &publish.all,
        ),
    ] {
        if let Some(speed) = speed {
            row(what, speed, None);
        }
    }
    for draining in [&report.drain.one, &report.drain.several]
        .into_iter()
        .flatten()
    {
        let Draining {
            workers,
            speed,
            peak_resident_bytes,
        } = draining;
        let what = match workers {
            1 => "drain, 1 worker".to_owned(),
            workers => format!("drain, {workers} workers"),
        };
        row(what, speed, *peak_resident_bytes);
    }
    if let Some(transactional) = &report.transactional {
        let Transactional {
            speed,
            peak_resident_bytes,
            ..
        } = transactional;
        row(
            "in transactions, until finished".to_owned(),
            speed,
            *peak_resident_bytes,
        );
    }
    rows
}

fn cells(what: String, speed: &Speed, resident: Option<u64>) -> Vec<String> {
    let Cpu {
        publisher,
        workers,
        redis,
    } = speed.cpu_seconds_per100k;
    let seconds = |used: Option<f64>| used.map_or_else(none, |used| format!("{used:.2}"));
    vec![
        what,
        thousands(speed.events as f64),
        format!("{:.2}", speed.seconds),
        thousands(speed.per_second),
        seconds(publisher),
        seconds(workers),
        seconds(redis),
        resident.map_or_else(none, |bytes| {
            format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
        }),
    ]
}

fn latency(latency: &Latency) -> String {
    let spread = latency.spread;
    let text = format!(
        "from the planned publish to the handler, {} events at {}/s: p50 {} ms, p99 {} ms, p99.9 {} ms, max {} ms",
        latency.events, latency.rate, spread.p50, spread.p99, spread.p999, spread.max
    );
    // A publisher that cannot keep its own plan measures itself.
    if latency.publisher_behind_ms <= spread.p99 {
        return text;
    }
    format!(
        "{text}\n(the publisher itself was up to {} ms behind its plan: the machine is too busy for these figures)",
        latency.publisher_behind_ms
    )
}

fn storage(storage: &Storage) -> String {
    let (pending, finished) = (
        storage.pending_bytes_per_event,
        storage.finished_bytes_per_event,
    );
    let text = format!(
        "bytes an event takes in the database: {:.0} pending, {:.0} finished (until retention removes it)",
        pending.database, finished.database
    );
    match (pending.redis, finished.redis) {
        (Some(pending), Some(finished)) => format!(
            "{text}\nbytes an event takes in Redis: {pending:.0} pending, {finished:.0} finished"
        ),
        _ => text,
    }
}

fn none() -> String {
    "–".to_owned()
}

/// `12,345`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_234_567.4), "1,234,567");
    }
}
