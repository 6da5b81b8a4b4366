//! Publishes numbered events in every way and records the outcomes. The outcome of a call that
//! times out, or that a kill interrupts, is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use termitary::prelude::*;

use crate::events::{Noted, Path, STRIDE};
use crate::history::{Line, Writer};
use crate::role;

/// Time limit of a publish.
const PATIENCE: Duration = Duration::from_secs(10);
const TASKS: u64 = 4;
const BURST: u64 = 20;

#[derive(Args, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    common: role::Common,
    /// Number of this process: its events are numbered from a million times this
    #[arg(long)]
    incarnation: u64,
    #[arg(long)]
    seed: u64,
    /// Publishes per second
    #[arg(long)]
    rate: u64,
}

struct Publisher {
    broker: Broker,
    bus: Bus,
    history: Writer,
    next: AtomicU64,
    stop: AtomicBool,
}

pub(crate) async fn run(settings: Settings) -> Result<()> {
    let broker = settings.common.broker().await?;
    let publisher = Arc::new(Publisher {
        bus: broker.bus(),
        broker,
        history: Writer::open(&settings.common.history)?,
        next: AtomicU64::new(settings.incarnation * STRIDE),
        stop: AtomicBool::new(false),
    });
    let pause = Duration::from_millis(1000 * TASKS / settings.rate.max(1));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let random =
                fastrand::Rng::with_seed(settings.seed ^ (settings.incarnation << 8) ^ task);
            tokio::spawn(go_on(Arc::clone(&publisher), random, pause))
        })
        .collect();
    role::told_to_stop().await?;
    publisher.stop.store(true, Ordering::Release);
    for task in tasks {
        task.await?;
    }
    Ok(())
}

async fn go_on(publisher: Arc<Publisher>, mut random: fastrand::Rng, pause: Duration) {
    while !publisher.stop.load(Ordering::Acquire) {
        let path = choose(&mut random);
        publisher.publish(path, &mut random).await;
        tokio::time::sleep(pause.mul_f64(0.5 + random.f64())).await;
    }
}

fn choose(random: &mut fastrand::Rng) -> Path {
    match random.u8(0..100) {
        0..45 => Path::Tx,
        45..55 => Path::TxDelayed,
        55..60 => Path::Rollback,
        60..80 => Path::Bus,
        80..82 => Path::BusBurst,
        82..91 => Path::BusDelayed,
        _ => Path::BusId,
    }
}

/// The outcome of a publish.
enum Outcome {
    Ok,
    Fail(String),
    Unknown(String),
}

impl Publisher {
    async fn publish(&self, path: Path, random: &mut fastrand::Rng) {
        let many = if path == Path::BusBurst { BURST } else { 1 };
        let first = self.next.fetch_add(many, Ordering::Relaxed);
        let numbers = first..first + many;
        for n in numbers.clone() {
            self.history.write(Line::Invoke { n, path });
        }
        let delay = Duration::from_millis(random.u64(50..2500));
        let called = tokio::time::timeout(PATIENCE, self.call(path, first, many, delay)).await;
        let outcome = called.unwrap_or_else(|_| Outcome::Unknown("timed out".to_owned()));
        for n in numbers {
            self.history.write(match &outcome {
                Outcome::Ok => Line::Ok { n },
                Outcome::Fail(why) => Line::Fail {
                    n,
                    why: why.clone(),
                },
                Outcome::Unknown(why) => Line::Unknown {
                    n,
                    why: why.clone(),
                },
            });
        }
    }

    async fn call(&self, path: Path, n: u64, many: u64, delay: Duration) -> Outcome {
        let event = Noted { n, path };
        let answer = match path {
            Path::Tx | Path::Rollback => return self.in_transaction(event, None).await,
            Path::TxDelayed => return self.in_transaction(event, Some(delay)).await,
            Path::BusId => return self.until_answered(n).await,
            Path::Bus => self.bus.publish(event.keyed(format!("k{}", n % 7))).await,
            Path::BusDelayed => self.bus.publish(event.after(delay)).await,
            Path::BusBurst => {
                let all = (n..n + many).map(|n| Noted { n, path });
                return known(self.bus.publish_all(all).await.map(drop));
            }
        };
        known(answer.map(drop))
    }

    /// Publishes an event with a business row. A failure before the commit certainly rolls back; if
    /// the commit itself returns an error, the outcome is unknown.
    async fn in_transaction(&self, event: Noted, delay: Option<Duration>) -> Outcome {
        let (n, path) = (event.n, event.path);
        let prepared = async {
            let mut tx = self.broker.db().begin().await?;
            sqlx::query("INSERT INTO chaos_orders (n) VALUES ($1)")
                .bind(n as i64)
                .execute(&mut *tx)
                .await
                .map_err(termitary::Error::from)?;
            match delay {
                Some(delay) => tx.publish(event.after(delay)).await?,
                None => tx.publish(event).await?,
            };
            Ok::<_, termitary::Error>(tx)
        };
        let tx = match prepared.await {
            Ok(tx) => tx,
            Err(error) => return Outcome::Fail(error.to_string()),
        };
        if path == Path::Rollback {
            // Dropping it is enough, whatever the result.
            let _ = tx.rollback().await;
            return Outcome::Fail("rolled back".to_owned());
        }
        known(tx.commit().await)
    }

    /// The id makes a retry safe: it records one event, however often.
    async fn until_answered(&self, n: u64) -> Outcome {
        loop {
            let event = Noted {
                n,
                path: Path::BusId,
            };
            match self.bus.publish(event.id(format!("number-{n}"))).await {
                Ok(_) => return Outcome::Ok,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

fn known(answer: Result<(), termitary::Error>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Ok,
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}
