//! The engine under test: plays each step, then is compared with the reference.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use proptest_state_machine::StateMachineTest;
use termitary::event::Outgoing;
use termitary::inspect::{LetterFilter, LetterState, Status};
use termitary::prelude::*;
use termitary::testing::TestWorker;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::Site;
use super::handlers::{Book, Script, Scripted, Stuck, V1, V2, hanging, registry, seconds};
use super::reference::{self, DELAY, Key, Reference, World};
use super::script::{Kind, Plans, SUBSCRIPTIONS, Step, Via, Wanted};
use crate::eventually;
use crate::process::Process;
use crate::stand::Stand;

/// The grace of a process that is not to be cut short.
const PATIENCE: Duration = secs(30);

pub(crate) struct Real<B> {
    runtime: Runtime,
    system: System,
    site: PhantomData<B>,
}

impl<B: Site> StateMachineTest for Real<B> {
    type SystemUnderTest = Self;
    type Reference = Reference<B>;

    fn init_test(_: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let system = runtime.block_on(async { System::new(B::stand().await).await });
        Self {
            runtime,
            system,
            site: PhantomData,
        }
    }

    fn apply(mut real: Self, world: &World, step: Step) -> Self {
        real.runtime.block_on(real.system.play(world, step));
        real
    }

    fn check_invariants(real: &Self, world: &World) {
        real.runtime.block_on(real.system.compare(world));
    }

    fn teardown(mut real: Self, _: World) {
        real.runtime.block_on(real.system.stop());
    }
}

struct System {
    stand: Stand,
    broker: Broker,
    workers: Vec<TestWorker>,
    book: Book,
    ids: BTreeMap<Uuid, u32>,
}

impl System {
    async fn new(stand: Stand) -> Self {
        stand
            .write("CREATE TABLE effects (n INTEGER NOT NULL)")
            .await;
        let broker = stand.broker();
        broker.register(&registry(false)).await.unwrap();
        Self {
            broker,
            stand,
            workers: Vec::new(),
            book: Book::default(),
            ids: BTreeMap::new(),
        }
    }

    /// `world` is what it must come to.
    async fn play(&mut self, world: &World, step: Step) {
        self.book.turn();
        match step {
            Step::Publish(wanted) => self.publish(world, wanted).await,
            Step::PublishAll(all) => self.publish_all(world, all).await,
            Step::Advance(by) => self.stand.clock().advance(seconds(by)),
            Step::Start(workers) => self.start(workers, world.upgraded).await,
            Step::Stop => self.stop().await,
            Step::Crash => {
                let (process, _) = self.begin(world, PATIENCE).await;
                process.kill();
                self.stand.lapse().await;
            }
            Step::Interrupt => {
                let (mut process, _) = self.begin(world, Duration::ZERO).await;
                process.stop();
                process.join();
            }
            Step::Usurp => self.usurp(world).await,
            Step::Upgrade => self.broker.register(&registry(true)).await.unwrap(),
            Step::Replay => {
                let all = LetterFilter::default();
                let replayed = self.broker.inspect().replay(&all, "model").await;
                assert_eq!(replayed.unwrap(), world.concerned as u64, "replayed");
            }
            Step::Drop => {
                let all = LetterFilter::default();
                let dropped = self.broker.inspect().drop_letters(&all, "model").await;
                assert_eq!(dropped.unwrap(), world.concerned as u64, "dropped");
            }
            Step::Flush => self.stand.flush().await,
        }
        if let Some(worker) = self.workers.first() {
            worker.settle().await;
        }
    }

    async fn start(&mut self, workers: usize, upgraded: bool) {
        for _ in 0..workers {
            let broker = self.stand.broker();
            let mut worker = TestWorker::start(broker, registry(upgraded), self.book.clone()).await;
            worker.allow_leftovers();
            self.workers.push(worker);
        }
    }

    async fn stop(&mut self) {
        for mut worker in self.workers.drain(..) {
            worker.stop().await;
        }
    }

    /// A process whose leases are lost while it runs, and that ends what it
    /// began all the same.
    async fn usurp(&self, world: &World) {
        let (mut process, stuck) = self.begin(world, PATIENCE).await;
        process.stop();
        eventually("it leases no more", async || {
            self.book.stopping() >= world.concerned
        })
        .await;
        self.stand.usurp(world.concerned).await;
        stuck.let_go();
        process.join();
        self.stand.outwait();
    }

    /// A process that has begun everything that is due.
    async fn begin(&self, world: &World, grace: Duration) -> (Process, Stuck) {
        let stuck = Stuck::new(&self.book);
        let registry = hanging(world.upgraded);
        let process = Process::start(&self.stand, registry, stuck.clone(), grace);
        eventually("it begins what is due", async || {
            let all = self.status().await.subscriptions;
            let (due, leased) = all
                .iter()
                .fold((0, 0), |(due, leased), s| (due + s.due, leased + s.leased));
            due == 0
                && leased == world.concerned as u64
                && self.book.hanging() >= world.concerned
                && self.stand.is_quiet().await
        })
        .await;
        (process, stuck)
    }

