//! Server-sent events in their wire format.

use std::fmt::Write as _;

use axum::body::Bytes;

use super::store::Row;
use crate::http::encode;

/// The first frame: the client receives everything after `position`. It stores the id,
/// but sees no event.
pub(super) fn greeting(position: i64) -> Bytes {
    format!(": listening\nid: {}\n\n", encode(&position)).into()
}

/// The frame that keeps an idle connection alive.
pub(super) fn heartbeat() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// The client missed more than is sent again: it should load the feed.
pub(super) fn reload(position: i64) -> Bytes {
    frame(
        "reload",
        position,
        r#"{"reason":"more was missed than is sent again"}"#,
    )
}

/// The frame of an entry, if its row can be read.
pub(super) fn entry(row: &Row) -> Option<Bytes> {
    let entry = row.entry.as_ref()?;
    // An entry is text, numbers and JSON: it always serializes.
    let json = serde_json::to_string(entry).unwrap_or_default();
    Some(frame(&entry.event, row.seq, &json))
}

/// `data` is JSON, which has no line breaks.
fn frame(event: &str, seq: i64, data: &str) -> Bytes {
    let mut text = String::with_capacity(event.len() + data.len() + 40);
    text.push_str("event: ");
    // A line break would start another field.
    text.extend(event.chars().filter(|c| !c.is_control()));
    // Writing to a String does not fail.
    let _ = write!(text, "\nid: {}\ndata: {data}\n\n", encode(&seq));
    text.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_break_in_a_name_begins_no_field() {
        let frame = super::frame("todos.created\ndata: x\r", 7, "{}");
        assert_eq!(
            &frame[..],
            b"event: todos.createddata: x\nid: Nw\ndata: {}\n\n"
        );
    }
}
