//! The modules put together: every event and subscription, and every route.

use std::sync::OnceLock;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use termitary::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::{self, Api, ApiError};
use crate::{activity, auth, mail, todos, users};

/// Every event, subscription and schedule of the application.
pub fn registry() -> Registry<App> {
    Registry::new()
        .merge(auth::subscriptions())
        .merge(users::subscriptions())
        .merge(todos::subscriptions())
        .merge(activity::subscriptions())
        .merge(mail::subscriptions())
}

/// Every route of the application. When `shutdown` is cancelled, live streams end and
/// `/readyz` returns 503.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    let streams = activity::Streams::new(app.settings());
    let routes = Router::from(routes())
        .merge(auth::pages())
        .merge(todos::pages())
        .layer(axum::Extension(streams))
        .with_state(Api::new(app.clone(), shutdown))
        .merge(http::docs_page())
        .route("/", get(|| async { Redirect::to(http::DOCS) }))
        .fallback(|| async { ApiError::NotFound });
    http::layered(routes, app)
}

/// The OpenAPI document of every route.
pub fn openapi() -> OpenApi {
    http::complete_document(routes().into_openapi())
}

fn routes() -> OpenApiRouter<Api> {
    let modules = OpenApiRouter::new()
        .merge(auth::router())
        .merge(users::router())
        .merge(todos::router())
        .merge(activity::router());
    OpenApiRouter::new()
        .nest("/api/v1", modules)
        .merge(http::operations())
        .routes(routes!(openapi_json))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, body = Object)))]
async fn openapi_json() -> axum::Json<&'static OpenApi> {
    static DOCUMENT: OnceLock<OpenApi> = OnceLock::new();
    axum::Json(DOCUMENT.get_or_init(openapi))
}

/// Serves the API on `listener` until `shutdown` is cancelled, and then drains:
/// `/readyz` returns 503 at once, connections are accepted for another half second (up
/// to five while requests run), and open requests may finish within 25 seconds.
pub async fn serve(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let router = router(app.clone(), shutdown.clone());
    http::serve(listener, app, router, shutdown).await;
}
