//! Random histories of publishes, handler outcomes, time, crashes and losses,
//! through the real engine and a reference at once: after every step both say
//! the same of every delivery.
//!
//! A failure shrinks, prints its history and leaves its seed in `regressions/`,
//! where it is tried first from then on. `PROPTEST_CASES` asks for more cases,
//! `PROPTEST_VERBOSE=1` prints every step.

mod compare;
mod delivery;
mod handlers;
mod real;
mod reference;
mod script;

use proptest::test_runner::{Config, FileFailurePersistence};
use proptest_state_machine::prop_state_machine;

use crate::stand::Stand;
use real::Real;

/// A broker that the model runs over.
pub(crate) trait Site: 'static {
    /// Bus events travel on a stream, and enter the ledger only when their delivery does anything
    /// but succeed.
    const STREAMS: bool;
    /// The file with the seeds of failures.
    const REGRESSIONS: &'static str;

    fn stand() -> impl Future<Output = Stand>;
}

pub(crate) struct Sqlite;

impl Site for Sqlite {
    const STREAMS: bool = false;
    const REGRESSIONS: &'static str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/regressions/sqlite.txt"
    );

    async fn stand() -> Stand {
        Stand::sqlite().await
    }
}

pub(crate) struct Redis;

impl Site for Redis {
    const STREAMS: bool = true;
    const REGRESSIONS: &'static str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/regressions/redis.txt"
    );

    async fn stand() -> Stand {
        Stand::redis().await
    }
}

fn config<B: Site>(cases: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(B::REGRESSIONS))),
        max_shrink_iters: 10_000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    if asked {
        return config;
    }
    Config { cases, ..config }
}

prop_state_machine! {
    #![proptest_config(config::<Sqlite>(24))]

    #[test]
    fn every_delivery_is_where_the_reference_says_on_sqlite(sequential 1..40 => Real<Sqlite>);
}

prop_state_machine! {
    #![proptest_config(config::<Redis>(12))]

    #[test]
    fn every_delivery_is_where_the_reference_says_on_redis(sequential 1..40 => Real<Redis>);
}
