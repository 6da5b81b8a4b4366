//! One run: at every step a seed decides which actor continues, dies or sleeps, and what breaks.
//! Then everything is healed, drained and checked.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;

use super::actor::{Actor, Role, Step};
use super::checker::Observer;
use super::observations::Seen;
use super::roles;
use super::world::{LEASE, Mode, World};
use crate::clock::{minutes, secs};

/// The most actors at a time.
const MOST_ACTORS: usize = 7;
/// Number of steps between two looks at the ledger.
const LOOK: u32 = 4;
/// Number of steps for which a dead operator's write may still be pending.
const OPERATOR: u32 = 20;

pub(super) struct Failure {
    pub(super) violations: Vec<String>,
    pub(super) trace: String,
}

pub(super) struct Run {
    pub(super) world: Rc<World>,
    pub(super) random: Rng,
    pub(super) actors: Vec<Actor>,
    started: u32,
    pub(super) step: u32,
    pub(super) observer: Observer,
    /// Redis loses no confirmed write: then bus events are owed too.
    keeps: bool,
}

/// Runs one seed.
pub(super) async fn simulate(seed: u64, mode: &Mode) -> Result<Seen, Failure> {
    let world = World::open(seed, mode).await;
    let mut random = Rng::with_seed(seed);
    let mut run = Run {
        world: Rc::clone(&world),
        keeps: matches!(mode, Mode::Redis(_)) && random.u8(0..3) == 0,
        random,
        actors: Vec::new(),
        started: 0,
        step: 0,
        observer: Observer::default(),
    };
    run.live().await;
    run.recover().await;
    let observed = world.observed();
    if observed.violations.is_empty() {
        return Ok(observed.seen);
    }
    Err(Failure {
        violations: observed.violations.clone(),
        trace: observed.trace().to_owned(),
    })
}

impl Run {
    async fn live(&mut self) {
        for role in [Role::Publisher, Role::Worker, Role::Worker, Role::Upkeep] {
            self.start(role);
        }
        for _ in 0..self.random.u32(50..120) {
            self.step += 1;
            self.world.observed().step = self.step;
            self.dead_hand();
            match self.random.u32(0..100) {
                0..=64 => self.go_on().await,
                65..=71 => self.kill(),
                72..=77 => self.stall().await,
                78..=84 => self.pass_time().await,
                85..=87 => self.hurt().await,
                _ => self.start_one(),
            }
            if self.step.is_multiple_of(LOOK) {
                self.observer.look(&self.world).await;
            }
        }
    }

    /// The writes of an operator that died may be committed with those of others, and stay pending
    /// for as long as nobody releases the writer.
    fn dead_hand(&self) {
        let mut observed = self.world.observed();
        if observed.step <= observed.operator_until && !self.world.db.at_rest() {
            observed.operator_until = observed.step + OPERATOR;
        }
    }

    fn start_one(&mut self) {
        if self.actors.len() < MOST_ACTORS {
            let role = match self.random.u32(0..16) {
                0..=5 => Role::Worker,
                6..=8 => Role::Publisher,
                9..=11 => Role::Upkeep,
                12..=13 => Role::Scheduler,
                14 => Role::Operator,
                _ => Role::Saboteur,
            };
            self.start(role);
        }
    }

    fn start(&mut self, role: Role) {
        self.started += 1;
        let name = format!("{role:?}-{}", self.started).to_lowercase();
        let (world, random) = (Rc::clone(&self.world), self.random.fork());
        let me = world.process(&name);
        world.note(&format!("{name} starts"));
        let actor = match role {
            Role::Worker => Actor::new(name, role, roles::worker(world, random, me)),
            Role::Publisher => Actor::new(name, role, roles::publisher(world, random, me)),
            Role::Upkeep => Actor::new(name, role, roles::upkeep(world, random, me)),
            Role::Scheduler => Actor::new(name, role, roles::scheduler(world)),
            Role::Operator => Actor::new(name, role, roles::operator(world, random)),
            Role::Saboteur => Actor::new(name, role, roles::saboteur(world, random)),
        };
        self.actors.push(actor);
    }

    /// One of those that are awake goes some polls further.
    async fn go_on(&mut self) {
        let awake: Vec<_> = (0..self.actors.len())
            .filter(|&i| self.actors[i].asleep_until <= self.step)
            .collect();
        let Some(&i) = self.random.choice(&awake) else {
            return self.start_one();
        };
        let polls = match self.random.u32(0..10) {
            0..=2 => self.random.u32(1..4),
            3..=6 => self.random.u32(1..20),
            _ => 80,
        };
        self.poll(i, polls).await;
    }

    pub(super) async fn poll(&mut self, i: usize, polls: u32) {
        let actor = &mut self.actors[i];
        self.world
            .note(&format!("{} goes on ({polls})", actor.name));
        if actor.role == Role::Operator {
            self.world.observed().operator_until = self.step + OPERATOR;
        }
        match actor.step(&self.world.db, polls).await {
            Step::Over => {
                let actor = self.actors.remove(i);
                self.world.note(&format!("{} is over", actor.name));
            }
            Step::Blocked => {
                self.world.observed().seen.blocked += 1;
                self.world.note(&format!("{} waits", self.actors[i].name));
            }
            Step::Ready => {}
        }
    }

    /// Everything that it held is gone. Rather one in the middle of its work.
    fn kill(&mut self) {
        if self.actors.is_empty() {
            return;
        }
        let busy: Vec<_> = (0..self.actors.len())
            .filter(|&i| !self.actors[i].resting)
            .collect();
        let i = match self.random.choice(&busy) {
            Some(&i) if self.random.u8(0..3) > 0 => i,
            _ => self.random.usize(0..self.actors.len()),
        };
        let actor = self.actors.swap_remove(i);
        self.world.note(&format!("{} dies", actor.name));
        self.world.observed().seen.killed += 1;
    }

    /// It continues later, with its old beliefs. In most cases it sleeps at a point where it blocks
    /// nobody.
    async fn stall(&mut self) {
        if self.actors.is_empty() {
            return;
        }
        let (i, sleep) = (
            self.random.usize(0..self.actors.len()),
            self.random.u32(8..50),
        );
        if self.random.u8(0..4) > 0 {
            self.bring_to_rest(i).await;
        }
        let actor = &mut self.actors[i];
        actor.asleep_until = self.step + sleep;
        self.world
            .note(&format!("{} stalls for {sleep} steps", actor.name));
        self.world.observed().seen.stalled += 1;
    }

    async fn pass_time(&mut self) {
        let by = match self.random.u32(0..10) {
            0..=2 => Duration::from_millis(self.random.u64(1..3_000)),
            3..=6 => LEASE / 2 + secs(1),
            7..=8 => LEASE + secs(1),
            _ => minutes(self.random.u64(1..12)),
        };
        self.world.advance(by).await;
    }

    async fn hurt(&mut self) {
        if let Mode::Redis(server) = &self.world.mode {
            let (what, lost) = server.hurt(&mut self.random, self.keeps).await;
            self.world.observed().redis_lost |= lost;
            self.world.note(&format!("Redis: {what}"));
            return;
        }
        self.kill();
    }

    /// Polls an actor until it has nothing of the database in its hands.
    pub(super) async fn bring_to_rest(&mut self, i: usize) {
        for _ in 0..200 {
            if self.actors[i].resting || self.actors[i].step(&self.world.db, 1).await != Step::Ready
            {
                return;
            }
        }
    }
}
