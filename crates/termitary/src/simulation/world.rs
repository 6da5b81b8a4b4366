//! One simulated system: a database, a broker for each process, and the actions of the processes.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use super::observations::Observations;
use super::redis::Server;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::db::{Db, Options};
use crate::delivery::{Route, WorkerId};
use crate::event::Event;
use crate::handler::HandlerResult;
use crate::registry::Registry;
use crate::schedule::{CatchUp, Schedule, Tick, schedule};
use crate::subscription::subscribe;

pub(super) const LEASE: Duration = crate::broker::DEFAULT_LEASE;
pub(super) const RULE: &str = "*/7 * * * *";
/// 2026-01-15T12:00:30Z.
pub(super) const START: i64 = 1_768_478_430;

#[derive(Serialize, Deserialize)]
pub(super) struct Made {}
impl Event for Made {
    const NAME: &'static str = "sim.made";
}

/// Published by the handler of [`Made`], with its effect.
#[derive(Serialize, Deserialize)]
pub(super) struct Next {}
impl Event for Next {
    const NAME: &'static str = "sim.next";
}

#[derive(Serialize, Deserialize)]
pub(super) struct Due {
    pub(super) at: String,
}
impl Event for Due {
    const NAME: &'static str = "sim.due";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}
async fn next(_: Next) -> HandlerResult {
    Ok(())
}
async fn due(_: Due) -> HandlerResult {
    Ok(())
}

pub(super) fn registry() -> Registry<()> {
    Registry::new()
        .on(subscribe("effect.made", made))
        .on(subscribe("plain.made", made))
        .on(subscribe("plain.next", next))
        .on(subscribe("effect.due", due))
        .on(every_seven_minutes())
}

pub(super) fn every_seven_minutes() -> Schedule {
    schedule("sim.tick", RULE, |tick: Tick| Due {
        at: tick.at.to_string(),
    })
    .catch_up(CatchUp::All(10_000))
}

/// Which broker is simulated.
pub(super) enum Mode {
    Sql,
    Redis(Server),
}

pub(super) struct World {
    pub(super) mode: Mode,
    pub(super) db: Db,
    pub(super) routes: Vec<Route>,
    pub(super) schedules: Vec<Schedule>,
    /// On SQL a broker remembers nothing that matters: actors share two, since
    /// each keeps connections busy for a while.
    machines: Vec<Broker>,
    /// Reads committed data, whatever the actors hold.
    observer: RefCell<Option<SqliteConnection>>,
    observations: RefCell<Observations>,
    _folder: TempDir,
}

/// A process; every actor is one.
pub(super) struct Process {
    pub(super) id: WorkerId,
    pub(super) broker: Broker,
}

const TABLES: &str = "
    CREATE TABLE sim_made (event BLOB NOT NULL) STRICT;
    CREATE TABLE sim_effects (event BLOB NOT NULL, subscription INTEGER NOT NULL, fence INTEGER NOT NULL) STRICT;";

/// The file that every run starts from: its tables are made once.
static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();

fn start() -> Timestamp {
    Timestamp::from_second(START).unwrap()
}

/// In memory where the system has such a folder: nothing here cuts the power.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

async fn open(folder: &TempDir, seed: u64) -> Db {
    let url = format!("sqlite://{}", folder.path().join("sim.db").display());
    let options = Options::default()
        .clock(Clock::manual(start(), seed))
        .durable(false);
    Db::open_with(&url, options).await.unwrap()
}

async fn template() -> Vec<u8> {
    let folder = folder();
    let db = open(&folder, 0).await;
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(TABLES).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    Broker::sql(db.clone()).declare(&registry()).await.unwrap();
    let path = db.path().unwrap().to_owned();
    db.close().await;
    std::fs::read(path).unwrap()
}

impl World {
    pub(super) async fn open(seed: u64, mode: &Mode) -> Rc<Self> {
        let mode = match mode {
            Mode::Sql => Mode::Sql,
            Mode::Redis(server) => Mode::Redis(server.emptied().await),
        };
        if TEMPLATE.get().is_none() {
            let _ = TEMPLATE.set(template().await);
        }
        let folder = folder();
        std::fs::write(folder.path().join("sim.db"), TEMPLATE.get().unwrap()).unwrap();
        let db = open(&folder, seed).await;
        let url = format!("sqlite://{}", db.place());
        let observer = SqliteConnection::connect(&url).await.unwrap();
        let machine = |_| Broker::builder(db.clone()).lease(LEASE).sql();
        let mut world = Self {
            machines: (0..2).map(machine).collect(),
            mode,
            db,
            routes: Vec::new(),
            schedules: vec![every_seven_minutes()],
            observer: RefCell::new(Some(observer)),
            observations: RefCell::default(),
            _folder: folder,
        };
        let broker = world.process("first").broker;
        world.routes = broker.declare(&registry()).await.unwrap();
        Rc::new(world)
    }

    /// A process of its own, where its memory matters.
    pub(super) fn process(&self, name: &str) -> Process {
        let broker = match &self.mode {
            Mode::Sql => self.machines[name.len() % self.machines.len()].clone(),
            Mode::Redis(server) => {
                let broker = Broker::builder(self.db.clone()).lease(LEASE);
                broker.redis(server.config()).unwrap()
            }
        };
        Process {
            id: name.into(),
            broker,
        }
    }

    pub(super) fn observed(&self) -> RefMut<'_, Observations> {
        self.observations.borrow_mut()
    }

    pub(super) fn note(&self, text: &str) {
        self.observed().note(text);
    }

    /// Time passes for everybody, on Redis too.
    pub(super) async fn advance(&self, by: Duration) {
        self.note(&format!("{by:?} pass"));
        self.db.clock().advance(by);
        crate::clock::ahead::advance(by);
        if let Mode::Redis(server) = &self.mode {
            server.age(by).await;
        }
    }

    /// Rows as they are committed now.
    pub(super) async fn rows<R>(&self, sql: &'static str) -> Vec<R>
    where
        R: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        let mut observer = self.observer.borrow_mut().take().unwrap();
        let rows = sqlx::query_as(sql).fetch_all(&mut observer).await.unwrap();
        *self.observer.borrow_mut() = Some(observer);
        rows
    }

    pub(super) fn route(&self, id: i64) -> &Route {
        self.routes.iter().find(|route| route.id == id).unwrap()
    }

    /// Returns whether its handler uses `Ledger`.
    pub(super) fn has_effect(&self, route: i64) -> bool {
        self.route(route).name.starts_with("effect.")
    }
}
