//! The end of a run: everything is healed, a healthy process works until
//! nothing is left, those that slept through it wake.

use std::time::Duration;

use super::actor::Role;
use super::run::Run;
use super::world::{LEASE, Process};
use super::{checker, roles};
use crate::clock::secs;
use crate::error::Error;
use crate::ledger::letters::Resolve;
use crate::schedule::ticker::fire_due;

/// Largest number of rounds of a healed system until no work is left.
const DRAIN: u32 = 60;

/// Between two tries on a machine that is busy with other things.
const PAUSE: Duration = Duration::from_millis(100);

impl Run {
    pub(super) async fn recover(&mut self) {
        self.world.note("healing");
        self.quiet().await;
        roles::repair(&self.world).await.unwrap();
        let healer = self.world.process("healer");
        self.world.advance(secs(1)).await;
        fire_due(&self.world.db, &self.world.schedules)
            .await
            .unwrap();
        let ticks_until = self.world.db.clock().now();
        if !self.drain(&healer).await {
            return;
        }
        self.zombies().await;
        if self.random.bool() {
            self.world.observed().operator_until = self.step;
            roles::resolve(&self.world, Resolve::Replay, 1_000)
                .await
                .unwrap();
            self.observer.look(&self.world).await;
        }
        let second = self.world.process("second-healer");
        self.drain(&second).await;
        self.observer.look(&self.world).await;
        checker::finally(&self.world, ticks_until).await;
    }

    /// Some of the actors die; the others stay as zombies, but let go of the
    /// connections that the rest needs.
    async fn quiet(&mut self) {
        for i in (0..self.actors.len()).rev() {
            let stays = matches!(self.actors[i].role, Role::Worker | Role::Upkeep);
            if stays && self.random.u8(0..4) > 0 {
                self.bring_to_rest(i).await;
            } else {
                self.actors.remove(i);
            }
        }
        self.actors.retain(|actor| actor.resting);
    }

    /// Processes that slept through everything act on their old beliefs.
    async fn zombies(&mut self) {
        self.world.note("the zombies wake");
        for _ in 0..20 {
            for i in (0..self.actors.len()).rev() {
                self.poll(i, 200).await;
            }
            if self.actors.is_empty() {
                break;
            }
        }
        self.actors.clear();
        self.observer.look(&self.world).await;
    }

    /// A healthy process works until no work is left; returns whether it got there.
    async fn drain(&mut self, me: &Process) -> bool {
        for _ in 0..DRAIN {
            self.step += 1;
            self.world.observed().step = self.step;
            match self.round(me).await {
                Ok(left) if left.is_empty() => return true,
                Ok(_) => {}
                // A busy machine: other callers used up the time of the reply.
                Err(error) if error.is_unavailable() => tokio::time::sleep(PAUSE).await,
                Err(error) => panic!("the healed system fails: {error:?}"),
            }
            self.observer.look(&self.world).await;
        }
        let left = self.left(me).await;
        self.world.observed().violated(format!(
            "I1: the healed system does not finish its work: {left:?}"
        ));
        false
    }

    /// Housekeeping, time, and every available lease; returns the remaining work.
    async fn round(&mut self, me: &Process) -> Result<String, Error> {
        let transport = me.broker.transport();
        for _ in 0..2 {
            transport.upkeep(&me.id, &self.world.routes).await?;
            self.world.advance(LEASE / 2 + secs(1)).await;
        }
        let mut ran = roles::suspects(&self.world, &mut self.random, me).await?;
        for route in &self.world.routes {
            let leased = transport.lease(route, &me.id, 50, Duration::ZERO).await?;
            ran += leased.len() as u64;
            roles::handle(&self.world, &mut self.random, me, &leased, true).await;
        }
        match ran {
            0 => self.left(me).await,
            ran => Ok(format!("{ran} ran just now")),
        }
    }

    /// The deliveries that wait or run, in the ledger and on streams.
    async fn left(&self, me: &Process) -> Result<String, Error> {
        let rows: Vec<(i64, i64)> = self
            .world
            .rows("SELECT event, subscription FROM termitary_deliveries WHERE state <= 1")
            .await;
        let counts = me.broker.transport().counts(&self.world.routes).await?;
        let beside = self.world.routes.iter().zip(counts);
        let beside: Vec<_> = beside
            .filter(|(_, counts)| counts.pending + counts.leased > 0)
            .map(|(route, counts)| format!("{} {counts:?}", route.name))
            .collect();
        if rows.is_empty() && beside.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("rows {rows:?}, on streams {beside:?}"))
    }
}
