//! The reference: the expected state of every delivery, in as few words as possible and without an
//! engine.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::Site;
use super::delivery::{DELAY, Delivery, SUSPECT, State};
use super::script::{Kind, Plans, Step, Via, Wanted, steps};

/// Duration of `Stand::lapse`, in seconds.
const LAPSE: i64 = 3;
/// Duration of `Stand::outwait`, in seconds.
const OUTWAIT: i64 = 120;

/// An event by number, a subscription by number.
pub(crate) type Key = (u32, usize);

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    streams: bool,
    now: i64,
    pub(crate) workers: usize,
    /// Redis lost everything. Until the workers that repair it are gone, running deliveries may be
    /// handed out again; until some have begun to repair, the number waiting on streams is an
    /// estimate.
    pub(crate) shaken: bool,
    pub(crate) upgraded: bool,
    /// The number of the next event.
    pub(crate) next: u32,
    ids: BTreeMap<u8, u32>,
    /// The last publish was a duplicate of this event.
    pub(crate) duplicate_of: Option<u32>,
    /// Number of letters or running deliveries that the last step concerned.
    pub(crate) concerned: usize,
    pub(crate) deliveries: BTreeMap<Key, Delivery>,
    /// Runs, by their position in their delivery's, that began while Redis was shaken: if they were
    /// handed out again, both stay in the record of runs.
    pub(crate) blurred: BTreeSet<(Key, usize)>,
    pub(crate) echoes: BTreeSet<u32>,
    /// Finished, of each subscription: as the ledger and as the stream count.
    done: [[u64; 2]; 2],
}

pub(crate) struct Reference<B>(PhantomData<B>);

impl<B: Site> ReferenceStateMachine for Reference<B> {
    type State = World;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<World> {
        Just(World {
            streams: B::STREAMS,
            ..World::default()
        })
        .boxed()
    }

    fn transitions(world: &World) -> BoxedStrategy<Step> {
        steps(world.workers > 0, world.streams)
    }

    fn preconditions(world: &World, step: &Step) -> bool {
        world.allows(step) && world.clone().after(step).is_certain()
    }

    fn apply(world: World, step: &Step) -> World {
        world.after(step)
    }
}

impl World {
    fn allows(&self, step: &Step) -> bool {
        let idle = self.workers == 0;
        match step {
            Step::Publish(_) | Step::PublishAll(_) | Step::Advance(_) => true,
            Step::Start(_) => idle,
            Step::Stop => !idle,
            Step::Crash | Step::Interrupt => idle && self.can_begin(),
            Step::Usurp => {
                idle && !self.shaken && self.can_begin() && !self.any(|d| d.crashes >= SUSPECT)
            }
            Step::Upgrade => idle && !self.upgraded,
            Step::Replay | Step::Drop => self.letters() > 0,
            Step::Flush => self.streams && !self.any(|d| d.state == State::Orphaned),
        }
    }

    /// Returns whether a process that never finishes anything starts a delivery, and certainly
    /// which: it runs suspects alone, and then nothing else.
    fn can_begin(&self) -> bool {
        let (mut due, mut suspects) = (0, 0);
        for mut d in self.deliveries.values().cloned() {
            d.take_over(self.now);
            if d.state.is_due(self.now) && !d.parks(self.upgraded) {
                due += 1;
                suspects += u32::from(d.crashes >= SUSPECT);
            }
        }
        due > 0 && (suspects == 0 || due == 1)
    }

    /// Returns whether jitter decides nothing here.
    fn is_certain(&self) -> bool {
        !self.any(
            |d| matches!(d.state, State::Pending(from, to) if from <= self.now && self.now < to),
        )
    }

    fn any(&self, holds: impl Fn(&Delivery) -> bool) -> bool {
        self.deliveries.values().any(holds)
    }

    pub(crate) fn count(&self, sub: usize, holds: impl Fn(State) -> bool) -> u64 {
        let of = self.deliveries.iter().filter(|((_, s), _)| *s == sub);
        of.filter(|(_, d)| holds(d.state)).count() as u64
    }

    pub(crate) fn due(&self, sub: usize) -> u64 {
        self.count(sub, |state| state.is_due(self.now))
    }

    pub(crate) fn done(&self, sub: usize) -> u64 {
        self.done[sub].iter().sum()
    }

    fn letters(&self) -> usize {
        self.deliveries
            .values()
            .filter(|d| d.state.is_letter())
            .count()
    }

