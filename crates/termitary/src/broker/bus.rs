//! Publishing outside any transaction.

use super::Broker;
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::payload;

/// Publishes outside any transaction: as durable as the broker.
///
/// On SQL that is the ledger. On Redis the event goes straight to its stream
/// and is as durable as that Redis is configured to be; delayed events and
/// those with an id of their own wait in the ledger in every mode.
#[derive(Clone)]
pub struct Bus {
    pub(super) broker: Broker,
}

impl Bus {
    /// Records one event; returns once the broker has it. Concurrent calls
    /// share commits and round trips.
    pub async fn publish<E: Event>(
        &self,
        event: impl Into<Outgoing<E>>,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), self.broker.db().as_source())?;
        self.send(vec![draft])
            .await?
            .pop()
            .ok_or_else(|| Error::internal("the broker answered nothing"))
    }

    /// Records many events of one type, in few round trips.
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

    /// Publishes by name, for events without a type in this program. `data` is the payload's JSON.
    pub async fn publish_json(&self, name: &str, data: &str) -> Result<Published, Error> {
        let draft = Draft::untyped(name, data.to_owned(), self.broker.db().as_source())?;
        self.send(vec![draft])
            .await?
            .pop()
            .ok_or_else(|| Error::internal("the broker answered nothing"))
    }

    /// Tells every live process that listens, at most once each. Not stored.
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
