//! The engine under test: plays each step, then is compared with the reference.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use proptest_state_machine::StateMachineTest;
use termitary::event::Outgoing;
use termitary::inspect::{LetterFilter, Status};
use termitary::prelude::*;
use termitary::testing::TestWorker;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::Site;
use super::delivery::DELAY;
use super::handlers::{Book, Script, Scripted, Stuck, V1, V2, hanging, registry, seconds};
use super::reference::{Reference, World};
use super::script::{Kind, Plans, Step, Via, Wanted};
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

pub(crate) struct System {
    pub(super) stand: Stand,
    pub(super) broker: Broker,
    workers: Vec<TestWorker>,
    pub(super) book: Book,
    pub(super) ids: BTreeMap<Uuid, u32>,
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

    /// `world` is the expected state after the step.
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

    /// A process that loses its leases while it runs, and finishes its deliveries all the same.
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

    pub(super) async fn status(&self) -> Status {
        self.broker.inspect().status().await.unwrap()
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
