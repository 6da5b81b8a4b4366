//! The events, their handlers and the registries.

use std::time::Duration;

use bench_common::{Args, Result, Tally, TodoCreated, event};
use serde::{Deserialize, Serialize};
use termitary::broker::RedisConfig;
use termitary::prelude::*;

pub(crate) static TALLY: Tally = Tally::new();

/// The measured event.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Todo(pub(crate) TodoCreated);

impl Event for Todo {
    const NAME: &'static str = event::NAME;
}

/// The event of a neighbour with a huge backlog.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Neighbour(pub(crate) TodoCreated);

impl Event for Neighbour {
    const NAME: &'static str = "neighbours.created";
}

/// Events of the idle subscriptions, which are never published: ten types, more than one and faster
/// to compile than two hundred.
#[derive(Serialize, Deserialize)]
struct Quiet<const N: u8>(TodoCreated);

impl<const N: u8> Quiet<N> {
    const TEXT: [u8; 7] = {
        let mut text = *b"quiet.a";
        text[6] += N;
        text
    };
}

impl<const N: u8> Event for Quiet<N> {
    const NAME: &'static str = match std::str::from_utf8(&Self::TEXT) {
        Ok(name) => name,
        Err(_) => panic!("letters are text"),
    };
}

async fn no_op(event: Todo) -> HandlerResult {
    std::hint::black_box(&event);
    TALLY.handled();
    Ok(())
}

async fn clock(event: Todo) -> HandlerResult {
    TALLY.started(&event.0);
    Ok(())
}

/// A slow handler, so that the backlog stays.
async fn slow(event: Neighbour) -> HandlerResult {
    std::hint::black_box(&event);
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

async fn quiet<const N: u8>(event: Quiet<N>) -> HandlerResult {
    std::hint::black_box(&event);
    Ok(())
}

/// The registry of a drain: the measured subscription, the neighbour's, and enough idle ones to
/// make `--subscriptions` in all.
pub(crate) fn no_ops(args: &Args) -> Registry<()> {
    let registry = Registry::new()
        .on(subscribe("bench.todo", no_op).concurrency(args.concurrency))
        .event::<Neighbour>();
    quiet_ones(registry, args.subscriptions.saturating_sub(1))
}

/// The registry of a latency run.
pub(crate) fn clocks(args: &Args) -> Registry<()> {
    Registry::new().on(subscribe("bench.todo", clock).concurrency(args.concurrency))
}

/// The measured subscription beside a slow neighbour.
pub(crate) fn with_neighbour(args: &Args) -> Registry<()> {
    no_ops(args).on(subscribe("bench.neighbour", slow))
}

fn quiet_ones(registry: Registry<()>, count: usize) -> Registry<()> {
    (0..count).fold(registry, |registry, number| {
        let name = format!("bench.quiet-{number}");
        registry.on(match number % 10 {
            0 => subscribe(name, quiet::<0>),
            1 => subscribe(name, quiet::<1>),
            2 => subscribe(name, quiet::<2>),
            3 => subscribe(name, quiet::<3>),
            4 => subscribe(name, quiet::<4>),
            5 => subscribe(name, quiet::<5>),
            6 => subscribe(name, quiet::<6>),
            7 => subscribe(name, quiet::<7>),
            8 => subscribe(name, quiet::<8>),
            _ => subscribe(name, quiet::<9>),
        })
    })
}

/// SQLite with synchronous=FULL; over Redis if a URL is given.
pub(crate) async fn open(args: &Args) -> Result<Broker> {
    let db = Db::open(&args.file_url()).await?;
    if args.url.is_empty() {
        return Ok(Broker::sql(db));
    }
    Ok(Broker::redis(db, RedisConfig::parse(&args.url)?)?)
}
