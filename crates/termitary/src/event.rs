//! Events: typed facts in the past tense, and the envelope that carries them.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
pub use schemars::Schema;
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// The most bytes of JSON that one event may carry; more is refused at publish.
pub const MAX_DATA_BYTES: usize = 256 * 1024;

/// The most bytes of one event's key; more is refused at publish.
pub const MAX_KEY_BYTES: usize = 1024;

/// Length of an unreadable text that is kept: even fully escaped, it fits into an event.
const KEEP: usize = 32 * 1024;

/// A typed fact. Its serde form is its wire form.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use termitary::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// struct TodoCreated { id: String, title: String }
///
/// impl Event for TodoCreated { const NAME: &'static str = "todos.created"; }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "expected a type that implements `termitary::Event`",
    note = "an event derives Serialize and Deserialize and names itself: `impl Event for … {{ const NAME: &'static str = \"things.happened\"; }}`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The wire name: lower-case words of letters, digits, `-` and `_`, joined
    /// by dots, at most 100 bytes (`todos.created`). A promise: rename it only
    /// by adding the old name to [`Event::ALIASES`].
    const NAME: &'static str;

    /// Older wire names that still decode into this type.
    const ALIASES: &'static [&'static str] = &[];

    /// The version this code writes and the highest it can read. An event of a
    /// higher version is parked until a worker that knows it starts.
    const VERSION: u32 = 1;

    /// Returns the JSON Schema of the payload, as the event map shows it. The default
    /// accepts any JSON; [`schema_of`] derives one from the type.
    fn schema() -> Schema {
        Schema::from(true)
    }

    /// Publish so that handlers start no earlier than `delay` from now.
    fn after(self, delay: Duration) -> Outgoing<Self> {
        Outgoing::from(self).after(delay)
    }

    /// Publish so that handlers start no earlier than `instant`.
    fn at(self, instant: Timestamp) -> Outgoing<Self> {
        Outgoing::from(self).at(instant)
    }

    /// Names the object that the event is about (a user, an order). Handlers find it in
    /// [`Meta::key`](crate::handler::Meta::key); it orders nothing. It has at most
    /// [`MAX_KEY_BYTES`]; publishing a longer key fails.
    fn keyed(self, key: impl Into<String>) -> Outgoing<Self> {
        Outgoing::from(self).keyed(key)
    }

    /// Make the publish idempotent: `id` is an idempotency id, unique for each source
    /// and event name. A second publish of an event of this name with the same id
    /// records nothing and returns the first one's event id; an event of another name
    /// may have the same id. Remembered as long as the first event is kept: at least
    /// seven days.
    fn id(self, id: impl Into<String>) -> Outgoing<Self> {
        Outgoing::from(self).id(id)
    }
}

/// Derives the JSON Schema of a type, for [`Event::schema`].
///
/// The type derives `JsonSchema`. Its macro looks for a crate named `schemars`; a
/// program that does not depend on it names the re-export instead:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use termitary::event::{Schema, schema_of};
/// use termitary::prelude::*;
/// use termitary::schemars::{self, JsonSchema};
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct TodoCreated { id: String, title: String }
///
/// impl Event for TodoCreated {
///     const NAME: &'static str = "todos.created";
///
///     fn schema() -> Schema { schema_of::<Self>() }
/// }
/// ```
pub fn schema_of<T: JsonSchema>() -> Schema {
    schemars::schema_for!(T)
}

/// An event with its publish options, on its way into the system.
#[derive(Debug)]
pub struct Outgoing<E> {
    pub(crate) event: E,
    pub(crate) due: Due,
    pub(crate) key: Option<String>,
    pub(crate) dedup: Option<String>,
}

/// When the first attempt may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    After(Duration),
    At(Timestamp),
}

impl<E: Event> From<E> for Outgoing<E> {
    fn from(event: E) -> Self {
        Self {
            event,
            due: Due::Now,
            key: None,
            dedup: None,
        }
    }
}

