//! Routes for operators: is it alive, is it ready, what does it count.

use std::fmt::Write;
use std::sync::OnceLock;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use termitary::inspect::Status;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::json::Json;
use super::problem::ApiError;
use super::{Api, Problem};
use crate::app::App;

/// Seconds: from a handler that only counts to a mail server that sleeps.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];
pub(crate) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(super::ready::readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi_json))
}

/// The process runs.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Is the process alive? Asks nothing else.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Counters and gauges in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, body = String, content_type = "text/plain"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let status = app.broker().inspect().status().await?;
    let mut text = recorder().render();
    gauges(&status, &mut text);
    Ok((
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response())
}

/// The process's recorder; installed once, whoever asks first.
pub(crate) fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // Histograms add up over processes, summaries do not.
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed: /metrics shows gauges only");
        }
        handle
    })
}

/// The numbers of `termitary status`. Written here instead of through the
/// recorder, which would go on showing what does not exist any more.
fn gauges(status: &Status, text: &mut String) {
    let kinds = ["pending", "leased", "due", "dead", "parked", "done"];
    heading(
        text,
        "termitary_subscription_deliveries",
        "Deliveries of a subscription, by state.",
    );
    for subscription in &status.subscriptions {
        let counts = [
            subscription.pending,
            subscription.leased,
            subscription.due,
            subscription.dead,
            subscription.parked,
            subscription.done,
        ];
        for (state, count) in kinds.iter().zip(counts) {
            let name = label(&subscription.name);
            line(
                text,
                format_args!(
                    "termitary_subscription_deliveries{{subscription=\"{name}\",state=\"{state}\"}} {count}"
                ),
            );
        }
    }
    heading(
        text,
        "termitary_subscription_oldest_pending_seconds",
        "How long the oldest due delivery has waited.",
    );
    for s in &status.subscriptions {
        line(
            text,
            format_args!(
                "termitary_subscription_oldest_pending_seconds{{subscription=\"{}\"}} {}",
                label(&s.name),
                s.oldest_pending_seconds
            ),
        );
    }
    heading(
        text,
        "termitary_subscription_workers",
        "Live workers that run a subscription.",
    );
    for s in &status.subscriptions {
        line(
            text,
            format_args!(
                "termitary_subscription_workers{{subscription=\"{}\"}} {}",
                label(&s.name),
                s.workers
            ),
        );
    }
    schedules(status, text);
    heading(text, "termitary_events", "Events that the ledger keeps.");
    line(text, format_args!("termitary_events {}", status.events));
    heading(
        text,
        "termitary_workers",
        "Worker processes heard of within a minute.",
    );
    line(
        text,
        format_args!("termitary_workers {}", status.workers.len()),
    );
    heading(
        text,
        "termitary_workers_running",
        "Attempts running over all workers.",
    );
    line(
        text,
        format_args!(
            "termitary_workers_running {}",
            status.workers.iter().map(|w| w.running).sum::<u64>()
        ),
    );
}

fn schedules(status: &Status, text: &mut String) {
    heading(
        text,
        "termitary_schedule_paused",
        "Whether an operator stopped a schedule.",
    );
    for s in &status.schedules {
        line(
            text,
            format_args!(
                "termitary_schedule_paused{{schedule=\"{}\"}} {}",
                label(&s.name),
                u8::from(s.paused)
            ),
        );
    }
    heading(
        text,
        "termitary_schedule_failing",
        "Whether a schedule cannot make its event.",
    );
    for s in &status.schedules {
        line(
            text,
            format_args!(
                "termitary_schedule_failing{{schedule=\"{}\"}} {}",
                label(&s.name),
                u8::from(s.failing.is_some())
            ),
        );
    }
}

/// The value of a label: an older program may have recorded any name.
fn label(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

fn heading(text: &mut String, name: &str, help: &str) {
    line(
        text,
        format_args!("# HELP {name} {help}\n# TYPE {name} gauge"),
    );
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, body = Object)))]
async fn openapi_json() -> axum::Json<&'static utoipa::openapi::OpenApi> {
    static DOCUMENT: OnceLock<utoipa::openapi::OpenApi> = OnceLock::new();
    axum::Json(DOCUMENT.get_or_init(super::openapi))
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn a_label_can_hold_any_name() {
        assert_eq!(label("todos.check"), "todos.check");
        assert_eq!(label("a \" b\nc\\"), r#"a \" b\nc\\"#);
    }
}
