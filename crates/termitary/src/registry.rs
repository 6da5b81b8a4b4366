//! Everything that is handled and scheduled, as one value: wire it up, check
//! it, print it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::Error;
use crate::event::{Event, Schema, valid_name};
use crate::ledger::{BRIDGE, Declaration, DeclaredSubscription};
use crate::schedule::Schedule;
use crate::subscription::{Policy, Subscription};

/// A hint for refused names.
pub(crate) const FORM: &str = "use dotted lower-case words";

/// The events, subscriptions and schedules of a service.
pub struct Registry<S> {
    pub(crate) events: BTreeMap<String, Declared>,
    pub(crate) subscriptions: Vec<Subscription<S>>,
    pub(crate) schedules: Vec<Schedule>,
}

/// An event that the service knows.
#[derive(Clone)]
pub(crate) struct Declared {
    pub(crate) version: u32,
    pub(crate) aliases: Vec<String>,
    pub(crate) schema: fn() -> Schema,
}

/// Accepted by [`Registry::on`]: a subscription, a schedule, or a cron rule, which is both.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be registered here",
    label = "expected a subscription or a schedule",
    note = "a handler is registered under a name: `.on(subscribe(\"module.what-it-does\", handler))`; `schedule(…)` and `cron(…)` go in the same way",
    note = "handlers with another state than the registry's do not fit into it"
)]
pub trait Register<S> {
    /// Adds itself.
    fn register(self, registry: &mut Registry<S>);
}

impl<S> Default for Registry<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Registry<S> {
    fn clone(&self) -> Self {
        Self {
            events: self.events.clone(),
            subscriptions: self.subscriptions.clone(),
            schedules: self.schedules.clone(),
        }
    }
}

