//! HTTP: everything that holds for all routes, from the connection to the problem
//! details. The routes themselves belong to the features.

mod caller;
mod client;
mod connection;
mod connection_limits;
mod cors;
mod docs;
mod html;
mod idempotency;
mod json;
mod layers;
mod ops;
mod page;
mod problem;
mod ready;
mod refusals;
mod serve;
mod unsent;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

use crate::app::App;

pub(crate) use client::Client;
pub(crate) use docs::{PATH as DOCS, complete as complete_document, page as docs_page};
pub(crate) use html::{Html, Tag, words_of};
pub(crate) use idempotency::{commit, commit_status, delete_old_responses};
pub(crate) use json::{
    Id, Json, JsonOrNothing, Params, Valid, check, check_both, not_null, nullable,
};
pub(crate) use ops::router as operations;
pub(crate) use page::{Page, Paging, decode, encode, page_size};
pub(crate) use problem::{ApiError, Problem};
pub(crate) use serve::serve;

/// The most bytes of a request body.
pub(crate) const BODY_LIMIT: usize = 128 * 1024;

/// The state of the routes.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    /// Cancelled when the process begins to stop: live streams end then.
    pub(crate) shutdown: CancellationToken,
    writes: ready::WriteProbe,
}

impl Api {
    pub(crate) fn new(app: App, shutdown: CancellationToken) -> Self {
        Self {
            app,
            shutdown,
            writes: ready::WriteProbe::new(),
        }
    }
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// Puts the layers around all routes, the outermost last.
pub(crate) fn layered(routes: Router, app: App) -> Router {
    // Counters count from here on, not from the first scrape.
    ops::recorder();
    routes
        .layer(from_fn_with_state(app.clone(), idempotency::layer))
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(from_fn_with_state(app.clone(), layers::timeout))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(
            unsent::Unsent::new(app.settings()),
            unsent::limit,
        ))
        .layer(from_fn(layers::finish))
        .layer(from_fn_with_state(app.clone(), refusals::layer))
        .layer(option_layer(cors::layer(&app.settings().cors_origins)))
        .layer(from_fn_with_state(app, layers::observe))
}
