//! I8 and I9: bounds of size and time.

use super::view::{Ran, View};
use super::{Limits, Verdict};
use crate::events::Path;
use crate::history::Fault;

/// The first crash is retried at once, the second after this delay.
const SECOND_CRASH_MS: u64 = 10_000;

pub(super) fn check(view: &View<'_>, limits: &Limits, verdict: &mut Verdict) {
    let numbers = &mut verdict.numbers;
    numbers.faults = view.faults.len();
    for fault in &view.faults {
        *numbers
            .faults_by_name
            .entry(fault.name.clone())
            .or_default() += 1;
    }
    numbers.kills = view.faults.iter().map(|fault| fault.killed.len()).sum();
    numbers.stops = view
        .faults
        .iter()
        .filter(|fault| fault.name.starts_with("stop"))
        .count();
    numbers.server_losses = view.faults.iter().filter(|fault| fault.loses).count();
    numbers.drained_ms = view.drain.map_or(0, |drain| drain.until_ms - drain.from_ms);
    for (name, status) in &view.ended {
        verdict.finds(
            "I9",
            "a process exited by itself",
            format!("{name}: {status}"),
        );
    }
    bounded(view, limits, verdict);
    takeovers(view, limits, verdict);
    recoveries(view, limits, verdict);
}

fn bounded(view: &View<'_>, limits: &Limits, verdict: &mut Verdict) {
    let most = |of: fn(&crate::history::Sample) -> u64| {
        view.samples.iter().map(|s| of(s)).max().unwrap_or(0)
    };
    let rows = [
        (
            "a process grew beyond its bound",
            "KiB resident",
            most(|s| s.resident_kib),
            limits.resident_kib,
        ),
        (
            "a pending list grew beyond its bound",
            "entries",
            most(|s| s.pending_list),
            limits.pending_list,
        ),
        (
            "too many connections",
            "connections",
            most(|s| s.connections),
            limits.connections,
        ),
        (
            "the write-ahead log grew beyond its bound",
            "bytes",
            most(|s| s.log_bytes),
            limits.log_bytes,
        ),
    ];
    for (what, unit, value, limit) in rows {
        if value > limit {
            verdict.finds(
                "I8",
                what,
                format!("{value} {unit}, at most {limit} expected"),
            );
        }
    }
    let numbers = &mut verdict.numbers;
    (numbers.largest_resident_kib, numbers.largest_pending_list) = (rows[0].2, rows[1].2);
    (numbers.most_connections, numbers.largest_log_bytes) = (rows[2].2, rows[3].2);
}

/// Deliveries of a killed worker start elsewhere within a lease and a scan.
fn takeovers(view: &View<'_>, limits: &Limits, verdict: &mut Verdict) {
    let kills: Vec<_> = view
        .faults
        .iter()
        .filter(|fault| !fault.killed.is_empty())
        .collect();
    for runs in view.by_delivery().values() {
        for (i, pair) in runs.windows(2).enumerate() {
            let Some(kill) = kills.iter().find(|kill| cut_off(pair[0], kill)) else {
                continue;
            };
            let (from, until) = (kill.until_ms, pair[1].at_ms);
            if until < from || disturbed(view, kill, from, until) {
                continue;
            }
            let again = if i > 0 { SECOND_CRASH_MS } else { 0 };
            let bound = limits.lease_ms + limits.lease_ms / 6 + again;
            let took = until - from;
            if again == 0 {
                verdict.numbers.worst_takeover_ms = verdict.numbers.worst_takeover_ms.max(took);
            }
            if took > bound + limits.slack_ms {
                let run = pair[0].run;
                let example = format!(
                    "number {} for {}: {took} ms, bound {bound} ms",
                    run.n, run.subscription
                );
                verdict.finds(
                    "I9",
                    "a dead worker's delivery was taken over late",
                    example,
                );
            }
        }
    }
}

fn cut_off(ran: &Ran<'_>, kill: &Fault) -> bool {
    ran.end.is_none()
        && ran.at_ms <= kill.from_ms
        && kill.killed.iter().any(|killed| killed == ran.process)
}

/// Returns whether another fault was active in this period, or still had an effect: a kill ends at
/// once, but processes need a while to reconnect after a network or server fault.
fn disturbed(view: &View<'_>, but: &Fault, from: u64, until: u64) -> bool {
    const FELT_MS: u64 = 3_000;
    let felt = |fault: &Fault| if fault.killed.is_empty() { FELT_MS } else { 0 };
    view.faults.iter().any(|fault| {
        **fault != *but && fault.from_ms <= until && fault.until_ms + felt(fault) >= from
    })
}

/// Events published after the end of a fault are handled soon.
fn recoveries(view: &View<'_>, limits: &Limits, verdict: &mut Verdict) {
    let wait = if limits.redis { limits.reconcile_ms } else { 0 };
    let bound = limits.lease_ms + limits.lease_ms / 6 + wait;
    let fresh = |n: u64, since: u64| {
        let publish = view.publishes.get(&n);
        publish.is_some_and(|p| {
            p.at_ms >= since && !matches!(p.path, Path::TxDelayed | Path::BusDelayed)
        })
    };
    for fault in &view.faults {
        let healed = fault.until_ms;
        let begun = view.runs.partition_point(|ran| ran.at_ms < healed);
        let ends = view.runs[begun..]
            .iter()
            .filter(|ran| fresh(ran.run.n, healed));
        let Some(first) = ends
            .filter(|r| r.succeeded())
            .filter_map(|r| r.end)
            .map(|(at, _)| at)
            .min()
        else {
            continue;
        };
        if disturbed_later(view, fault, first) {
            continue;
        }
        let took = first - healed;
        verdict.numbers.worst_recovery_ms = verdict.numbers.worst_recovery_ms.max(took);
        if took > bound + limits.slack_ms {
            let example = format!(
                "{} {}: {took} ms, bound {bound} ms",
                fault.name, fault.target
            );
            verdict.finds("I9", "a new event waited too long after a fault", example);
        }
    }
}

fn disturbed_later(view: &View<'_>, but: &Fault, until: u64) -> bool {
    let mut later = view.faults.iter().filter(|fault| ***fault != *but);
    later.any(|fault| fault.from_ms <= until && fault.until_ms >= but.until_ms)
}
