//! Routes for operators: health and metrics.

use std::sync::OnceLock;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics::{describe_gauge, gauge};
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

/// Seconds: from a handler that only counts to a slow mail server.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

pub(crate) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(super::ready::readyz))
        .routes(routes!(metrics))
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
    let text = recorder().render() + &gauges(&status);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// The process's recorder, installed by the first call.
pub(super) fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // Histograms can be added up over processes, summaries cannot.
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed: /metrics shows gauges only");
        }
        handle
    })
}

/// The numbers of `termitary status`. Each scrape has a recorder of its own: the
/// process's recorder would keep showing subscriptions that no longer exist.
fn gauges(status: &Status) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        subscriptions(status);
        describe_gauge!(
            "termitary_schedule_paused",
            "Whether an operator paused a schedule."
        );
        describe_gauge!(
            "termitary_schedule_failing",
            "Whether a schedule cannot create its event."
        );
        for schedule in &status.schedules {
            let name = &schedule.name;
            gauge!("termitary_schedule_paused", "schedule" => name.clone())
                .set(f64::from(u8::from(schedule.paused)));
            gauge!("termitary_schedule_failing", "schedule" => name.clone())
                .set(f64::from(u8::from(schedule.failing.is_some())));
        }
        describe_gauge!("termitary_events", "Events that the ledger keeps.");
        gauge!("termitary_events").set(status.events as f64);
        describe_gauge!(
            "termitary_workers",
            "Worker processes that reported within a minute."
        );
        gauge!("termitary_workers").set(status.workers.len() as f64);
        describe_gauge!(
            "termitary_workers_running",
            "Attempts running over all workers."
        );
        let running: u64 = status.workers.iter().map(|worker| worker.running).sum();
        gauge!("termitary_workers_running").set(running as f64);
    });
    recorder.handle().render()
}

fn subscriptions(status: &Status) {
    describe_gauge!(
        "termitary_subscription_deliveries",
        "Deliveries of a subscription, by state."
    );
    describe_gauge!(
        "termitary_subscription_oldest_pending_seconds",
        "How long the oldest due delivery has waited."
    );
    describe_gauge!(
        "termitary_subscription_workers",
        "Live workers that run a subscription."
    );
    for s in &status.subscriptions {
        let counts = [
            ("pending", s.pending),
            ("leased", s.leased),
            ("due", s.due),
            ("dead", s.dead),
            ("parked", s.parked),
            ("done", s.done),
        ];
        for (state, count) in counts {
            gauge!("termitary_subscription_deliveries", "subscription" => s.name.clone(), "state" => state)
                .set(count as f64);
        }
        gauge!("termitary_subscription_oldest_pending_seconds", "subscription" => s.name.clone())
            .set(s.oldest_pending_seconds as f64);
        gauge!("termitary_subscription_workers", "subscription" => s.name.clone())
            .set(s.workers as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_can_hold_any_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            gauge!("termitary_test", "name" => "a \" b\nc\\").set(1.0);
        });
        let text = recorder.handle().render();
        assert!(
            text.contains(r#"termitary_test{name="a \" b\nc\\"} 1"#),
            "{text}"
        );
    }
}
