//! W3C trace context: captured at publish, continued by the handler.

use std::future::Future;

use uuid::Uuid;

tokio::task_local! {
    static CURRENT: Context;
}

/// The trace and the event that the running code works for.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// W3C `traceparent` of the running span.
    pub traceparent: Option<String>,
    /// The event being handled, if a handler runs.
    pub cause: Option<Uuid>,
}

/// Runs `work` so that what it publishes carries `context`.
pub async fn scope<F: Future>(context: Context, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}

/// The context of the running code; empty outside [`scope`].
pub fn current() -> Context {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// A `traceparent` for a new span: of the same trace as `parent` where that is
/// well formed, else of a new trace.
pub fn child_of(parent: Option<&str>) -> String {
    let span = fastrand::u64(1..);
    match parent.and_then(trace_id) {
        Some(trace) => format!("00-{trace}-{span:016x}-01"),
        None => format!("00-{:032x}-{span:016x}-01", fastrand::u128(1..)),
    }
}

/// The trace id of a well-formed `traceparent` header.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let all_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed = version.len() == 2
        && trace.len() == 32
        && span.len() == 16
        && all_hex(trace)
        && all_hex(span)
        && trace.bytes().any(|b| b != b'0');
    well_formed.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stays_in_its_parents_trace() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let child = child_of(Some(parent));
        assert_eq!(trace_id(&child), trace_id(parent));
        assert_ne!(child, parent);
    }

    #[test]
    fn a_malformed_parent_starts_a_new_trace() {
        for bad in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert!(trace_id(&child_of(Some(bad))).is_some(), "{bad}");
        }
    }
}
