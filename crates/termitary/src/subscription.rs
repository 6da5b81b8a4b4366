//! A subscription binds one handler to one event under a durable name, with
//! its policy as data.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{days, minutes};
use crate::event::{Envelope, Event, Schema, valid_name};
use crate::guard;
use crate::handler::{Erased, FromDelivery, Handler, HandlerResult, Typed, Undecodable};
use crate::retry::Retry;

/// A shorter timeout would be over before a handler begins.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest timeout that [`Registry::check`](crate::Registry::check) accepts.
pub(crate) const LONGEST_TIMEOUT: Duration = days(30);
/// The most concurrency that it accepts for one subscription.
pub(crate) const MOST_CONCURRENCY: usize = 100_000;

/// The policy of a handler: data, shown in the event map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Policy {
    /// When and how often a failed delivery is tried again.
    pub retry: Retry,
    /// Time limit of one attempt.
    pub timeout: Duration,
    /// Number of attempts that one worker runs at once.
    pub concurrency: usize,
    /// True if a new subscription also gets the events still retained.
    pub from_retained: bool,
}

impl Policy {
    /// The values that cannot work, each named with the way out.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.retry.mistakes();
        if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&self.timeout) {
            mistakes.push(format!(
                "timeout {:?}: use a time from {SHORTEST_TIMEOUT:?} to 30 days",
                self.timeout
            ));
        }
        if self.concurrency > MOST_CONCURRENCY {
            mistakes.push(format!(
                "concurrency {}: use at most {MOST_CONCURRENCY}",
                self.concurrency
            ));
        }
        mistakes
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            timeout: minutes(5),
            concurrency: 16,
            from_retained: false,
        }
    }
}

/// The reason why the code of a subscription cannot handle an event: its delivery is parked.
pub(crate) struct Unfit {
    pub(crate) reason: &'static str,
    pub(crate) error: String,
}

impl From<Undecodable> for Unfit {
    fn from(Undecodable(error): Undecodable) -> Self {
        Self {
            reason: "undecodable",
            error,
        }
    }
}

/// One handler, bound to one event under a durable name.
pub struct Subscription<S> {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) version: u32,
    pub(crate) schema: fn() -> Schema,
    pub(crate) policy: Policy,
    pub(crate) handler: Arc<dyn Erased<S>>,
}

impl<S> Clone for Subscription<S> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            event: self.event.clone(),
            aliases: self.aliases.clone(),
            version: self.version,
            schema: self.schema,
            policy: self.policy.clone(),
            handler: Arc::clone(&self.handler),
        }
    }
}

/// Binds `handler` to its event under `name`, which must be unique and stay
/// the same as long as deliveries for it may exist.
pub fn subscribe<S, H, Args>(name: impl Into<String>, handler: H) -> Subscription<S>
where
    H: Handler<Args>,
    H::Event: Event,
    H::Extractors: FromDelivery<S>,
    H::Future: Future<Output = HandlerResult> + Send,
    Args: 'static,
    S: Send + Sync + 'static,
{
    const {
        assert!(
            valid_name(<H::Event as Event>::NAME),
            "an event name is dotted lower-case words"
        );
    };
    Subscription {
        name: name.into(),
        event: H::Event::NAME.to_owned(),
        aliases: H::Event::ALIASES
            .iter()
            .map(|&alias| alias.to_owned())
            .collect(),
        version: H::Event::VERSION,
        schema: H::Event::schema,
        policy: Policy::default(),
        handler: Arc::new(Typed {
            handler,
            args: PhantomData,
        }),
    }
}

impl<S> Subscription<S> {
    /// Replaces the retry policy (default: [`Retry::default`]).
    pub fn retry(mut self, retry: Retry) -> Self {
        self.policy.retry = retry;
        self
    }

    /// Sets the time limit of one attempt (default: five minutes). At the limit it is cancelled and
    /// counts as an error. The range is 1 ms to 30 days;
    /// [`Registry::check`](crate::Registry::check) rejects other values.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = timeout;
        self
    }

    /// Sets the number of attempts that one worker runs at once (default: 16). The range is 1 to
    /// 100,000; [`Registry::check`](crate::Registry::check) rejects other values.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.policy.concurrency = concurrency.max(1);
        self
    }

    /// When registered for the first time, also handle the events that are
    /// still retained (default: only those published from then on). A worker copies
    /// them in pages after it has started, and logs how far it is; another one goes on
    /// where it stopped.
    pub fn from_retained(mut self) -> Self {
        self.policy.from_retained = true;
        self
    }

    /// The names of the events that its code handles: its event's, and the aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().map(String::as_str);
        std::iter::once(self.event.as_str()).chain(aliases)
    }

    /// Returns an error if its code does not name the event, or only an older version of it.
    pub(crate) fn fits(&self, envelope: &Envelope) -> Result<(), Unfit> {
        if !self.names().any(|name| name == envelope.name) {
            return Err(Unfit {
                reason: "unknown-name",
                error: format!(
                    "this worker's code handles `{}` and its aliases here, not `{}`",
                    self.event,
                    envelope.name.escape_debug()
                ),
            });
        }
        if envelope.version > self.version {
            return Err(Unfit {
                reason: "version",
                error: format!(
                    "version {} is newer than version {} of this worker",
                    envelope.version, self.version
                ),
            });
        }
        Ok(())
    }

    /// Decodes an event as an attempt does, without running the handler.
    pub(crate) fn try_decode(&self, envelope: &Envelope) -> Result<(), Unfit> {
        self.fits(envelope)?;
        match guard::call(|| self.handler.try_decode(envelope)) {
            Ok(decoded) => Ok(decoded?),
            Err(panicked) => Err(Undecodable(panicked.to_string()).into()),
        }
    }

    /// The durable name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
