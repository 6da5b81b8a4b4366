//! Schedules publish events on time: exactly one per tick, however many
//! workers try.

mod ahead;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod ahead_tests;
mod failing;
#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "panics are what these tests are about"
)]
mod failing_tests;
pub(crate) mod fire;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod oracle;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod races;
mod rule;
pub(crate) mod status;
mod steps;
pub(crate) mod ticker;
mod wall;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Schema, valid_name};
use crate::handler::{FromDelivery, Handler, HandlerResult};
use crate::ledger::ticks::{DeclaredSchedule, ScheduleRow};
use crate::payload;
use crate::registry::{FORM, MapSchedule, Register, Registry};
use crate::subscription::{Subscription, subscribe};

pub(crate) use rule::Rule;

/// One due instant of a schedule, as its event's maker or handler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The instant the rule named, in UTC: not when anything ran.
    pub at: Timestamp,
}

impl Event for Tick {
    const NAME: &'static str = "termitary.tick";

    fn schema() -> Schema {
        schemars::json_schema!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Tick",
            "type": "object",
            "properties": { "at": { "type": "string", "format": "date-time" } },
            "required": ["at"]
        })
    }
}

/// The handling of ticks that came due while no scheduler ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The latest one only, if it is no older than 24 hours.
    Latest,
    /// Every one, at most this many, the latest first to keep.
    All(u32),
    /// None.
    Skip,
}

/// A cron rule that publishes an event at each tick.
#[derive(Clone)]
pub struct Schedule {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) version: u32,
    pub(crate) aliases: Vec<String>,
    pub(crate) cron: String,
    pub(crate) timezone: String,
    pub(crate) catch_up: CatchUp,
    pub(crate) schema: fn() -> Schema,
    pub(crate) make: MakePayload,
}

/// The JSON of a tick's event.
pub(crate) type MakePayload = Arc<dyn Fn(Tick) -> Result<String, serde_json::Error> + Send + Sync>;

/// At each instant of `cron`, publishes the event that `make` returns.
///
/// `make` runs on a thread of the runtime and should only build a value. If it panics, or its event
/// is too large, that tick waits: it is retried with growing delays of up to a minute, logged,
/// shown in [`ScheduleStatus::failing`](crate::inspect::ScheduleStatus::failing), and given up when
/// the schedule's [`CatchUp`] would no longer publish it. Other schedules are not delayed.
///
/// `cron` has five fields (minute, hour, day of month, month, day of week) or
/// six with seconds first. The schedule is known by `name`, which must stay
/// the same: editing the rule under it neither repeats nor skips a tick.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use termitary::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// struct OverdueCheck { triggered_at: String }
/// impl Event for OverdueCheck { const NAME: &'static str = "todos.overdue.check"; }
///
/// let registry: Registry<()> = Registry::new().on(schedule(
///     "todos.overdue.check",
///     "0 */2 * * *",
///     |tick| OverdueCheck { triggered_at: tick.at.to_string() },
/// ));
/// assert!(registry.check().is_ok());
/// ```
pub fn schedule<E: Event>(
    name: impl Into<String>,
    cron: impl Into<String>,
    make: impl Fn(Tick) -> E + Send + Sync + 'static,
) -> Schedule {
    const {
        assert!(
            valid_name(E::NAME),
            "an event name is dotted lower-case words"
        );
    };
    Schedule {
        name: name.into(),
        event: E::NAME.to_owned(),
        version: E::VERSION,
        aliases: E::ALIASES.iter().map(|&alias| alias.to_owned()).collect(),
        cron: cron.into(),
        timezone: "UTC".to_owned(),
        catch_up: CatchUp::Latest,
        schema: E::schema,
        make: Arc::new(move |tick| {
            let json = payload::write(&make(tick))?;
            Ok(Box::<str>::from(json).into_string())
        }),
    }
}

impl Schedule {
    /// The IANA time zone that the rule is read in (default: UTC).
    pub fn timezone(mut self, timezone: impl Into<String>) -> Self {
        self.timezone = timezone.into();
        self
    }

