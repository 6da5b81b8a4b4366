//! Injects one fault after the other, sometimes two at once, all drawn from a seed: every fault
//! once in a shuffled order, then again in another.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::crew::{Kind, fake_time};
use super::faults::Fault;
use super::proxy::Fault as Wire;
use super::stage::Stage;
use super::{Database, Mode, Settings};
use crate::clock::now_ms;
use crate::history::{self, Line};

/// Continues until the time is over.
pub(super) async fn run(
    stage: &mut Stage,
    settings: &Settings,
    seed: u64,
    time: Duration,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut deck = Vec::new();
    // The system first runs undisturbed, so that there is data to lose.
    rest(end, Duration::from_millis(1500)).await;
    while Instant::now() < end {
        if deck.is_empty() {
            deck = shuffled(settings, &mut random)?;
        }
        let both = random.u8(0..4) == 0;
        let faults: Vec<_> = (0..=usize::from(both)).filter_map(|_| deck.pop()).collect();
        strike(stage, settings, &faults, &mut random, end).await?;
        stage.supervise()?;
        let peace = random.u64(settings.pace_ms / 3..=settings.pace_ms);
        rest(end, Duration::from_millis(peace)).await;
    }
    Ok(())
}

/// Runs faults from their beginning to their end, all at the same time.
async fn strike(
    stage: &mut Stage,
    settings: &Settings,
    faults: &[Fault],
    random: &mut fastrand::Rng,
    end: Instant,
) -> Result<()> {
    let (mut begun, mut held) = (Vec::new(), Duration::ZERO);
    for &fault in faults {
        let slot = target(stage, fault, random);
        held = held.max(hold(fault, settings.lease_ms, random));
        let from_ms = now_ms();
        let name = stage.crew.name(slot).to_owned();
        let killed = fault.begin(stage, slot).await?;
        let mut record = history::Fault {
            name: fault.name().to_owned(),
            target: if fault.is_about_one() {
                name
            } else {
                "all".to_owned()
            },
            from_ms,
            until_ms: 0,
            loses: fault.loses(),
            killed,
        };
        // A kill ends at once; the restart is recorded separately.
        if !record.killed.is_empty() && fault.is_about_one() {
            record.until_ms = now_ms();
        }
        begun.push((fault, slot, record));
    }
    rest(end, held).await;
    for (fault, slot, mut record) in begun.into_iter().rev() {
        fault.end(stage, slot).await?;
        if record.until_ms == 0 {
            record.until_ms = now_ms();
        }
        let took = record.until_ms - record.from_ms;
        eprintln!("{took:>8} ms  {} {}", record.name, record.target);
        stage.history.write(Line::Fault(record));
    }
    Ok(())
}

/// The affected process. It is drawn even if the fault affects all of them, so that the kind of one
/// fault does not change the later draws.
fn target(stage: &Stage, fault: Fault, random: &mut fastrand::Rng) -> usize {
    let draw = random.usize(..);
    let mut slots = match fault {
        Fault::KillPublisher | Fault::StopPublisher => stage.crew.of(Kind::Publisher),
        _ => stage.crew.of(Kind::Worker),
    };
    if matches!(fault, Fault::Network(_)) {
        slots.extend(stage.crew.of(Kind::Publisher));
    }
    if let (Fault::Clock(_), Some((slot, _))) = (fault, stage.crew.with_clock()) {
        return slot;
    }
    slots[draw % slots.len()]
}

fn hold(fault: Fault, lease_ms: u64, random: &mut fastrand::Rng) -> Duration {
    let draw = random.f64();
    let between = |least: u64, most: u64| {
        Duration::from_millis(least + ((most - least) as f64 * draw) as u64)
    };
    match fault {
        _ if !fault.lasts() => Duration::ZERO,
        Fault::StopWorker | Fault::StopPublisher => between(lease_ms * 3 / 2, lease_ms * 3),
        Fault::KillWorker | Fault::KillPublisher | Fault::KillEverybody => between(0, 2000),
        _ => between(500, lease_ms * 3),
    }
}

async fn rest(end: Instant, most: Duration) {
    tokio::time::sleep(most.min(end.saturating_duration_since(Instant::now()))).await;
}

fn shuffled(settings: &Settings, random: &mut fastrand::Rng) -> Result<Vec<Fault>> {
    let mut deck = vec![
        Fault::KillWorker,
        Fault::KillWorker,
        Fault::KillPublisher,
        Fault::KillEverybody,
        Fault::StopWorker,
        Fault::StopWorker,
        Fault::StopPublisher,
        Fault::LockDatabase,
    ];
    if fake_time().is_some() {
        let seconds = random.i64(5..30);
        deck.push(Fault::Clock(if random.bool() { seconds } else { -seconds }));
    }
    if settings.database == Database::Postgres {
        deck.extend([Fault::DatabaseKill, Fault::DatabaseCut]);
    }
    if settings.mode == Mode::Redis {
        deck.extend(of_redis(random));
    }
    let wanted = |fault: &Fault| {
        let names = &settings.faults;
        names.is_empty() || names.iter().any(|name| fault.name().starts_with(&**name))
    };
    deck.retain(wanted);
    if deck.is_empty() {
        bail!(
            "no fault of this mode is named {}",
            settings.faults.join(", ")
        );
    }
    random.shuffle(&mut deck);
    Ok(deck)
}

fn of_redis(random: &mut fastrand::Rng) -> Vec<Fault> {
    let wires = [
        Wire::HoldRequests,
        Wire::HoldReplies,
        Wire::SwallowReply,
        Wire::CutReplies(random.usize(1..2000)),
        Wire::CutRequests(random.usize(1..2000)),
        Wire::Reset,
        Wire::Delay(random.u64(20..400)),
    ];
    let mut faults = vec![
        Fault::RedisKill,
        Fault::RedisEmpty,
        Fault::RedisCut,
        Fault::FlushAll,
        Fault::DestroyGroups,
        Fault::ForgetScripts,
        Fault::OutOfMemory,
    ];
    for wire in wires {
        faults.push(if random.bool() {
            Fault::Network(wire)
        } else {
            Fault::NetworkOfAll(wire)
        });
    }
    faults
}
