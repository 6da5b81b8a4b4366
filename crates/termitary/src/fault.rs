//! Named places in an event's life where a test lets the process die, fail,
//! hang or stand still: [`POINTS`] lists them. Without the feature `failpoints` they are not
//! in the program at all.
//!
//! `TERMITARY_FAILPOINT=name[:n]=abort|error|hang|stop` does it at the n-th time
//! that the place is reached (default: the first).

/// A failpoint. In a function that returns our errors, `error` makes it return one; `, no error`
/// marks a point that cannot fail, `, blocking` one on a separate thread.
macro_rules! point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::fault::reach($name).await?;
    };
    ($name:literal, blocking) => {
        #[cfg(feature = "failpoints")]
        $crate::fault::reach_blocking($name)?;
    };
    ($name:literal, no error) => {
        #[cfg(feature = "failpoints")]
        let _ = $crate::fault::reach($name).await;
    };
}
pub(crate) use point;

#[cfg(feature = "failpoints")]
mod on {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::error::Error;

    /// A failpoint, and the state of the system there.
    #[derive(Clone, Copy, Debug)]
    pub struct Point {
        /// As `TERMITARY_FAILPOINT` names it.
        pub name: &'static str,
        /// The modes in which it is reached: `sqlite`, `postgres`, and `redis` or
        /// `postgres_and_redis` with Redis beside one of them.
        pub modes: &'static [&'static str],
        /// The steps that have happened by then, and those that have not.
        pub at: &'static str,
    }

    const ALL: &[&str] = &["sqlite", "redis", "postgres", "postgres_and_redis"];
    const ON_SQLITE: &[&str] = &["sqlite", "redis"];
    const SQL: &[&str] = &["sqlite", "postgres"];
    const POSTGRES: &[&str] = &["postgres"];
    /// Not on the way of an event.
    const NONE: &[&str] = &[];
    const REDIS: &[&str] = &["redis", "postgres_and_redis"];

    const fn at(name: &'static str, modes: &'static [&'static str], at: &'static str) -> Point {
        Point { name, modes, at }
    }

    /// Every place, along an event's life.
    #[rustfmt::skip]
    pub const POINTS: &[Point] = &[
        at("declare.before_commit", ALL, "subscriptions and schedules written, not committed"),
        at("publish.before_commit", ALL, "event and deliveries written, not committed"),
        at("publish.after_commit", ALL, "event committed, nobody told"),
        at("publish.told", ALL, "event committed, lanes and relay told"),
        at("bus.before_xadd", REDIS, "an event for the stream only, not sent"),
        at("bus.after_xadd", REDIS, "it is on its stream, the publisher does not know"),
        at("bus.gathered", POSTGRES, "publishes wait to be recorded together"),
        at("bus.recorded", POSTGRES, "the same recorded, no publisher knows"),
        at("claim.committed", POSTGRES, "deliveries are leased, the process does not know which"),
        at("batch.before_commit", ON_SQLITE, "publishes, leases and settlements of one turn, not committed"),
        at("batch.after_commit", ON_SQLITE, "the same committed, nobody answered"),
        at("carry.before_xadd", REDIS, "committed and leased to the relay, not on the stream"),
        at("carry.sent", REDIS, "on the stream, the process that sent it does not know"),
        at("carry.recorded", REDIS, "the ledger knows which entries carry what is unfinished"),
        at("tick.before_commit", ALL, "tick and event written, not committed"),
        at("tick.after_commit", ALL, "tick and event committed"),
        at("relay.before_claim", REDIS, "something is due, nothing claimed"),
        at("relay.claimed", REDIS, "claimed, not on the stream"),
        at("relay.sent", REDIS, "on the stream, the ledger does not know the entry"),
        at("relay.recorded", REDIS, "the ledger knows the entry"),
        at("lease.read", REDIS, "the group gave out entries, nobody asked the ledger"),
        at("lease.admitted", REDIS, "the ledger was asked, the lane does not know"),
        at("lease.leased", ALL, "the lane has deliveries, none has begun"),
        at("handler.before", ALL, "an attempt is about to run"),
        at("handler.after", ALL, "the handler ended, nothing is settled"),
        at("ledger.before_commit", ALL, "effects, new events and done written, not committed"),
        at("ledger.after_commit", ALL, "the same committed, the attempt does not know"),
        at("settle.before", ALL, "outcomes collected, nothing settled"),
        at("settle.in_ledger", REDIS, "settled in the ledger, the entries are still held"),
        at("settle.adopted", REDIS, "an error of a stream-only delivery is in the ledger, its entry is still held"),
        at("settle.after", ALL, "settled, the attempts do not know"),
        at("renew.before", ALL, "leases are due to be renewed"),
        at("renew.on_stream", REDIS, "renewed on the stream, not in the ledger"),
        at("renew.after", ALL, "renewed, the attempts do not know"),
        at("reclaim.before", SQL, "leases are over, nothing is taken"),
        at("reclaim.before_commit", SQL, "taken from the dead, not committed"),
        at("reclaim.after_commit", SQL, "taken from the dead"),
        at("takeover.claimed", REDIS, "entries of the dead are ours, the ledger does not know"),
        at("takeover.owed", REDIS, "the ledger owes them again, the entries are still there"),
        at("takeover.ended", REDIS, "the entries are ended"),
        at("reconcile.asked", REDIS, "Redis does not have a delivery, the ledger does not know"),
        at("reconcile.owed", REDIS, "the ledger owes it again"),
        at("trim.before", REDIS, "about to trim"),
        at("trim.after", REDIS, "trimmed"),
        at("suspect.reserved", ALL, "a suspect is reserved, lanes still run"),
        at("suspect.quiet", ALL, "nothing is leased, the suspect neither"),
        at("suspect.leased", ALL, "the suspect is leased and has not begun"),
        at("retain.before_commit", ALL, "old events deleted, not committed"),
        at("retain.after_commit", ALL, "old events deleted"),
        at("replay.before_commit", ALL, "a page of letters pending again, not committed"),
        at("replay.after_commit", ALL, "a page of letters pending again, nobody told"),
        at("leave.before", ALL, "every handler ended, the worker has not signed off"),
        at("leave.given_back", ALL, "what was handed unseen is given back, not signed off"),
        at("move.before_page", NONE, "a page of a table is about to be copied to another database"),
        at("move.after_page", NONE, "it is copied"),
        at("move.before_finish", NONE, "every table is copied, the new ledger not opened"),
    ];

    /// The effect of a failpoint on the process.
    #[derive(Clone, Copy)]
    enum Fault {
        Abort,
        Error,
        Hang,
        /// The whole process stands still, until somebody sends SIGCONT.
        Stop,
    }

    struct Armed {
        name: String,
        left: AtomicU64,
        fault: Fault,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// Called at a place; strikes where it is armed.
    pub(crate) async fn reach(name: &str) -> Result<(), Error> {
        let armed = ARMED.get_or_init(|| armed(&std::env::var("TERMITARY_FAILPOINT").ok()?));
        let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else {
            return Ok(());
        };
        // Below zero it wraps around: no process reaches a place that often.
        if armed.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return Ok(());
        }
        match armed.fault {
            Fault::Abort => std::process::abort(),
            Fault::Error => Err(Error::internal(format!("failpoint {name}"))),
            Fault::Hang => std::future::pending().await,
            Fault::Stop => stop(),
        }
    }

    /// [`reach`] for a thread that may stand still.
    pub(crate) fn reach_blocking(name: &str) -> Result<(), Error> {
        use futures_util::FutureExt;
        match reach(name).now_or_never() {
            Some(struck) => struck,
            None => loop {
                std::thread::park();
            },
        }
    }

    /// SIGSTOP, which no process sends itself without unsafe code or a helper.
    /// It reaches one thread first, and the others when that one gets to run:
    /// the second in which this one waits passes while everything stands still.
    fn stop() -> Result<(), Error> {
        let mut stop = std::process::Command::new("sh");
        let stopped = stop.args(["-c", "kill -STOP $PPID; sleep 1"]).status();
        stopped.map_err(|error| Error::internal("cannot stop").caused_by(error))?;
        Ok(())
    }

    /// Returns `None`, and logs a line, if no failpoint has this name.
    fn armed(text: &str) -> Option<Armed> {
        let parsed = parse(text);
        if parsed.is_none() {
            tracing::error!(
                TERMITARY_FAILPOINT = text,
                "not name[:n]=abort|error|hang|stop"
            );
        }
        parsed
    }

    fn parse(text: &str) -> Option<Armed> {
        let (place, fault) = text.split_once('=')?;
        let (name, left) = match place.split_once(':') {
            Some((name, n)) => (name, n.parse().ok()?),
            None => (place, 1),
        };
        let fault = match fault {
            "abort" => Fault::Abort,
            "error" => Fault::Error,
            "hang" => Fault::Hang,
            "stop" => Fault::Stop,
            _ => return None,
        };
        POINTS.iter().find(|point| point.name == name)?;
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(left),
            fault,
        })
    }

    #[cfg(test)]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    mod tests {
        use std::path::Path;

        use super::*;

        /// The failpoints in the sources under `folder`, in any order.
        fn places(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    places(&path, found);
                } else if path.extension().is_some_and(|ext| ext == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let names = text.split("fault::point!(\"").skip(1);
                    found.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
                }
            }
        }

        #[test]
        fn the_table_lists_each_place_of_the_code_once() {
            let mut found = Vec::new();
            places(
                &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
                &mut found,
            );
            // This test names the pattern itself.
            found.retain(|name| name.contains('.'));
            found.sort();
            let mut listed: Vec<_> = POINTS.iter().map(|point| point.name).collect();
            listed.sort_unstable();
            assert_eq!(found, listed);
        }

        #[test]
        fn no_program_is_built_with_failpoints() {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            let library = std::fs::read_to_string(here.join("Cargo.toml")).unwrap();
            assert!(library.contains("\ndefault = []\n"));
            for manifest in ["../../Cargo.toml", "../termitary-app/Cargo.toml"] {
                let manifest = std::fs::read_to_string(here.join(manifest)).unwrap();
                assert!(!manifest.contains("failpoints"));
            }
        }

        #[test]
        fn a_place_is_armed_by_name_and_count() {
            let armed = parse("relay.sent:3=error").unwrap();
            assert_eq!(
                (armed.name.as_str(), armed.left.into_inner()),
                ("relay.sent", 3)
            );
            assert!(parse("relay.sent=abort").is_some());
            for wrong in [
                "relay.sent",
                "relay.sent=stall",
                "nowhere=abort",
                "relay.sent:x=abort",
            ] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
#[cfg(feature = "failpoints")]
pub use on::{POINTS, Point};
#[cfg(feature = "failpoints")]
pub(crate) use on::{reach, reach_blocking};