impl<S> Registry<S> {
    /// Nothing registered yet.
    pub fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            subscriptions: Vec::new(),
            schedules: Vec::new(),
        }
    }

    /// Adds a subscription or a schedule.
    pub fn on(mut self, entry: impl Register<S>) -> Self {
        entry.register(&mut self);
        self
    }

    /// Declares an event that this service publishes, whether or not it also
    /// handles it: it then stands in the event map.
    pub fn event<E: Event>(mut self) -> Self {
        const {
            assert!(
                valid_name(E::NAME),
                "an event name is dotted lower-case words"
            );
        };
        self.declare(
            E::NAME,
            E::VERSION,
            E::ALIASES.iter().map(|&a| a.to_owned()).collect(),
            E::schema,
        );
        self
    }

    /// Adds everything of `other`: each module owns its list, the application
    /// merges them.
    pub fn merge(mut self, other: Self) -> Self {
        for (name, event) in other.events {
            self.declare(&name, event.version, event.aliases, event.schema);
        }
        self.subscriptions.extend(other.subscriptions);
        self.schedules.extend(other.schedules);
        self
    }

    pub(crate) fn declare(
        &mut self,
        name: &str,
        version: u32,
        aliases: Vec<String>,
        schema: fn() -> Schema,
    ) {
        let event = self.events.entry(name.to_owned()).or_insert(Declared {
            version,
            aliases: Vec::new(),
            schema,
        });
        if version > event.version {
            (event.version, event.schema) = (version, schema);
        }
        for alias in aliases {
            if !event.aliases.contains(&alias) {
                event.aliases.push(alias);
            }
        }
    }

    /// Finds every mistake at once: duplicate and reserved names, names that cannot
    /// be wire names, aliases that are not one event's alone, policies with values
    /// that cannot work, cron rules that do not exist or never come due, time zones
    /// that do not exist.
    pub fn check(&self) -> Result<(), Error> {
        let mut mistakes = self.mistaken_subscriptions();
        mistakes.extend(self.mistaken_schedules());
        mistakes.extend(self.mistaken_aliases());
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the registry has mistakes: {}",
            mistakes.join("; ")
        )))
    }

    fn mistaken_subscriptions(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut seen = BTreeSet::new();
        for subscription in &self.subscriptions {
            let Subscription {
                name,
                event,
                policy,
                ..
            } = subscription;
            if !valid_name(name) {
                mistakes.push(format!("subscription name `{name}`: {FORM}"));
            }
            if !seen.insert(name) {
                mistakes.push(format!("two subscriptions are named `{name}`"));
            }
            if name == BRIDGE {
                mistakes.push(format!(
                    "subscription name `{name}`: unreadable input from elsewhere is parked under it"
                ));
            }
            if !valid_name(event) {
                mistakes.push(format!("event name `{event}`: {FORM}"));
            }
            let values = policy.mistakes().into_iter();
            mistakes.extend(values.map(|mistake| format!("subscription `{name}`: {mistake}")));
        }
        mistakes
    }

    fn mistaken_schedules(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut seen = BTreeSet::new();
        for schedule in &self.schedules {
            if !seen.insert(&schedule.name) {
                let name = schedule.name.escape_debug();
                mistakes.push(format!("two schedules are named `{name}`"));
            }
            mistakes.extend(schedule.mistakes());
        }
        mistakes
    }

    fn mistaken_aliases(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut owners = BTreeMap::new();
        for (name, event) in &self.events {
            for alias in &event.aliases {
                if !valid_name(alias) {
                    mistakes.push(format!("`{alias}`, an alias of `{name}`: {FORM}"));
                }
                if self.events.contains_key(alias) {
                    mistakes.push(format!(
                        "`{alias}`, an alias of `{name}`, is an event of its own"
                    ));
                }
                if let Some(other) = owners.insert(alias, name)
                    && other != name
                {
                    mistakes.push(format!(
                        "`{alias}` is an alias of both `{other}` and `{name}`"
                    ));
                }
            }
        }
        mistakes
    }

    /// Returns whether an event of this name, or one with this alias, is known.
    pub fn knows(&self, event: &str) -> bool {
        self.events.contains_key(event)
            || self
                .events
                .values()
                .any(|known| known.aliases.iter().any(|alias| alias == event))
    }

    /// The wire names of every event known, in order; without the aliases.
    pub fn names(&self) -> Vec<String> {
        self.events.keys().cloned().collect()
    }

    /// Returns the part of it that the ledger records.
    pub(crate) fn declaration(&self) -> Declaration {
        let subscription = |it: &Subscription<S>| DeclaredSubscription {
            name: it.name.clone(),
            names: it.names().map(str::to_owned).collect(),
            version: it.version,
            from_retained: it.policy.from_retained,
        };
        Declaration {
            subscriptions: self.subscriptions.iter().map(subscription).collect(),
            schedules: self.schedules.iter().map(Schedule::declared).collect(),
        }
    }

    /// Every name under which an event known here may come: aliases too.
    #[cfg(any(feature = "redis", test))]
    pub(crate) fn wire_names(&self) -> Vec<String> {
        let aliases = self.events.values().flat_map(|event| &event.aliases);
        self.events.keys().chain(aliases).cloned().collect()
    }

    /// The schedule of this name.
    pub fn schedule(&self, name: &str) -> Option<&Schedule> {
        self.schedules.iter().find(|schedule| schedule.name == name)
    }

    /// The event map: every event with its subscriptions and schedules, in
    /// the order of names.
    pub fn map(&self) -> Vec<MapEntry> {
        let mut entries: Vec<_> = self
            .events
            .iter()
            .map(|(name, event)| self.map_entry(name, event))
            .collect();
        entries.sort_by(|a, b| a.event.cmp(&b.event));
        entries
    }

    fn map_entry(&self, name: &str, event: &Declared) -> MapEntry {
        let subscriptions = self.subscriptions.iter().filter(|s| s.event == name);
        let schedules = self.schedules.iter().filter(|s| s.event == name);
        MapEntry {
            event: name.to_owned(),
            version: event.version,
            aliases: event.aliases.clone(),
            subscriptions: subscriptions
                .map(|s| MapSubscription {
                    name: s.name.clone(),
                    policy: s.policy.clone(),
                })
                .collect(),
            schedules: schedules.map(Schedule::describe).collect(),
            schema: (event.schema)(),
        }
    }
}

impl<S> Register<S> for Subscription<S> {
    fn register(self, registry: &mut Registry<S>) {
        registry.declare(&self.event, self.version, self.aliases.clone(), self.schema);
        registry.subscriptions.push(self);
    }
}

/// One event of the event map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MapEntry {
    /// The event's wire name.
    pub event: String,
    /// The highest version this code knows.
    pub version: u32,
    /// Older names of it.
    pub aliases: Vec<String>,
    /// The subscriptions that handle it.
    pub subscriptions: Vec<MapSubscription>,
    /// The schedules that publish it.
    pub schedules: Vec<MapSchedule>,
    /// JSON Schema of the payload.
    pub schema: Schema,
}

/// One subscription of the event map.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MapSubscription {
    /// Its durable name.
    pub name: String,
    /// Its policy.
    #[serde(flatten)]
    pub policy: Policy,
}

