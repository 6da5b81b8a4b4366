//! The hot functions one by one: `cargo bench -p bench-micro` in `bench/`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_common::{Result, TodoCreated, event};
use criterion::{BatchSize, Criterion, Throughput};
use serde::{Deserialize, Serialize};
use termitary::hot_paths as hot;
use termitary::prelude::*;
use tokio::runtime::Runtime;

/// Deliveries in a batch.
const BATCH: usize = 100;

#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Todo(TodoCreated);

impl Event for Todo {
    const NAME: &'static str = event::NAME;
}

async fn no_op(event: Todo) -> HandlerResult {
    black_box(&event);
    Ok(())
}

fn registry() -> Registry<()> {
    Registry::new().on(subscribe("bench.todo", no_op))
}

fn main() -> Result {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}/bench.db", folder.path().display());
    let broker = runtime.block_on(async {
        let broker = Broker::sql(Db::open(&url).await?);
        broker.register(&registry()).await?;
        Ok::<_, termitary::Error>(broker)
    })?;
    let mut criterion = Criterion::default().configure_from_args();
    envelopes(&mut criterion, broker.db())?;
    cron_rules(&mut criterion)?;
    batches(&mut criterion, &runtime, &broker)?;
    criterion.final_summary();
    Ok(())
}

fn envelopes(criterion: &mut Criterion, db: &Db) -> Result {
    let json = TodoCreated::now(1).json();
    let envelope = hot::envelope(db, event::NAME, &json)?;
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Elements(1));
    group.bench_function("make from JSON", |b| {
        b.iter(|| hot::envelope(db, event::NAME, black_box(&json)));
    });
    group.bench_function("encode as XADD", |b| {
        b.iter(|| hot::encode(black_box(&envelope)));
    });
    let reply = hot::reply(std::slice::from_ref(&envelope));
    assert_eq!(hot::decode(reply.clone()), 1, "an entry is read");
    group.bench_function("decode an entry", |b| {
        b.iter_batched(|| reply.clone(), hot::decode, BatchSize::SmallInput);
    });
    group.finish();
    Ok(())
}

fn cron_rules(criterion: &mut Criterion) -> Result {
    let mut group = criterion.benchmark_group("cron next");
    for (name, cron, timezone) in [
        ("every minute, UTC", "* * * * *", "UTC"),
        ("nightly, Berlin", "0 3 * * *", "Europe/Berlin"),
        ("29 February", "0 0 29 2 *", "UTC"),
    ] {
        let rule = hot::Cron::parse(cron, timezone)?;
        let now = "2026-11-25T10:00:00Z".parse()?;
        group.bench_function(name, |b| b.iter(|| rule.next_after(black_box(now))));
    }
    group.finish();
    Ok(())
}

/// The transactions of a batch, on SQLite with synchronous=FULL.
fn batches(criterion: &mut Criterion, runtime: &Runtime, broker: &Broker) -> Result {
    let mut group = criterion.benchmark_group("SQLite, 100 a batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    let mut failed = None;
    for (name, part) in [("publish", 0), ("lease", 1), ("settle", 2)] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut sum = Duration::ZERO;
                for _ in 0..rounds {
                    match runtime.block_on(round(broker)) {
                        Ok(times) => sum += times[part],
                        Err(error) => failed = Some(error),
                    }
                }
                sum
            });
        });
    }
    group.finish();
    failed.map_or(Ok(()), Err)
}

/// Publishes, leases and settles one batch; returns the time of each.
async fn round(broker: &Broker) -> Result<[Duration; 3]> {
    let events: Vec<Todo> = (0..BATCH).map(|n| Todo(TodoCreated::now(n))).collect();
    let start = Instant::now();
    broker.bus().publish_all(events).await?;
    let published = start.elapsed();
    let ended = hot::lease(broker, &registry(), BATCH).await?;
    let leased = start.elapsed();
    let settled = hot::settle(broker, ended).await?;
    let all = start.elapsed();
    if settled != BATCH {
        return Err(format!("{settled} of {BATCH} were settled").into());
    }
    Ok([published, leased - published, all - leased])
}
