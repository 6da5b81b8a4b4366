//! The API over HTTP: the modules' routes put together, and everything that
//! holds for all of them.

mod answers;
mod caller;
mod client;
mod connection;
mod cors;
mod docs;
mod html;
mod idempotency;
mod json;
mod layers;
mod ops;
mod page;
mod places;
mod problem;
mod ready;
mod refusals;
mod serve;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Redirect;
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::{activity, auth, todos, users};

pub(crate) use caller::Caller;
pub(crate) use client::{Client, network};
pub(crate) use connection::Patience;
pub(crate) use html::{Html, Tag, words_of};
pub(crate) use idempotency::{commit, commit_status, forget_answers};
pub(crate) use json::{
    Id, Json, JsonOrNothing, Params, Valid, check, check_both, not_null, nullable,
};
pub(crate) use page::{Page, Paging, decode, encode, page_size};
pub(crate) use problem::{ApiError, Problem};
pub use serve::serve;

/// The most bytes of a request body.
pub(crate) const BODY_LIMIT: usize = 128 * 1024;

/// What routes can take as state.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    /// Cancelled when the process begins to stop: live streams end on it.
    pub(crate) shutdown: CancellationToken,
    pub(crate) streams: activity::Streams,
    pub(crate) writes: ready::Writes,
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// Every route of the application. Live streams end when `shutdown` is
/// cancelled, and `/readyz` then answers 503.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    // Counters count from here on, not from the first look at them.
    ops::recorder();
    let routes = Router::from(routes())
        .merge(auth::pages())
        .merge(todos::pages());
    let api = Api {
        streams: activity::Streams::new(app.settings()),
        writes: ready::Writes::new(),
        app: app.clone(),
        shutdown,
    };
    routes
        .with_state(api)
        .merge(docs::page())
        .route("/", get(|| async { Redirect::to(docs::PATH) }))
        .fallback(|| async { ApiError::NotFound })
        .layer(from_fn_with_state(app.clone(), idempotency::layer))
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(from_fn_with_state(app.clone(), layers::timeout))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(
            answers::Answers::new(app.settings()),
            answers::bounded,
        ))
        .layer(from_fn(layers::finish))
        .layer(from_fn_with_state(app.clone(), refusals::layer))
        .layer(option_layer(cors::layer(&app.settings().cors_origins)))
        .layer(from_fn_with_state(app, layers::observe))
}

/// The OpenAPI document of every route.
pub fn openapi() -> OpenApi {
    docs::complete(routes().into_openapi())
}

fn routes() -> OpenApiRouter<Api> {
    let modules = OpenApiRouter::new()
        .merge(auth::router())
        .merge(users::router())
        .merge(todos::router())
        .merge(activity::router());
    OpenApiRouter::new()
        .nest("/api/v1", modules)
        .merge(ops::router())
}
