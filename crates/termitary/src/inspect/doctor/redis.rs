//! A Redis or Valkey server.

use super::{Finding, bytes};
use crate::broker::redis::RedisFacts;
use crate::error::Error;

pub(super) fn unreachable(error: &Error) -> Finding {
    Finding::risk(
        "redis.reachable",
        format!("Redis cannot be used: {error}"),
        "no delivery is leased, and bus.publish fails",
        "start the server, or correct REDIS_URL (REDIS_HOST, REDIS_PASSWORD …)",
    )
}

pub(super) fn examine(facts: &RedisFacts) -> Vec<Finding> {
    let unknown = || "an unknown server".to_owned();
    let version = facts.version.clone().unwrap_or_else(unknown);
    let mode = facts.mode.as_deref().unwrap_or("unknown");
    let mut findings = vec![Finding::ok(
        "redis.version",
        format!("{version}, mode {mode}"),
    )];
    findings.push(persistence(facts));
    if facts.write_failed {
        findings.push(Finding::risk(
            "redis.writes",
            "the server could not write its last snapshot or append file",
            "it refuses writes, or loses them at a restart",
            "look at the server's log and its disk",
        ));
    }
    findings.push(eviction(facts));
    findings.push(memory(facts));
    findings.extend(facts.replicas.map(replicas));
    findings
}

fn persistence(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis.persistence";
    const AT_RISK: &str = "a restart of Redis loses events that bus.publish put there alone; those of transactions are sent again from the ledger";
    match (facts.appends, facts.append_sync.as_deref()) {
        (Some(true), Some("always")) => Finding::ok(CHECK, "appendonly yes, appendfsync always"),
        (Some(true), Some("no")) => Finding::risk(
            CHECK,
            "appendonly yes, appendfsync no",
            AT_RISK,
            "CONFIG SET appendfsync everysec (or always)",
        ),
        (Some(true), sync) => Finding::note(
            CHECK,
            format!("appendonly yes, appendfsync {}", sync.unwrap_or("unknown")),
            "a power cut loses the last second of events that bus.publish put there alone",
            "publish in a transaction what must not be lost, or CONFIG SET appendfsync always",
        ),
        (Some(false), _) => {
            let save = match facts.save.as_deref() {
                Some("") => ", save is off",
                Some(_) => ", snapshots only",
                None => "",
            };
            Finding::risk(
                CHECK,
                format!("appendonly no{save}"),
                AT_RISK,
                "CONFIG SET appendonly yes, and write it into redis.conf (deploy/redis has one)",
            )
        }
        (None, _) => Finding::note(
            CHECK,
            "the server does not tell whether it persists",
            AT_RISK,
            "let this user run INFO persistence, or ask the provider",
        ),
    }
}

fn eviction(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis.eviction";
    match facts.eviction.as_deref() {
        Some("noeviction") => Finding::ok(CHECK, "maxmemory-policy noeviction"),
        Some(policy) => Finding::risk(
            CHECK,
            format!("maxmemory-policy {policy}"),
            "at its memory limit Redis deletes streams that it was trusted with",
            "CONFIG SET maxmemory-policy noeviction",
        ),
        None => Finding::note(
            CHECK,
            "the server does not tell its eviction policy",
            "another one than noeviction deletes streams at the memory limit",
            "let this user run INFO memory, or ask the provider",
        ),
    }
}

fn memory(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis.memory";
    let used = facts.used_bytes.unwrap_or_default();
    let most = match facts.most_bytes {
        Some(most) if most > 0 => most,
        _ => return Finding::ok(CHECK, format!("{} used, no maxmemory", bytes(used))),
    };
    let found = format!("{} of {} used", bytes(used), bytes(most));
    if used >= most / 5 * 4 {
        return Finding::risk(
            CHECK,
            found,
            "at the limit Redis refuses every write: nothing is carried, and bus.publish fails",
            "raise maxmemory, or start more workers to shorten the streams",
        );
    }
    Finding::ok(CHECK, found)
}

fn replicas(number: u64) -> Finding {
    if number > 0 {
        return Finding::ok("redis.replicas", format!("{number} connected"));
    }
    Finding::note(
        "redis.replicas",
        "no replica is connected",
        "while this server is down, no delivery is leased",
        "add a replica if that is too long",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn each_setting_that_loses_or_refuses_entries_is_a_risk() {
        let good = RedisFacts {
            appends: Some(true),
            append_sync: Some("always".to_owned()),
            eviction: Some("noeviction".to_owned()),
            used_bytes: Some(1),
            most_bytes: Some(100),
            replicas: Some(1),
            ..RedisFacts::default()
        };
        let worst = |facts: &RedisFacts| {
            let findings = examine(facts).into_iter();
            let worst = findings.max_by_key(|finding| finding.level);
            worst.map(|worst| (worst.level, worst.check))
        };
        assert_eq!(worst(&good).map(|(level, _)| level), Some(Level::Ok));
        let text = |text: &str| Some(text.to_owned());
        for (facts, check) in [
            (
                RedisFacts {
                    appends: Some(false),
                    ..good.clone()
                },
                "redis.persistence",
            ),
            (
                RedisFacts {
                    append_sync: text("no"),
                    ..good.clone()
                },
                "redis.persistence",
            ),
            (
                RedisFacts {
                    eviction: text("allkeys-lru"),
                    ..good.clone()
                },
                "redis.eviction",
            ),
            (
                RedisFacts {
                    used_bytes: Some(90),
                    ..good.clone()
                },
                "redis.memory",
            ),
            (
                RedisFacts {
                    write_failed: true,
                    ..good.clone()
                },
                "redis.writes",
            ),
        ] {
            assert_eq!(worst(&facts), Some((Level::Risk, check)));
        }
    }
}
