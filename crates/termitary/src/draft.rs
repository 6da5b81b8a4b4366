//! An event that is about to be published, and the result of publishing it.

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::later;
use crate::db::Db;
use crate::error::Error;
use crate::event::{Due, Envelope, Event, Outgoing, valid_name};
use crate::payload;
use crate::trace;

/// The result of publishing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The event's id; if this one was a duplicate, the id of the earlier event.
    pub id: Uuid,
    /// True if an event of this name with this `.id(..)` was known already: nothing was recorded.
    pub duplicate: bool,
}

/// An envelope, with the options that only publishing needs.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) envelope: Envelope,
    pub(crate) due_us: i64,
    /// Its idempotency id, see [`scoped`].
    pub(crate) dedup: Option<String>,
}

impl Draft {
    pub(crate) fn is_due_now(&self) -> bool {
        self.due_us == self.envelope.time.as_microsecond()
    }

    pub(crate) fn typed<E: Event>(outgoing: Outgoing<E>, db: &Db) -> Result<Self, Error> {
        let data = payload::of(E::NAME, &outgoing.event)?;
        let mut draft = Self::new(E::NAME, E::VERSION, data, db);
        let now = draft.envelope.time;
        draft.due_us = match outgoing.due {
            Due::Now => now.as_microsecond(),
            Due::After(delay) => later(now, delay).as_microsecond(),
            Due::At(instant) => instant.as_microsecond(),
        };
        draft.envelope.key = payload::key(E::NAME, outgoing.key)?;
        draft.dedup = outgoing.dedup.map(|id| scoped(E::NAME, &id)).transpose()?;
        Ok(draft)
    }

    pub(crate) fn untyped(name: &str, json: String, db: &Db) -> Result<Self, Error> {
        if !valid_name(name) {
            return Err(Error::invalid(format!(
                "`{name}` cannot be an event name: use lower-case words joined by dots, such as todos.created"
            )));
        }
        Ok(Self::new(name, 1, payload::of_text(name, json)?, db))
    }

    /// An event that came in from outside, under any name.
    pub(crate) fn foreign(name: &str, json: String, source: &str, db: &Db) -> Result<Self, Error> {
        let name: String = name.chars().take(100).collect();
        let mut draft = Self::new(&name, 1, payload::unread(&name, json)?, db);
        source.clone_into(&mut draft.envelope.source);
        Ok(draft)
    }

    fn new(name: &str, version: u32, data: Box<RawValue>, db: &Db) -> Self {
        let context = trace::current();
        let time = db.clock().now();
        let envelope = Envelope {
            id: db.clock().new_id(),
            name: name.to_owned(),
            version,
            time,
            source: db.source().to_owned(),
            key: None,
            traceparent: context.traceparent,
            cause: context.cause,
            data,
        };
        Self {
            envelope,
            due_us: time.as_microsecond(),
            dedup: None,
        }
    }
}

/// An idempotency id as the ledger keeps it, for one source: within the event's name,
/// which has no spaces.
fn scoped(name: &str, id: &str) -> Result<String, Error> {
    if id.is_empty() || id.len() > 128 {
        return Err(Error::invalid(format!(
            "the idempotency id of {name} has {} bytes: use 1 to 128",
            id.len()
        )));
    }
    Ok(format!("{name} {id}"))
}
