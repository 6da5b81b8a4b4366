//! Payloads: JSON of a limited size that a reader can decode. A payload that no reader can
//! decode fails when it is published, when it can still be corrected.

mod finite;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::event::{MAX_DATA_BYTES, MAX_KEY_BYTES};

/// `serde_json` reads one level less.
const DEPTH: usize = 128;

/// Returns the JSON of a value, or an error if no reader could decode it. The checks cost
/// nothing for most payloads: only `null` can stand for a number that JSON does not have,
/// and only many brackets can be nested too deep.
pub(crate) fn write(value: &impl Serialize) -> Result<Box<RawValue>, serde_json::Error> {
    let json = serde_json::value::to_raw_value(value)?;
    if json.get().contains("null") {
        finite::check(value).map_err(serde_json::Error::custom)?;
    }
    let opening = json.get().bytes().filter(|b| matches!(b, b'[' | b'{'));
    if opening.count() >= DEPTH && serde_json::from_str::<Readable>(json.get()).is_err() {
        return Err(serde_json::Error::custom(format!(
            "nested deeper than the {} levels that can be read",
            DEPTH - 1
        )));
    }
    Ok(json)
}

/// [`write()`] for the event `name`, with a check of the size.
pub(crate) fn of(name: &str, value: &impl Serialize) -> Result<Box<RawValue>, Error> {
    let json = write(value).map_err(|error| {
        Error::invalid(format!(
            "the payload of {name} does not serialize into JSON that can be read"
        ))
        .caused_by(error)
    })?;
    fits(name, json.get().len())?;
    Ok(json)
}

/// Checks JSON text from outside the program: its size, and that a reader can decode it.
pub(crate) fn of_text(name: &str, json: String) -> Result<Box<RawValue>, Error> {
    fits(name, json.len())?;
    match serde_json::from_str::<Readable>(&json) {
        Ok(Readable) => unread(name, json),
        Err(error) => Err(not_json(name, error)),
    }
}

/// Checks the form and size of JSON text that is stored already: a reader parks an event
/// that it cannot decode.
pub(crate) fn unread(name: &str, json: String) -> Result<Box<RawValue>, Error> {
    fits(name, json.len())?;
    RawValue::from_string(json).map_err(|error| not_json(name, error))
}

fn not_json(name: &str, error: serde_json::Error) -> Error {
    Error::invalid(format!("the payload of {name} is not JSON")).caused_by(error)
}

fn fits(name: &str, bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_DATA_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the payload of {name} has {bytes} bytes, more than the {MAX_DATA_BYTES} allowed: put the large part elsewhere and publish a reference",
    )))
}

/// Checks the size of an event's key.
pub(crate) fn key(name: &str, key: Option<String>) -> Result<Option<String>, Error> {
    match key {
        Some(key) if key.len() > MAX_KEY_BYTES => Err(Error::invalid(format!(
            "the key of {name} has {} bytes, more than the {MAX_KEY_BYTES} allowed: use an id, or a hash of what is longer",
            key.len()
        ))),
        key => Ok(key),
    }
}

/// Decodes any JSON, with all its strings, numbers and levels.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

macro_rules! readable_values {
    ($($method:ident($value:ty))*) => {
        $(fn $method<E>(self, _: $value) -> Result<Self, E> {
            Ok(self)
        })*
    };
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    readable_values! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::Value;

    use super::*;

    #[derive(Serialize)]
    struct Measured {
        note: Option<String>,
        values: Vec<f64>,
        single: Option<f32>,
        by_name: BTreeMap<String, Sized>,
    }

    #[derive(Serialize)]
    enum Sized {
        Plain,
        Wide(f64),
        Both { width: f64, height: f64 },
    }

    fn measured(value: f64) -> [Measured; 4] {
        let finite = || Measured {
            note: None,
            values: vec![1.0],
            single: None,
            by_name: BTreeMap::from([("a".to_owned(), Sized::Plain)]),
        };
        let both = Sized::Both {
            width: 1.0,
            height: value,
        };
        [
            Measured {
                values: vec![0.5, value],
                ..finite()
            },
            Measured {
                single: Some(value as f32),
                ..finite()
            },
            Measured {
                by_name: BTreeMap::from([("a".to_owned(), Sized::Wide(value))]),
                ..finite()
            },
            Measured {
                by_name: BTreeMap::from([("a".to_owned(), both)]),
                ..finite()
            },
        ]
    }

    #[test]
    fn numbers_that_json_does_not_have_are_refused_wherever_they_are() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let fields = ["values", "single", "by_name", "height"];
            for (event, field) in measured(value).iter().zip(fields) {
                let said = write(event).unwrap_err().to_string();
                assert!(said.contains(&format!("`{field}`")), "{said}");
            }
        }
        for event in &measured(1.5) {
            assert!(write(event).unwrap().get().contains("null"));
        }
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(Value::Array(Vec::new()), |value, level| match level % 2 {
            0 => Value::Array(vec![value]),
            _ => serde_json::json!({ "next": value }),
        })
    }

    #[test]
    fn what_is_written_is_as_deep_as_what_is_read() {
        for levels in [1, DEPTH / 2, DEPTH - 1] {
            let json = write(&nested(levels)).unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(json.get()).unwrap(),
                nested(levels)
            );
            assert!(of_text("a", json.get().to_owned()).is_ok());
        }
        let said = write(&nested(DEPTH)).unwrap_err().to_string();
        assert!(said.contains("deeper than the 127 levels"), "{said}");
        let text = nested(DEPTH).to_string();
        assert!(serde_json::from_str::<Value>(&text).is_err());
        assert!(of_text("a", text.clone()).is_err());
        assert!(unread("a", text).is_ok());
        // Many brackets are no depth.
        assert!(write(&vec![[0]; 4 * DEPTH]).is_ok());
    }

    #[test]
    fn text_that_is_json_in_form_only_is_refused() {
        for unreadable in [r#"{"n":1e999}"#, r#"["\ud800"]"#, r#"{"a":1"#, ""] {
            assert!(of_text("a", unreadable.to_owned()).is_err(), "{unreadable}");
        }
        for fine in [
            r#"{ "n": [1e9, -0, "\ud83d\ude00"] }"#,
            "null",
            "7",
            r#""a""#,
        ] {
            assert_eq!(of_text("a", fine.to_owned()).unwrap().get(), fine);
        }
    }

    #[test]
    fn a_payload_and_a_key_have_bounds_that_their_errors_name() {
        let text = "a".repeat(MAX_DATA_BYTES - 2);
        assert!(of("a", &text).is_ok());
        let error = of("things.made", &format!("{text}b")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the payload of things.made has 262145 bytes, more than the 262144 allowed: put the large part elsewhere and publish a reference"
        );
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert_eq!(key("a", Some(longest.clone())).unwrap(), Some(longest));
        let error = key("things.made", Some("k".repeat(MAX_KEY_BYTES + 1))).unwrap_err();
        assert!(error.is_invalid());
        assert_eq!(
            error.to_string(),
            "the key of things.made has 1025 bytes, more than the 1024 allowed: use an id, or a hash of what is longer"
        );
    }
}
