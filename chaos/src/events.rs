//! The published events, and the rules on which publisher, worker and checker agree.

use serde::{Deserialize, Serialize};
use termitary::Event;

/// A numbered fact; `n` is used once in a whole run of the harness.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) n: u64,
    /// The way of publishing; the checker's promise depends on it.
    pub(crate) path: Path,
}

impl Event for Noted {
    const NAME: &'static str = "chaos.noted";
}

/// Published by the handler of [`Noted`], in the transaction of its effect.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echoed {
    pub(crate) n: u64,
}

impl Event for Echoed {
    const NAME: &'static str = "chaos.echoed";
}

/// Published by the schedule, every second.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ticked {
    /// The tick in seconds since 1970.
    pub(crate) n: u64,
}

impl Event for Ticked {
    const NAME: &'static str = "chaos.ticked";
}

/// The schedule's name.
pub(crate) const SCHEDULE: &str = "chaos.every-second";

/// The subscription that also publishes an [`Echoed`] for each effect.
pub(crate) const ECHOING: &str = "noted.effect";
/// The subscription that fails on purpose.
pub(crate) const FLAKY: &str = "noted.flaky";

/// The ways to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Path {
    /// With a business row in its transaction.
    Tx,
    /// With a business row, due later.
    TxDelayed,
    /// With a business row, then rolled back: must never take effect.
    Rollback,
    /// On the bus.
    Bus,
    /// Many on the bus in one call.
    BusBurst,
    /// On the bus, due later: waits in the ledger in every mode.
    BusDelayed,
    /// On the bus with an idempotency id, retried until it is confirmed.
    BusId,
}

impl Path {
    /// A business row commits with it.
    pub(crate) fn has_order(self) -> bool {
        matches!(self, Self::Tx | Self::TxDelayed)
    }

    /// Over Redis it lives on the stream only.
    pub(crate) fn is_stream_only(self) -> bool {
        matches!(self, Self::Bus | Self::BusBurst)
    }
}

/// Returns whether the flaky handler fails this event permanently, on purpose.
pub(crate) fn is_hopeless(n: u64) -> bool {
    n % 40 == 11
}

/// Number of failures of the flaky handler before it succeeds.
pub(crate) fn failures(n: u64) -> u32 {
    (n % 3) as u32
}

/// The first number of each process is a multiple of this.
pub(crate) const STRIDE: u64 = 1_000_000;

/// The harness's own tables, in the ledger's database. Triggers on the ledger record events that must never
/// happen: a delivery that leaves a terminal state, and a fence that falls (except if the relay
/// takes back a delivery that certainly did not reach Redis).
pub(crate) const TABLES: &[&str] = &[
    "CREATE TABLE chaos_orders (n BIGINT PRIMARY KEY)",
    // No unique key: a doubled effect must be recorded, not prevented.
    "CREATE TABLE chaos_effects (
        event TEXT NOT NULL, subscription TEXT NOT NULL, n BIGINT NOT NULL, fence BIGINT NOT NULL)",
    "CREATE TABLE chaos_crimes (what TEXT NOT NULL, event BIGINT, subscription BIGINT, detail TEXT)",
];

/// The triggers on SQLite.
pub(crate) const ON_SQLITE: &[&str] = &[
    "CREATE TRIGGER chaos_terminal AFTER UPDATE OF state ON termitary_deliveries
        WHEN old.state >= 2 AND new.state <> old.state
     BEGIN
        INSERT INTO chaos_crimes (what, event, subscription, detail)
        VALUES ('terminal', old.event, old.subscription, old.state || ' became ' || new.state);
     END",
    "CREATE TRIGGER chaos_fence AFTER UPDATE OF fence ON termitary_deliveries
        WHEN new.fence < old.fence AND NOT (old.state = 1 AND new.state = 0 AND old.worker = 'relay')
     BEGIN
        INSERT INTO chaos_crimes (what, event, subscription, detail)
        VALUES ('fence', old.event, old.subscription, old.fence || ' became ' || new.fence);
     END",
];

/// The triggers on PostgreSQL.
pub(crate) const ON_POSTGRES: &[&str] = &[
    "CREATE FUNCTION chaos_crime() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.chaos_crimes (what, event, subscription, detail)
        VALUES (TG_ARGV[0], old.event, old.subscription,
            CASE TG_ARGV[0] WHEN 'fence' THEN old.fence || ' became ' || new.fence
                ELSE old.state || ' became ' || new.state END);
        RETURN NULL;
     END $$",
    "CREATE TRIGGER chaos_terminal AFTER UPDATE ON termitary_deliveries FOR EACH ROW
        WHEN (old.state >= 2 AND new.state <> old.state)
        EXECUTE FUNCTION chaos_crime('terminal')",
    "CREATE TRIGGER chaos_fence AFTER UPDATE ON termitary_deliveries FOR EACH ROW
        WHEN (new.fence < old.fence AND NOT (old.state = 1 AND new.state = 0 AND old.worker = 'relay'))
        EXECUTE FUNCTION chaos_crime('fence')",
];
