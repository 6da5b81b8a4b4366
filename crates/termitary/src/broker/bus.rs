//! Publishing outside any transaction.

use super::Broker;
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::payload;

/// Publishes outside any transaction. An event is as durable as the broker.
///
/// The SQL broker records it in the ledger. With Redis it goes straight to its stream and
/// is as durable as that Redis is configured to be; delayed events and events with an
/// idempotency id wait in the ledger in every mode.
#[derive(Clone)]
pub struct Bus {
    pub(super) broker: Broker,
}

impl Bus {
    /// Publishes one event; returns when the broker has recorded it. Concurrent calls share
    /// commits and round trips.
    ///
    /// # Errors
    /// `is_invalid()` if the payload, key or id cannot be published; `is_unavailable()` if
    /// the database or Redis failed: the event may have been recorded.
    pub async fn publish<E: Event>(
        &self,
        event: impl Into<Outgoing<E>>,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), self.broker.db().as_source())?;
        self.send(vec![draft])
            .await?
            .pop()
            .ok_or_else(|| Error::internal("the broker returned nothing"))
    }

    /// Publishes many events of one type in a few round trips.
    ///
    /// # Errors
    /// The errors of [`Bus::publish`]. If one event is invalid, none is published.
    pub async fn publish_all<E, I>(&self, events: I) -> Result<Vec<Published>, Error>
    where
        E: Event,
        I: IntoIterator,
        I::Item: Into<Outgoing<E>>,
    {
        let drafts = events
            .into_iter()
            .map(|event| Draft::typed(event.into(), self.broker.db().as_source()))
            .collect::<Result<Vec<_>, _>>()?;
        self.send(drafts).await
    }

    /// Publishes by name, for events without a type in this program. `data` is the payload's
    /// JSON.
    ///
    /// # Errors
    /// The errors of [`Bus::publish`]; `is_invalid()` if `name` is not an event name.
    pub async fn publish_json(&self, name: &str, data: &str) -> Result<Published, Error> {
        let draft = Draft::untyped(name, data.to_owned(), self.broker.db().as_source())?;
        self.send(vec![draft])
            .await?
            .pop()
            .ok_or_else(|| Error::internal("the broker returned nothing"))
    }

    /// Sends an event to every live process that listens, at most once each. It is not
    /// stored.
    ///
    /// # Errors
    /// `is_invalid()` if the payload cannot be sent; `is_unavailable()` if the database or
    /// Redis failed.
    pub async fn broadcast<E: Event>(&self, event: E) -> Result<(), Error> {
        let data = payload::of(E::NAME, &event)?;
        self.broker.broadcasts().send(E::NAME, data.get()).await
    }

    async fn send(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        self.broker.transport().publish(drafts).await
    }
}