    async fn publish(&mut self, world: &World, wanted: Wanted) {
        let n = world.next - 1;
        let script = Script {
            n,
            plans: wanted.plans.clone(),
        };
        let bus = self.broker.bus();
        let published = match wanted.kind {
            Kind::V1 => {
                self.publish_typed(outgoing(V1(script), &wanted), wanted.via)
                    .await
            }
            Kind::V2 => {
                self.publish_typed(outgoing(V2(script), &wanted), wanted.via)
                    .await
            }
            Kind::Garbled => bus.publish_json(V1::NAME, r#"{"n":"?"}"#).await.unwrap(),
            Kind::Unknown => bus.publish_json("model.unheard", "{}").await.unwrap(),
        };
        assert_eq!(published.duplicate, world.duplicate_of.is_some());
        match world.duplicate_of {
            Some(first) => assert_eq!(self.ids.get(&published.id), Some(&first)),
            None => drop(self.ids.insert(published.id, n)),
        }
    }

    async fn publish_typed<E: Scripted>(&self, event: Outgoing<E>, via: Via) -> Published {
        if via == Via::Bus {
            return self.broker.bus().publish(event).await.unwrap();
        }
        let mut tx = self.stand.db().begin().await.unwrap();
        let published = tx.publish(event).await.unwrap();
        match via {
            Via::RollBack => tx.rollback().await.unwrap(),
            _ => tx.commit().await.unwrap(),
        }
        published
    }

    async fn publish_all(&mut self, world: &World, all: Vec<Plans>) {
        let first = world.next - all.len() as u32;
        let scripts = (first..).zip(all).map(|(n, plans)| V1(Script { n, plans }));
        let published = self.broker.bus().publish_all(scripts).await.unwrap();
        self.ids
            .extend(published.iter().map(|published| published.id).zip(first..));
    }

    async fn status(&self) -> Status {
        self.broker.inspect().status().await.unwrap()
    }

    async fn compare(&self, world: &World) {
        self.compare_counts(world).await;
        self.compare_letters(world).await;
        self.compare_runs(world);
        let echoes: BTreeMap<u32, u32> = world.echoes.iter().map(|n| (*n, 1)).collect();
        assert_eq!(
            self.book.echoes(),
            echoes,
            "what committed handlers published"
        );
        let effects: Vec<(u32, u32)> =
            sqlx::query_as("SELECT n, COUNT(*) FROM effects GROUP BY n ORDER BY n")
                .fetch_all(self.stand.db().reader())
                .await
                .unwrap();
        let expected: Vec<_> = world
            .deliveries
            .iter()
            .filter(|(_, d)| d.effects > 0)
            .map(|((n, _), d)| (*n, d.effects))
            .collect();
        assert_eq!(effects, expected, "effects through the ledger");
    }

    /// The number of the attempt in each run; exactly one run for each, but
    /// where Redis was lost under it.
    fn compare_runs(&self, world: &World) {
        let mut found = self.book.runs();
        if world.shaken {
            found.values_mut().flatten().for_each(Vec::dedup);
        }
        let expected: BTreeMap<Key, Vec<Vec<u32>>> = world
            .deliveries
            .iter()
            .filter(|(_, d)| !d.runs.is_empty())
            .map(|(key, d)| (*key, d.runs.iter().map(|attempt| vec![*attempt]).collect()))
            .collect();
        assert_eq!(found, expected, "the attempt in each run");
    }

    async fn compare_counts(&self, world: &World) {
        use reference::State;
        let status = self.status().await;
        for (sub, name) in SUBSCRIPTIONS.iter().enumerate() {
            let found = status
                .subscriptions
                .iter()
                .find(|s| s.name == *name)
                .unwrap();
            let found = [
                found.pending,
                found.due,
                found.leased,
                found.dead,
                found.parked,
                found.done,
            ];
            let expected = [
                world.count(sub, |s| matches!(s, State::Pending(..))),
                world.due(sub),
                world.count(sub, |s| s == State::Orphaned),
                world.count(sub, |s| matches!(s, State::Dead(_))),
                world.count(sub, |s| matches!(s, State::Parked(_))),
                world.done(sub),
            ];
            if world.shaken && world.workers == 0 {
                assert!(found[0] <= expected[0] && found[1] <= expected[1]);
                assert_eq!(found[2..], expected[2..]);
                continue;
            }
            assert_eq!(
                found, expected,
                "{name}: pending, due, leased, dead, parked, done"
            );
        }
        let echo = status
            .subscriptions
            .iter()
            .find(|s| s.name == "echo")
            .unwrap();
        assert_eq!(
            (echo.pending, echo.leased, echo.done),
            (0, 0, world.echoes.len() as u64),
            "echo"
        );
    }

    async fn compare_letters(&self, world: &World) {
        use reference::State;
        let all = LetterFilter::default();
        let letters = self.broker.inspect().letters(&all, 10_000).await.unwrap();
        let found: BTreeMap<Key, _> = letters
            .into_iter()
            .map(|letter| {
                let sub = SUBSCRIPTIONS.iter().position(|s| *s == letter.subscription);
                let key = (self.ids[&letter.event.id], sub.unwrap());
                let dead = letter.state == LetterState::Dead;
                (key, (dead, letter.reason, letter.attempts, letter.crashes))
            })
            .collect();
        let expected: BTreeMap<Key, _> = world
            .deliveries
            .iter()
            .filter_map(|(key, d)| {
                let (dead, reason) = match d.state {
                    State::Dead(reason) => (true, reason),
                    State::Parked(reason) => (false, reason),
                    _ => return None,
                };
                Some((*key, (dead, reason.to_owned(), d.attempts, d.crashes)))
            })
            .collect();
        assert_eq!(found, expected, "letters");
    }
}

fn outgoing<E: Event>(event: E, wanted: &Wanted) -> Outgoing<E> {
    let mut outgoing = Outgoing::from(event);
    if wanted.delayed {
        outgoing = outgoing.after(seconds(DELAY));
    }
    match wanted.id {
        Some(id) => outgoing.id(format!("id-{id}")),
        None => outgoing,
    }
}
