//! The feed as it grows: server-sent events.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
use super::hub::{Hub, Seat};
use super::store;
use crate::app::{App, Settings};
use crate::auth;
use crate::http::{Api, ApiError, Caller, Json, Params, Problem, commit, decode};

/// Proxies cut connections that say nothing for long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Entries that are sent again at most.
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
    /// The `id` of the last event that came; wins over the header `Last-Event-ID`.
    last_event_id: Option<String>,
}

/// A ticket for one live stream.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Ticket {
    /// Pass it as `ticket` of `/stream`, once.
    ticket: String,
    /// When it is over, used or not.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Get a ticket that opens one live stream within 30 seconds: a browser's
/// `EventSource` sends no headers, and a session's token has no place in an address.
#[utoipa::path(post, path = "/stream/tickets", tag = "activity", responses(
    (status = 201, body = Ticket),
))]
async fn ticket(
    State(app): State<App>,
    caller: Caller,
) -> Result<(StatusCode, Json<Ticket>), ApiError> {
    let mut tx = app.db().begin().await?;
    let (ticket, expires_at) = auth::issue_ticket(&mut tx, &app, caller.session).await?;
    commit(tx, StatusCode::CREATED, Ticket { ticket, expires_at }).await
}

/// Follow what changes, as it changes: each new entry of `/activity` that you may
/// see, as one server-sent event named like the entry's `event`. After an
/// interruption send the last `id` as `Last-Event-ID`: what was missed comes first.
/// Where that is more than 500 entries, an event `reload` comes in their place: load
/// `/activity`. The stream ends within 5 seconds of its session, and with the process.
#[utoipa::path(get, path = "/stream", tag = "activity", params(
    Opening,
    ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that came."),
), responses(
    (status = 200, body = String, content_type = "text/event-stream"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many live streams"),
))]
async fn stream(
    State(api): State<Api>,
    Params(opening): Params<Opening>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = match &opening.ticket {
        Some(ticket) => auth::redeem_ticket(&api.app, ticket).await?,
        None => Caller::of(&api.app, &headers).await?,
    };
    let last = opening.last_event_id.or_else(|| {
        let header = headers.get("last-event-id")?;
        Some(header.to_str().unwrap_or_default().to_owned())
    });
    let place = api.streams.take(caller.user)?;
    let (seat, position) = api.streams.hub.join(&api.app, caller).await;
    let mut live = Live {
        app: api.app,
        seat,
        sent: position,
        ready: VecDeque::from([frames::greeting(position)]),
        heartbeat: Instant::now() + HEARTBEAT,
        shutdown: api.shutdown,
        _place: place,
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
    seat: Seat,
    /// The last entry that the client has, or could not see.
    sent: i64,
    /// To be sent before anything else.
    ready: VecDeque<Bytes>,
    heartbeat: Instant,
    shutdown: CancellationToken,
    _place: Place,
}

impl Live {
    /// The next thing to send; none when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        let frame = loop {
            if let Some(frame) = self.ready.pop_front() {
                break frame;
            }
            if self.seat.fell_behind() {
                // The database is away: the client comes again with the last id.
                self.catch_up().await.ok()?;
                continue;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = sleep_until(self.heartbeat) => break frames::heartbeat(),
                item = self.seat.next() => {
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

    /// Goes on after the entry that `last` names. `position` is the newest.
    async fn resume(&mut self, last: &str, position: i64) -> Result<(), ApiError> {
        self.ready.clear();
        match decode::<i64>(Some(last)) {
            Ok(Some(last)) if last <= position => {
                self.sent = last;
                self.catch_up().await
            }
            // No id of this feed, such as one of a restored database.
            _ => {
                self.ready.push_back(frames::reload(position));
                Ok(())
            }
        }
    }

    /// Makes ready what the feed has after the last entry sent.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let mut reader = self.app.db().read().await?;
        let missed = store::missed(&mut reader, self.seat.viewer(), self.sent, RESUMED).await?;
        let Some(rows) = missed else {
            self.sent = store::newest(&mut reader).await?;
            self.ready.push_back(frames::reload(self.sent));
            return Ok(());
        };
        self.ready.push_back(frames::greeting(self.sent));
        for row in rows {
            self.sent = row.seq;
            self.ready.push_back(frames::entry(&row));
        }
        Ok(())
    }
}

/// The live streams of the process, counted: each is a connection that stays.
#[derive(Clone)]
pub(crate) struct Streams {
    counts: Arc<Mutex<Counts>>,
    hub: Hub,
}

struct Counts {
    total: usize,
    by_user: HashMap<Uuid, usize>,
    most: usize,
    most_per_user: usize,
}

impl Streams {
    pub(crate) fn new(settings: &Settings) -> Self {
        let counts = Counts {
            total: 0,
            by_user: HashMap::new(),
            most: settings.streams,
            most_per_user: settings.streams_per_user,
        };
        Self {
            counts: Arc::new(Mutex::new(counts)),
            hub: Hub::new(),
        }
    }

    fn take(&self, user: Uuid) -> Result<Place, ApiError> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
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
            .counts
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