impl<E> Outgoing<E> {
    /// See [`Event::after`].
    pub fn after(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// See [`Event::at`].
    pub fn at(mut self, instant: Timestamp) -> Self {
        self.due = Due::At(instant);
        self
    }

    /// See [`Event::keyed`].
    pub fn keyed(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// See [`Event::id`]. At most 128 bytes; longer is refused at publish.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.dedup = Some(id.into());
        self
    }
}

/// A published event as it is stored and travels, with its metadata.
///
/// Serializes as one CloudEvents 1.0 JSON object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope {
    /// UUIDv7, unique.
    pub id: Uuid,
    /// The event's wire name.
    pub name: String,
    /// The version that the publisher wrote.
    pub version: u32,
    /// When it was published.
    pub time: Timestamp,
    /// The service that published it, as a URI reference: `/termitary/<service>`.
    pub source: String,
    /// The object that it is about, if the publisher named one.
    pub key: Option<String>,
    /// W3C trace context of the publisher, where it had one.
    pub traceparent: Option<String>,
    /// The event whose handler published this one.
    pub cause: Option<Uuid>,
    /// The payload.
    pub data: Box<RawValue>,
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("type", &self.name)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("datacontenttype", "application/json")?;
        if self.version != 1 {
            map.serialize_entry(
                "dataschema",
                &format!("urn:termitary:{}:{}", self.name, self.version),
            )?;
        }
        if let Some(key) = &self.key {
            map.serialize_entry("partitionkey", key)?;
        }
        if let Some(traceparent) = &self.traceparent {
            map.serialize_entry("traceparent", traceparent)?;
        }
        if let Some(cause) = &self.cause {
            map.serialize_entry("causationid", cause)?;
        }
        map.serialize_entry("data", &self.data)?;
        map.end()
    }
}

/// Returns whether `name` can be an event's wire name (see [`Event::NAME`]).
pub const fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 100 {
        return false;
    }
    let mut at_word_start = true;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'a'..=b'z' | b'0'..=b'9' => at_word_start = false,
            b'-' | b'_' if !at_word_start => {}
            b'.' if !at_word_start => at_word_start = true,
            _ => return false,
        }
        i += 1;
    }
    !at_word_start
}

/// A text of any origin as a JSON string, cut where it is too long.
pub(crate) fn as_json_text(text: &str) -> Box<RawValue> {
    cut_json_text(text, text.len())
}

/// [`as_json_text`] for the beginning of a text that had `bytes` bytes.
pub(crate) fn cut_json_text(text: &str, bytes: usize) -> Box<RawValue> {
    let mut end = text.len().min(KEEP);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = if end < text.len() {
        format!("{} … ({bytes} bytes in all)", &text[..end])
    } else {
        text.to_owned()
    };
    serde_json::value::to_raw_value(&cut).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::{Envelope, valid_name};

    fn envelope() -> Envelope {
        Envelope {
            id: Uuid::from_u128(0x0190_f3a4_5e6b_7c8d_9e0f_1a2b_3c4d_5e6f),
            name: "todos.created".to_owned(),
            version: 1,
            time: Timestamp::UNIX_EPOCH,
            source: "/termitary/app".to_owned(),
            key: None,
            traceparent: None,
            cause: None,
            data: RawValue::NULL.to_owned(),
        }
    }

    /// Programs in other languages read this: a change breaks them.
    fn json(envelope: &Envelope) -> String {
        serde_json::to_string_pretty(envelope).unwrap_or_default()
    }

    #[test]
    fn an_event_serializes_as_one_cloud_event_and_leaves_out_what_it_has_not() {
        insta::assert_snapshot!(json(&envelope()), @r#"
        {
          "specversion": "1.0",
          "id": "0190f3a4-5e6b-7c8d-9e0f-1a2b3c4d5e6f",
          "source": "/termitary/app",
          "type": "todos.created",
          "time": "1970-01-01T00:00:00Z",
          "datacontenttype": "application/json",
          "data": null
        }
        "#);
    }

    #[test]
    fn every_optional_field_has_its_cloud_events_name_and_the_payload_keeps_every_byte() {
        let data = RawValue::from_string(r#"{ "title": "tea", "n": 1.0 }"#.to_owned());
        let full = Envelope {
            version: 3,
            time: crate::clock::from_micros(1_768_478_400_000_123),
            key: Some("list 7".to_owned()),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            cause: Some(Uuid::from_u128(7)),
            data: data.unwrap_or_default(),
            ..envelope()
        };
        insta::assert_snapshot!(json(&full), @r#"
        {
          "specversion": "1.0",
          "id": "0190f3a4-5e6b-7c8d-9e0f-1a2b3c4d5e6f",
          "source": "/termitary/app",
          "type": "todos.created",
          "time": "2026-01-15T12:00:00.000123Z",
          "datacontenttype": "application/json",
          "dataschema": "urn:termitary:todos.created:3",
          "partitionkey": "list 7",
          "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
          "causationid": "00000000-0000-0000-0000-000000000007",
          "data": { "title": "tea", "n": 1.0 }
        }
        "#);
    }

    #[test]
    fn names_are_dotted_lower_case_words() {
        for good in [
            "todos.created",
            "users.inactive.check",
            "a",
            "mail-2.sent",
            "a_b",
        ] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", ".a", "a.", "a..b", "Todos.created", "a b", "-a", "ä"] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
