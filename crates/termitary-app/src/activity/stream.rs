//! The feed as it grows: server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::Stream;
use termitary::Event;
use termitary::broadcast::Message;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::events::ActivityRecorded;
use crate::app::{App, Settings};
use crate::http::{Api, ApiError, Caller, Problem};

/// Proxies cut connections that say nothing for long.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(stream))
}

/// What changes, as it changes: each new entry of `/activity` that you may
/// see, as one server-sent event named like the entry's `event`. The stream
/// ends with the session or the process; what was missed is in `/activity`.
#[utoipa::path(get, path = "/stream", tag = "activity", responses(
    (status = 200, body = String, content_type = "text/event-stream"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many live streams"),
))]
async fn stream(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, ApiError> {
    let place = api.streams.take(caller.user)?;
    let mut check = tokio::time::interval(api.app.settings().stream_check);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener {
        heard: api.app.broker().broadcasts().subscribe(),
        app: api.app,
        caller,
        check,
        shutdown: api.shutdown,
        greeted: false,
        _place: place,
    };
    let events = futures_util::stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

/// One live stream.
struct Listener {
    app: App,
    caller: Caller,
    heard: Receiver<Message>,
    check: Interval,
    shutdown: CancellationToken,
    greeted: bool,
    _place: Place,
}

impl Listener {
    /// The next thing to send; none when the stream ends.
    async fn next(&mut self) -> Option<Sent> {
        if !self.greeted {
            self.greeted = true;
            // Now the client knows that nothing more is missed.
            return Some(Sent::default().comment("listening"));
        }
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                _ = self.check.tick() => self.still_allowed().await?,
                message = self.heard.recv() => match message {
                    Ok(message) => {
                        if let Some(event) = self.visible(&message) {
                            return Some(event);
                        }
                    }
                    Err(RecvError::Lagged(missed)) => {
                        return Some(Sent::default().event("missed").data(missed.to_string()));
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    /// None when the session is over.
    async fn still_allowed(&mut self) -> Option<()> {
        match crate::auth::session(&self.app, self.caller.session).await {
            Ok(Some(caller)) => {
                self.caller = caller;
                Some(())
            }
            Ok(None) => None,
            // The database is away for a moment: ask again at the next tick.
            Err(_) => Some(()),
        }
    }

    fn visible(&self, message: &Message) -> Option<Sent> {
        if message.name != ActivityRecorded::NAME {
            return None;
        }
        let ActivityRecorded { entry, viewers } = serde_json::from_str(&message.data).ok()?;
        if !self.caller.is_admin() && !viewers.contains(&self.caller.user) {
            return None;
        }
        let name = entry.get("event")?.as_str()?;
        let id = entry.get("id")?.as_str()?;
        Some(Sent::default().event(name).id(id).data(entry.to_string()))
    }
}

/// Counts live streams: each is a connection that stays.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Mutex<Counts>>);

struct Counts {
    total: usize,
    by_user: HashMap<Uuid, usize>,
    most: usize,
    most_per_user: usize,
}

impl Streams {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self(Arc::new(Mutex::new(Counts {
            total: 0,
            by_user: HashMap::new(),
            most: settings.streams,
            most_per_user: settings.streams_per_user,
        })))
    }

    fn take(&self, user: Uuid) -> Result<Place, ApiError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= counts.most {
            return Err(ApiError::Busy("Too many live streams are open."));
        }
        let most = counts.most_per_user;
        let mine = counts.by_user.entry(user).or_default();
        if *mine >= most {
            return Err(ApiError::TooMany {
                detail: "You have too many live streams open: close one.",
                retry_after: Duration::from_secs(5),
            });
        }
        *mine += 1;
        counts.total += 1;
        drop(counts);
        Ok(Place {
            streams: self.clone(),
            user,
        })
    }
}

/// The place of one live stream, free again when it ends.
struct Place {
    streams: Streams,
    user: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(mine) = counts.by_user.get_mut(&self.user) {
            *mine -= 1;
            if *mine == 0 {
                counts.by_user.remove(&self.user);
            }
        }
    }
}