    /// Sets the handling of missed ticks (default: [`CatchUp::Latest`]).
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }

    pub(crate) fn rule(&self) -> Result<Rule, String> {
        Rule::parse(&self.cron, &self.timezone)
    }

    /// Returns the part of it that the ledger records.
    pub(crate) fn declared(&self) -> DeclaredSchedule {
        DeclaredSchedule {
            name: self.name.clone(),
            event: self.event.clone(),
            cron: self.cron.clone(),
            timezone: self.timezone.clone(),
        }
    }

    /// Returns whether the rule on record is this one. If it was edited after this process
    /// started, the newer process publishes its ticks.
    fn has_rule_of(&self, row: &ScheduleRow) -> bool {
        row.cron.0 == self.cron && row.timezone.0 == self.timezone
    }

    /// Every mistake of this schedule alone.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let (name, event) = (self.name.escape_debug(), self.event.escape_debug());
        let mut mistakes = Vec::new();
        if !valid_name(&self.name) {
            mistakes.push(format!("schedule name `{name}`: {FORM}"));
        }
        if self.event != self.name && !valid_name(&self.event) {
            mistakes.push(format!("event name `{event}`: {FORM}"));
        }
        if let Err(mistake) = self.rule() {
            mistakes.push(format!("schedule `{name}`: {mistake}"));
        }
        if self.catch_up == CatchUp::All(0) {
            mistakes.push(format!(
                "schedule `{name}`: CatchUp::All(0) would publish no tick at all: write CatchUp::Skip to skip missed ticks only"
            ));
        }
        mistakes
    }

    pub(crate) fn describe(&self) -> MapSchedule {
        MapSchedule {
            name: self.name.clone(),
            cron: self.cron.clone(),
            timezone: self.timezone.clone(),
            catch_up: match self.catch_up {
                CatchUp::Latest => "latest".to_owned(),
                CatchUp::All(cap) => format!("all, at most {cap}"),
                CatchUp::Skip => "skip".to_owned(),
            },
        }
    }
}

impl<S> Register<S> for Schedule {
    fn register(self, registry: &mut Registry<S>) {
        let aliases = self.aliases.clone();
        registry.declare(&self.event, self.version, aliases, self.schema);
        registry.schedules.push(self);
    }
}

/// A schedule and its only handler in one, as returned by [`cron`].
pub struct Cron<S> {
    schedule: Schedule,
    subscription: Subscription<S>,
}

/// Runs `handler` at each instant of `cron`. It is a schedule and a
/// subscription, both named `name`, over an event of that name.
///
/// ```
/// # use termitary::prelude::*;
/// async fn purge(tick: Tick) -> HandlerResult { Ok(()) }
/// let registry: Registry<()> =
///     Registry::new().on(cron("users.purge-unverified", "0 3 * * *", purge).timezone("Europe/Berlin"));
/// assert!(registry.check().is_ok());
/// ```
pub fn cron<S, H, Args>(name: impl Into<String>, cron: impl Into<String>, handler: H) -> Cron<S>
where
    H: Handler<Args, Event = Tick>,
    H::Extractors: FromDelivery<S>,
    H::Future: Future<Output = HandlerResult> + Send,
    Args: 'static,
    S: Send + Sync + 'static,
{
    let name = name.into();
    let mut schedule = schedule(name.clone(), cron, |tick: Tick| tick);
    schedule.event.clone_from(&name);
    let mut subscription = subscribe(name.clone(), handler);
    subscription.event = name;
    Cron {
        schedule,
        subscription,
    }
}

impl<S> Cron<S> {
    /// See [`Schedule::timezone`].
    pub fn timezone(mut self, timezone: impl Into<String>) -> Self {
        self.schedule = self.schedule.timezone(timezone);
        self
    }

    /// See [`Schedule::catch_up`].
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.schedule = self.schedule.catch_up(catch_up);
        self
    }

    /// Sets the subscription's policy: `.policy(|s| s.timeout(secs(30)))`.
    pub fn policy(mut self, set: impl FnOnce(Subscription<S>) -> Subscription<S>) -> Self {
        self.subscription = set(self.subscription);
        self
    }
}

impl<S> Register<S> for Cron<S> {
    fn register(self, registry: &mut Registry<S>) {
        self.schedule.register(registry);
        self.subscription.register(registry);
    }
}
