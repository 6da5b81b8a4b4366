//! W3C trace context: captured when an event is published, continued by its handler.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

tokio::task_local! {
    static CURRENT: Scope;
}

/// The attempt that begins a transaction.
pub(crate) trait Owner: Send + Sync {
    /// Its name in errors.
    fn name(&self) -> String;
    /// The engine ended its transaction, which ran no statement for too long: `reason`.
    fn ended(&self, reason: &str);
}

/// The scope of the running code.
struct Scope {
    context: TraceContext,
    /// The attempt that the code belongs to.
    owner: Option<Arc<dyn Owner>>,
    /// Unique, as one task may run several scopes, one after the other.
    number: u64,
}

impl Scope {
    fn new(context: TraceContext, owner: Option<Arc<dyn Owner>>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            context,
            owner,
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

/// The trace and the event that the running code works for.
#[derive(Clone, Debug, Default)]
pub struct TraceContext {
    /// W3C `traceparent` of the running span.
    pub traceparent: Option<String>,
    /// The event whose handler runs, if one does.
    pub cause: Option<Uuid>,
}

/// Runs `work` so that the events that it publishes carry `context`.
pub async fn scope<F: Future>(context: TraceContext, work: F) -> F::Output {
    CURRENT.scope(Scope::new(context, None), work).await
}

/// [`scope`] for an attempt: its transactions carry its name.
pub(crate) async fn scope_of<F: Future>(
    owner: Arc<dyn Owner>,
    context: TraceContext,
    work: F,
) -> F::Output {
    CURRENT.scope(Scope::new(context, Some(owner)), work).await
}

/// The number of the scope that the running code is in (0 outside of any), and its
/// attempt.
pub(crate) fn place() -> (u64, Option<Arc<dyn Owner>>) {
    CURRENT
        .try_with(|scope| (scope.number, scope.owner.clone()))
        .unwrap_or_default()
}

/// The context of the running code; empty outside [`scope`].
pub fn current() -> TraceContext {
    CURRENT
        .try_with(|scope| scope.context.clone())
        .unwrap_or_default()
}

/// Returns a `traceparent` for a new span: in the trace of `parent` if that is well formed,
/// else in a new trace.
pub fn child_of(parent: Option<&str>) -> String {
    let mut child = String::with_capacity(55);
    child.push_str("00-");
    match parent.and_then(trace_id) {
        Some(trace) => child.push_str(trace),
        None => push_hex(&mut child, fastrand::u128(1..), 32),
    }
    child.push('-');
    push_hex(&mut child, fastrand::u64(1..).into(), 16);
    child.push_str("-01");
    child
}

/// Appends the last `digits` digits. Written by hand, as `format!` is slow and this runs
/// once for each attempt.
fn push_hex(text: &mut String, number: u128, digits: u32) {
    let digit = |place: u32| (number >> (4 * place)) as usize & 0xf;
    text.extend(
        (0..digits)
            .rev()
            .map(|place| char::from(b"0123456789abcdef"[digit(place)])),
    );
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
    fn numbers_are_written_with_all_their_digits() {
        let mut text = String::new();
        push_hex(&mut text, 0xbeef, 8);
        push_hex(&mut text, u128::MAX - 1, 32);
        assert_eq!(text, format!("{:08x}{:032x}", 0xbeef, u128::MAX - 1));
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
