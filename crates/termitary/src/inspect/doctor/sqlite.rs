//! A database file and its disk.

use super::{Finding, GIB, MIB, bytes};
use crate::engine::sqlite::FileFacts;

/// Less free disk than this is a risk, and less than the second is worth knowing.
const FREE: [u64; 2] = [256 * MIB, 2 * GIB];
/// A write-ahead log grows so large only while a reader keeps it.
const LONG_LOG: u64 = 512 * MIB;
/// Permission bits of other users than the owner and the group.
const OTHERS: u32 = 0o007;

pub(super) fn examine(facts: &FileFacts) -> Vec<Finding> {
    let version = rusqlite::version();
    let size = bytes(facts.bytes);
    let mut findings = vec![Finding::ok(
        "database.version",
        format!("SQLite {version}, a file of {size}"),
    )];
    findings.extend(facts.free_bytes.map(|free| disk(free, facts)));
    findings.push(log(facts));
    findings.push(rights(facts));
    findings.extend(facts.network.as_deref().map(network));
    findings
}

fn disk(free: u64, facts: &FileFacts) -> Finding {
    let found = format!("{} free on the disk of the database", bytes(free));
    let at_risk = "on a full disk every write fails: nothing can be published or settled";
    let advice = "free space or enlarge the disk; finished events leave by themselves";
    let [risk, note] = FREE;
    // A checkpoint copies the log into the file.
    if free < risk.max(facts.log_bytes) {
        Finding::risk("disk.free", found, at_risk, advice)
    } else if free < note {
        Finding::note("disk.free", found, at_risk, advice)
    } else {
        Finding::ok("disk.free", found)
    }
}

fn log(facts: &FileFacts) -> Finding {
    let found = format!("the write-ahead log has {}", bytes(facts.log_bytes));
    if facts.log_bytes < LONG_LOG {
        return Finding::ok("database.log", found);
    }
    Finding::risk(
        "database.log",
        found,
        "a process keeps it from being copied back: it grows, and reads become slow",
        "end the process with the long read or the open transaction on the file (`fuser FILE-wal`)",
    )
}

fn rights(facts: &FileFacts) -> Finding {
    if !facts.writable {
        return Finding::risk(
            "database.rights",
            "this user cannot write the database file or its folder",
            "a process of this user cannot publish or settle anything",
            "run the command as the user of the service, or give this user the file and its folder",
        );
    }
    match facts.mode {
        Some(mode) if mode & OTHERS != 0 => Finding::risk(
            "database.rights",
            format!(
                "the database file has the mode {mode:o}: every user of the machine may use it"
            ),
            "others can read payloads, password hashes and sessions, or change them",
            "chmod o= on the file, on FILE-wal and on FILE-shm",
        ),
        _ => Finding::ok(
            "database.rights",
            "only its user and group may use the file",
        ),
    }
}

fn network(kind: &str) -> Finding {
    Finding::risk(
        "database.network",
        format!("the database file is on a network file system ({kind})"),
        "locks of several machines do not hold there: the file can be damaged",
        "move the file to a local disk, or the ledger to PostgreSQL",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn facts() -> FileFacts {
        FileFacts {
            bytes: MIB,
            log_bytes: MIB,
            free_bytes: Some(10 * GIB),
            mode: Some(0o600),
            writable: true,
            network: None,
        }
    }

    fn risks(facts: &FileFacts) -> Vec<&'static str> {
        let findings = examine(facts).into_iter();
        let risks = findings.filter(|finding| finding.level == Level::Risk);
        risks.map(|finding| finding.check).collect()
    }

    #[test]
    fn each_state_of_a_file_that_puts_work_at_risk_is_found() {
        assert_eq!(risks(&facts()), Vec::<&str>::new());
        for (facts, check) in [
            (
                FileFacts {
                    free_bytes: Some(MIB),
                    ..facts()
                },
                "disk.free",
            ),
            (
                FileFacts {
                    log_bytes: GIB,
                    ..facts()
                },
                "database.log",
            ),
            (
                FileFacts {
                    mode: Some(0o644),
                    ..facts()
                },
                "database.rights",
            ),
            (
                FileFacts {
                    writable: false,
                    ..facts()
                },
                "database.rights",
            ),
            (
                FileFacts {
                    network: Some("nfs4".to_owned()),
                    ..facts()
                },
                "database.network",
            ),
        ] {
            assert_eq!(risks(&facts), [check]);
        }
    }
}
