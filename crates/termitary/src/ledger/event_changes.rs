//! A subscription that another event is registered for than before. Its code never gets
//! an event that it does not name ([`Subscription::names`]); here it is said, and refused
//! where a running worker handles the other event under the same name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;

use super::declare::DeclaredSubscription;
use super::rows::Text;
use super::sql::{Statement, statement};
use super::workers::LIVE;
use crate::clock::micros;
use crate::db::Conn;
use crate::error::Error;

/// A subscription as the ledger has it.
#[derive(Debug, Default)]
struct Known {
    /// Its event.
    event: String,
    /// The names that reach it.
    names: BTreeSet<String>,
}

/// A live worker's subscriptions and the names that its code handles.
struct Runs {
    /// The worker, as an error names it.
    who: String,
    names: HashMap<String, BTreeSet<String>>,
}

/// The changes that registering makes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The event that each subscription is recorded with.
    events: HashMap<String, String>,
    /// The names that reached a subscription until now, and no longer.
    pub(super) former: Vec<(String, String)>,
    /// The names that reached it before.
    before: HashMap<String, BTreeSet<String>>,
}

impl Changes {
    /// The event that a subscription is recorded with.
    pub(super) fn event_of<'a>(&'a self, subscription: &'a DeclaredSubscription) -> &'a str {
        let kept = self.events.get(&subscription.name);
        kept.map_or(subscription.event(), String::as_str)
    }

    /// Returns whether this name reached the subscription before.
    pub(super) fn reached(&self, subscription: &str, event: &str) -> bool {
        let before = self.before.get(subscription);
        before.is_some_and(|names| names.contains(event))
    }
}

/// Compares a registry with what is on record and what runs.
pub(super) async fn find(
    conn: &mut Conn,
    subscriptions: &[DeclaredSubscription],
    now_us: i64,
) -> Result<Changes, Error> {
    let known = known(conn, subscriptions).await?;
    let mut changes = Changes::default();
    let mut live: Option<Vec<Runs>> = None;
    let mut conflicts = Vec::new();
    for subscription in subscriptions {
        let Some(known) = known
            .get(&subscription.name)
            .filter(|it| !it.names.is_empty())
        else {
            continue;
        };
        let named: BTreeSet<_> = subscription.names.iter().cloned().collect();
        if known.names.is_subset(&named) && known.event == subscription.event() {
            continue;
        }
        if live.is_none() {
            live = Some(running(conn, now_us).await?);
        }
        let running = live.as_deref().unwrap_or_default();
        if known.names.is_disjoint(&named) {
            conflicts.extend(conflict(subscription, &named, running));
            moves(&mut changes, subscription, known);
        } else {
            stays(&mut changes, subscription, &named, known, running);
        }
    }
    if !conflicts.is_empty() {
        return Err(Error::invalid(conflicts.join("; ")));
    }
    let before = known.into_iter().map(|(name, known)| (name, known.names));
    changes.before = before.collect();
    Ok(changes)
}

/// Of two workers that run beside each other, each takes the other's deliveries.
fn conflict(
    subscription: &DeclaredSubscription,
    named: &BTreeSet<String>,
    running: &[Runs],
) -> Option<String> {
    let (name, event) = (&subscription.name, subscription.event());
    let (who, theirs) = running.iter().find_map(|worker| {
        let theirs = worker.names.get(name)?;
        theirs.is_disjoint(named).then_some((&worker.who, theirs))
    })?;
    Some(format!(
        "subscription `{name}` handles `{event}` here and {} in the running {who}: give one of the two another name; or, if the event was renamed, list the old name in `{event}`'s ALIASES; or stop that worker first (one that was killed counts as running for {} seconds)",
        quoted(theirs),
        LIVE.as_secs()
    ))
}

/// It names nothing of what reached it: another event from now on.
fn moves(changes: &mut Changes, subscription: &DeclaredSubscription, known: &Known) {
    let (name, event) = (&subscription.name, subscription.event());
    tracing::warn!(
        subscription = %name,
        from = %known.event,
        to = %event,
        "the subscription moved to another event: what was published under the old name and is not finished is parked; list the old name in the event's ALIASES to handle it, or drop it with the subscription's parked letters"
    );
    let former = known.names.iter().map(|old| (name.clone(), old.clone()));
    changes.former.extend(former);
}

/// Renamed, or one of two versions that run beside each other during a deploy: every
/// name goes on reaching it. The event on record is that of the code that knows both.
fn stays(
    changes: &mut Changes,
    subscription: &DeclaredSubscription,
    named: &BTreeSet<String>,
    known: &Known,
    running: &[Runs],
) {
    let name = &subscription.name;
    if !named.contains(&known.event) {
        changes.events.insert(name.clone(), known.event.clone());
    }
    let of_running = running.iter().filter_map(|worker| worker.names.get(name));
    let anybody: BTreeSet<_> = of_running.flatten().collect();
    let nobody = |old: &&String| !named.contains(*old) && !anybody.contains(old);
    let unnamed: BTreeSet<_> = known.names.iter().filter(nobody).cloned().collect();
    if !unnamed.is_empty() {
        tracing::warn!(
            subscription = %name,
            "events named {} still reach the subscription, and neither this code nor a running worker names them: they are parked until a worker registers that does",
            quoted(&unnamed)
        );
    }
}

fn quoted(names: &BTreeSet<String>) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

const KNOWN: Statement = statement!(
    "SELECT s.name, s.event, r.event FROM termitary_subscriptions s
     LEFT JOIN termitary_routes r ON r.subscription = s.id
     WHERE s.name IN ", [texts "$1"]
);

async fn known(
    conn: &mut Conn,
    subscriptions: &[DeclaredSubscription],
) -> Result<BTreeMap<String, Known>, Error> {
    let names: Vec<_> = subscriptions.iter().map(|it| &it.name).collect();
    let rows: Vec<(Text, Text, Option<Text>)> = sqlx::query_as(KNOWN.on(conn))
        .bind(json!(names).to_string())
        .fetch_all(conn)
        .await?;
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for (Text(name), Text(event), route) in rows {
        let of = known.entry(name).or_default();
        of.event = event;
        of.names.extend(route.map(|route| route.0));
    }
    Ok(known)
}

/// The workers that were heard of lately and said what they name; those of older
/// versions did not.
async fn running(conn: &mut Conn, now_us: i64) -> Result<Vec<Runs>, Error> {
    let rows: Vec<(Text, Text, Text, Text, Text)> = sqlx::query_as(
        "SELECT id, host, source, names, subscriptions FROM termitary_workers
         WHERE seen_us BETWEEN $1 AND $2 AND names IS NOT NULL AND source IS NOT NULL",
    )
    .bind(now_us.saturating_sub(micros(LIVE)))
    .bind(now_us.saturating_add(micros(LIVE)))
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(
            |(Text(id), Text(host), Text(source), Text(names), Text(runs))| {
                let runs: Vec<String> = serde_json::from_str(&runs).unwrap_or_default();
                let mut names: HashMap<_, _> = serde_json::from_str(&names).unwrap_or_default();
                // One that was dropped under it runs no longer.
                names.retain(|name, _| runs.contains(name));
                Runs {
                    who: format!("worker {id} of {source} on {host}"),
                    names,
                }
            },
        )
        .collect())
}
