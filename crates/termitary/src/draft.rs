//! An event that is about to be published, and the result of publishing it.

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::{Clock, later};
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
    /// True if an event of this name with this `.id(..)` was known already: nothing was
    /// recorded.
    pub duplicate: bool,
}

/// The program that publishes.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) name: &'a str,
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

    pub(crate) fn typed<E: Event>(outgoing: Outgoing<E>, from: Source<'_>) -> Result<Self, Error> {
        let data = payload::of(E::NAME, &outgoing.event)?;
        let mut draft = Self::new(E::NAME, E::VERSION, data, from);
        let now = draft.envelope.time;
        draft.due_us = match outgoing.due {
            Due::Now => now.as_microsecond(),
            Due::After(delay) => later(now, delay).as_microsecond(),
            Due::At(instant) => instant.as_microsecond(),
        };
        draft.envelope.key = payload::key(E::NAME, outgoing.key)?;
        if let Some(key) = &draft.envelope.key {
            without_zero_bytes(E::NAME, "key", key)?;
        }
        draft.dedup = outgoing.dedup.map(|id| scoped(E::NAME, &id)).transpose()?;
        Ok(draft)
    }

    pub(crate) fn untyped(name: &str, json: String, from: Source<'_>) -> Result<Self, Error> {
        if !valid_name(name) {
            return Err(Error::invalid(format!(
                "`{name}` cannot be an event name: use lower-case words joined by dots, such as todos.created"
            )));
        }
        Ok(Self::new(name, 1, payload::of_text(name, json)?, from))
    }

    /// An event that came in from outside, under any name.
    pub(crate) fn foreign(
        name: &str,
        json: String,
        source: &str,
        from: Source<'_>,
    ) -> Result<Self, Error> {
        let name: String = name.chars().take(100).collect();
        let mut draft = Self::new(&name, 1, payload::unread(&name, json)?, from);
        source.clone_into(&mut draft.envelope.source);
        Ok(draft)
    }

    fn new(name: &str, version: u32, data: Box<RawValue>, from: Source<'_>) -> Self {
        let context = trace::current();
        let time = from.clock.now();
        let envelope = Envelope {
            id: from.clock.new_id(),
            name: name.to_owned(),
            version,
            time,
            source: from.name.to_owned(),
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
    without_zero_bytes(name, "idempotency id", id)?;
    Ok(format!("{name} {id}"))
}

/// Refuses a text that PostgreSQL does not store.
fn without_zero_bytes(name: &str, what: &str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::invalid(format!(
            "the {what} of {name} has a zero byte, which PostgreSQL does not store in a text: leave it out"
        )));
    }
    Ok(())
}
