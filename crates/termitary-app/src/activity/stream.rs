//! The live stream of the feed: server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::frames;
use super::hub::{Hub, Subscriber};
use super::{store, tickets};
use crate::accounts::Caller;
use crate::app::App;
use crate::http::{Api, ApiError, Json, Params, Problem, commit, decode};
use crate::quota::{Full, Quota, Share};
use crate::settings::Settings;

/// Proxies close connections that are silent for long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The most entries that are sent again.
const RESUMED: u32 = 500;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(stream))
        .routes(routes!(ticket))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Opening {
    /// A ticket in place of the `Authorization` header, which a browser's
    /// `EventSource` cannot send.
    ticket: Option<String>,
    /// The `id` of the last received event; wins over the header `Last-Event-ID`.
    last_event_id: Option<String>,
}

/// A ticket for one live stream.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Ticket {
    /// Pass it as `ticket` of `/stream`, once.
    ticket: String,
    /// The time of its end, even if it was not used.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Get a ticket that opens one live stream within 30 seconds: a browser's `EventSource`
/// sends no headers, and a session's token must not appear in an address.
#[utoipa::path(post, path = "/stream/tickets", tag = "activity", responses(
    (status = 201, body = Ticket),
))]
async fn ticket(
    State(app): State<App>,
    caller: Caller,
) -> Result<(StatusCode, Json<Ticket>), ApiError> {
    let mut tx = app.db().begin().await?;
    let (ticket, expires_at) = tickets::issue(&mut tx, &app, caller).await?;
    commit(tx, StatusCode::CREATED, Ticket { ticket, expires_at }).await
}

/// Follow changes live: each new entry of `/activity` that you may see is one server-sent
/// event, named like the entry's `event`. After an interruption send the last `id` as
/// `Last-Event-ID`: missed entries come first. If more than 500 were missed, one event
/// `reload` comes instead: load `/activity`. The stream ends with its session, within
/// 5 seconds if another process ended that, and with this process.
#[utoipa::path(get, path = "/stream", tag = "activity", params(
    Opening,
    ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last received event."),
), responses(
    (status = 200, body = String, content_type = "text/event-stream"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many live streams"),
))]
async fn stream(
    State(api): State<Api>,
    Extension(streams): Extension<Streams>,
    Params(opening): Params<Opening>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = match &opening.ticket {
        Some(ticket) => tickets::redeem(&api.app, ticket).await?,
        None => Caller::of(&api.app, &headers).await?,
    };
    let last = opening.last_event_id.or_else(|| {
        let header = headers.get("last-event-id")?;
        Some(header.to_str().unwrap_or_default().to_owned())
    });
    let share = streams.take(caller.user)?;
    let (subscriber, position) = streams.hub.join(&api.app, caller).await;
    let mut live = Live {
        app: api.app,
        subscriber,
        sent: position,
        ready: VecDeque::from([frames::greeting(position)]),
        heartbeat: Instant::now() + HEARTBEAT,
        shutdown: api.shutdown,
        _share: share,
    };
    if let Some(last) = last {
        live.resume(&last, position).await?;
    }
    let frames = futures_util::stream::unfold(live, |mut live| async move {
        let frame = live.next().await?;
        Some((Ok::<_, Infallible>(frame), live))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        // nginx would collect events until its buffer is full.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// One live stream.
struct Live {
    app: App,
    subscriber: Subscriber,
    /// The last entry that was sent, or that the client may not see.
    sent: i64,
    /// The frames to send first.
    ready: VecDeque<Bytes>,
    heartbeat: Instant,
    shutdown: CancellationToken,
    _share: Share<Uuid>,
}

impl Live {
    /// The next frame; `None` when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        let frame = loop {
            if let Some(frame) = self.ready.pop_front() {
                break frame;
            }
            if self.subscriber.fell_behind() {
                // If the database is unreachable, the client reconnects with the last id.
                self.catch_up().await.ok()?;
                continue;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = sleep_until(self.heartbeat) => break frames::heartbeat(),
                item = self.subscriber.next() => {
                    let item = item?;
                    if item.seq > self.sent {
                        self.sent = item.seq;
                        break item.frame.clone();
                    }
                }
            }
        };
        self.heartbeat = Instant::now() + HEARTBEAT;
        Some(frame)
    }

    /// Continues after the entry that `last` names. `position` is the newest.
    async fn resume(&mut self, last: &str, position: i64) -> Result<(), ApiError> {
        self.ready.clear();
        match decode::<i64>(Some(last)) {
            Ok(Some(last)) if last <= position => {
                self.sent = last;
                self.catch_up().await
            }
            // Not an id of this feed, such as one from before the database was restored.
            _ => {
                self.ready.push_back(frames::reload(position));
                Ok(())
            }
        }
    }

    /// Prepares the entries after the last one sent.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let complete = self.app.feed().complete().await?;
        let mut reader = self.app.db().read().await?;
        let viewer = self.subscriber.viewer();
        let missed = store::missed(&mut reader, viewer, self.sent, complete, RESUMED).await?;
        let Some(rows) = missed else {
            self.sent = store::newest(&mut reader).await?.min(complete);
            self.ready.push_back(frames::reload(self.sent));
            return Ok(());
        };
        self.ready.push_back(frames::greeting(self.sent));
        for row in rows {
            self.sent = row.seq;
            self.ready.extend(frames::entry(&row));
        }
        Ok(())
    }
}

/// The live streams of the process. Their number is limited, since each is a connection
/// that stays open.
#[derive(Clone)]
pub(crate) struct Streams {
    open: Quota<Uuid>,
    hub: Hub,
}

impl Streams {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            open: Quota::new(settings.streams as u64, settings.streams_per_user as u64),
            hub: Hub::new(),
        }
    }

    fn take(&self, user: Uuid) -> Result<Share<Uuid>, ApiError> {
        self.open.take(user, 1).map_err(|full| match full {
            Full::Total => ApiError::Busy("Too many live streams are open."),
            Full::Key => ApiError::TooMany {
                detail: "You have too many live streams open: close one.",
                retry_after: Duration::from_secs(5),
            },
        })
    }
}