/// One schedule of the event map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MapSchedule {
    /// Its durable name.
    pub name: String,
    /// The cron expression.
    pub cron: String,
    /// The IANA time zone it is evaluated in.
    pub timezone: String,
    /// The handling of ticks that were missed while no scheduler ran.
    pub catch_up: String,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::handler::HandlerResult;
    use crate::retry::Retry;
    use crate::schedule::{CatchUp, schedule};
    use crate::subscription::subscribe;

    #[derive(Serialize, Deserialize)]
    struct Made {}

    impl Event for Made {
        const NAME: &'static str = "things.made";
        const ALIASES: &'static [&'static str] = &["things.born", "{things}", "things.sold"];
    }

    #[derive(Serialize, Deserialize)]
    struct Sold {}

    impl Event for Sold {
        const NAME: &'static str = "things.sold";
        const ALIASES: &'static [&'static str] = &["things.born"];
    }

    async fn sold(_: Sold) -> HandlerResult {
        Ok(())
    }

    #[derive(Serialize, Deserialize)]
    struct Moved {}

    impl Event for Moved {
        const NAME: &'static str = "things.moved";
        const ALIASES: &'static [&'static str] = &["things.shifted"];
    }

    async fn moved(_: Moved) -> HandlerResult {
        Ok(())
    }

    #[test]
    fn aliases_are_kept_whichever_of_schedule_and_subscription_comes_first() {
        let by_schedule = || schedule("things.move", "0 0 * * *", |_| Moved {});
        let first = Registry::<()>::new()
            .on(by_schedule())
            .on(subscribe("shop.move", moved));
        let last = Registry::<()>::new()
            .on(subscribe("shop.move", moved))
            .on(by_schedule());
        let merged = Registry::<()>::new()
            .on(by_schedule())
            .merge(Registry::new().on(subscribe("shop.move", moved)));
        for registry in [first, last, merged] {
            assert!(registry.knows("things.shifted"));
            assert_eq!(registry.map()[0].aliases, ["things.shifted"]);
            assert_eq!(registry.wire_names(), ["things.moved", "things.shifted"]);
        }
    }

    #[test]
    fn an_alias_is_kept_when_an_older_declaration_of_the_event_did_not_have_it() {
        let mut registry = Registry::<()>::new();
        let schema = Moved::schema;
        registry.declare("things.moved", 1, Vec::new(), schema);
        registry.declare("things.moved", 2, vec!["things.shifted".to_owned()], schema);
        assert!(registry.knows("things.shifted"));
        assert_eq!(registry.map()[0].version, 2);
    }

    #[test]
    fn every_mistake_of_a_schedule_is_found_at_once_and_named() {
        let tick = |name: &str, cron: &str| schedule(name, cron, |_| Moved {});
        let registry = Registry::<()>::new()
            .on(tick("a \" b", "0 0 * * *"))
            .on(tick("line\nbreak", "0 0 30 2 *"))
            .on(tick("too.far", "*/90 * * * *"))
            .on(tick("never", "0 0 * * *").catch_up(CatchUp::All(0)))
            .on(tick("never", "0 0 * * *").timezone("Berlin"));
        let said = registry.check().unwrap_err().to_string();
        for mistake in [
            "schedule name `a \\\" b`: use dotted lower-case words",
            "schedule name `line\\nbreak`: use dotted lower-case words",
            "schedule `line\\nbreak`: `0 0 30 2 *` never comes due",
            "schedule `too.far`: `*/90 * * * *`: the step of `*/90` in the minute field",
            "schedule `never`: CatchUp::All(0) would publish no tick at all",
            "two schedules are named `never`",
            "schedule `never`: `Berlin` is not an IANA time zone",
        ] {
            assert!(said.contains(mistake), "{mistake}: {said}");
        }
    }

    #[test]
    fn every_mistake_is_found_at_once_and_named() {
        let registry = Registry::<()>::new()
            .event::<Made>()
            .on(subscribe("shop.count", sold))
            .on(subscribe("shop.count", sold))
            .on(subscribe("Shop", sold))
            .on(subscribe("bridge.in", sold))
            .on(subscribe("shop.extreme", sold)
                .timeout(Duration::MAX)
                .concurrency(usize::MAX)
                .retry(Retry::exponential(Duration::ZERO, Duration::MAX)))
            .on(subscribe("shop.instant", sold).timeout(Duration::ZERO));
        let said = registry.check().unwrap_err().to_string();
        for mistake in [
            "two subscriptions are named `shop.count`",
            "subscription name `Shop`: use dotted lower-case words",
            "subscription name `bridge.in`: unreadable input from elsewhere is parked under it",
            "subscription `shop.extreme`: timeout 18446744073709551615.999999999s: use a time from 1ms to 30 days",
            "subscription `shop.extreme`: concurrency 18446744073709551615: use at most 100000",
            "subscription `shop.extreme`: retry base 0ns: use at least 10ms",
            "subscription `shop.instant`: timeout 0ns: use a time from 1ms to 30 days",
            "`{things}`, an alias of `things.made`: use dotted lower-case words",
            "`things.sold`, an alias of `things.made`, is an event of its own",
            "`things.born` is an alias of both `things.made` and `things.sold`",
        ] {
            assert!(said.contains(mistake), "{mistake}: {said}");
        }
    }
}