    fn after(mut self, step: &Step) -> Self {
        let places = |world: &Self| -> BTreeSet<(Key, usize)> {
            let runs = world.deliveries.iter();
            runs.flat_map(|(key, d)| (0..d.runs.len()).map(|place| (*key, place)))
                .collect()
        };
        let before = places(&self);
        match step {
            Step::Publish(wanted) => self.publish(wanted),
            Step::PublishAll(all) => {
                for plans in all {
                    self.record(Kind::V1, self.streams, self.now, plans);
                }
            }
            Step::Advance(seconds) => self.now += seconds,
            Step::Start(workers) => self.workers = *workers,
            Step::Stop => (self.workers, self.shaken) = (0, false),
            Step::Crash => {
                self.begin(|_| State::Orphaned);
                self.now += LAPSE;
            }
            Step::Interrupt => self.begin(|now| State::Pending(now, now)),
            Step::Usurp => self.usurp(),
            Step::Upgrade => self.upgrade(),
            Step::Replay => self.resolve(|d, now| {
                (d.state, d.attempts, d.crashes) = (State::Pending(now, now), 0, 0);
            }),
            Step::Drop => self.resolve(|d, _| d.state = State::Dropped),
            Step::Flush => self.flush(),
        }
        if self.workers > 0 {
            self.work();
        }
        if self.shaken {
            self.blurred.extend(&places(&self) - &before);
        }
        self
    }

    fn publish(&mut self, wanted: &Wanted) {
        let known = wanted.id.and_then(|id| self.ids.get(&id).copied());
        self.duplicate_of = known;
        if known.is_some() || wanted.via == Via::RollBack || wanted.kind == Kind::Unknown {
            self.next += 1;
            return;
        }
        if let Some(id) = wanted.id {
            self.ids.insert(id, self.next);
        }
        let due = self.now + if wanted.delayed { DELAY } else { 0 };
        let streamed = self.streams && wanted.streams();
        self.record(wanted.kind, streamed, due, &wanted.plans);
    }

    fn record(&mut self, kind: Kind, streamed: bool, due: i64, plans: &Plans) {
        for (sub, plan) in plans.iter().enumerate() {
            let delivery = Delivery {
                kind,
                plan: plan.clone(),
                streamed,
                state: State::Pending(due, due),
                attempts: 0,
                crashes: 0,
                runs: Vec::new(),
                effects: 0,
            };
            self.deliveries.insert((self.next, sub), delivery);
        }
        self.next += 1;
    }

    /// A live worker handles everything that is due.
    fn work(&mut self) {
        let (now, upgraded) = (self.now, self.upgraded);
        for ((n, sub), d) in &mut self.deliveries {
            d.take_over(now);
            if !d.state.is_due(now) || d.parks(upgraded) {
                continue;
            }
            d.run(now);
            if d.state == State::Done {
                self.done[*sub][usize::from(d.streamed)] += 1;
            }
            if d.effects == 1 {
                self.echoes.insert(*n);
            }
        }
    }

    /// A process starts the due deliveries and does not finish them.
    fn begin(&mut self, ends: impl Fn(i64) -> State) {
        let (now, upgraded) = (self.now, self.upgraded);
        self.concerned = 0;
        for d in self.deliveries.values_mut() {
            d.take_over(now);
            if d.state.is_due(now) && !d.parks(upgraded) {
                d.runs.push(d.attempts + 1);
                d.state = ends(now);
                // The ledger knows the deliveries that it released.
                d.streamed &= d.state == State::Orphaned;
                self.concerned += 1;
            }
        }
    }

    /// Over Redis the taking over is how the leases are lost.
    fn usurp(&mut self) {
        self.begin(|_| State::Orphaned);
        if self.streams {
            let now = self.now;
            self.deliveries.values_mut().for_each(|d| d.take_over(now));
        }
        self.now += OUTWAIT;
    }

    fn upgrade(&mut self) {
        self.upgraded = true;
        let now = self.now;
        for d in self.deliveries.values_mut() {
            if d.state == State::Parked("version") {
                d.state = State::Pending(now, now);
            }
        }
    }

    fn resolve(&mut self, how: impl Fn(&mut Delivery, i64)) {
        let now = self.now;
        let letters = self.deliveries.values_mut().filter(|d| d.state.is_letter());
        self.concerned = letters.map(|d| how(d, now)).count();
    }

    fn flush(&mut self) {
        self.shaken = true;
        for d in self.deliveries.values_mut() {
            if d.streamed && matches!(d.state, State::Pending(..)) {
                d.state = State::Lost;
            }
        }
        for done in &mut self.done {
            done[1] = 0;
        }
    }
}
