//! `termitary publish`: an event by its name.

use std::io::Read;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use termitary::Registry;
use termitary::event::{MAX_DATA_BYTES, valid_name};

use super::args::PublishArgs;
use super::output;
use super::suggestions::nearest;
use super::system::{Access, System};
use crate::app::App;
use crate::config::{Config, Mistake, escape};
use crate::wiring;

pub(super) async fn run(config: Config, args: PublishArgs) -> anyhow::Result<()> {
    let registry = wiring::registry();
    check_name(&args, &registry)?;
    let data = if args.payload == "-" {
        payload_of(std::io::stdin())?
    } else {
        args.payload
    };
    let payload = object(&data)?;
    check_fields(&registry, &args.name, &payload)?;
    // A name of another program belongs to its database, in which this program creates
    // nothing.
    let access = if registry.knows(&args.name) {
        Access::Change
    } else {
        Access::Look
    };
    let system = System::open(&config, access).await?;
    // Through the ledger in every mode: it is recorded even while Redis is unreachable.
    let mut tx = system.db.begin().await?;
    let published = tx.publish_json(&args.name, &data).await?;
    tx.commit().await?;
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "id": published.id, "event": args.name }));
    }
    output::line(&published.id.to_string())
}

fn check_name(args: &PublishArgs, registry: &Registry<App>) -> Result<(), Mistake> {
    let name = escape(&args.name);
    if !valid_name(&args.name) {
        return Err(Mistake::new(format!(
            "`{name}` cannot be an event name: use lower-case words joined by dots, such as todos.created"
        )));
    }
    if registry.knows(&args.name) || args.allow_unknown {
        return Ok(());
    }
    let names = registry.names();
    let near = nearest(&args.name, names.iter().map(String::as_str));
    let meant = match near.as_slice() {
        [] => "`termitary events` shows the known ones.".to_owned(),
        near => format!("did you mean {}?", near.join(", ")),
    };
    Err(Mistake::new(format!(
        "no event is named `{name}`: {meant} To publish it anyway, add --allow-unknown"
    )))
}

/// The payload without the line break at its end: at most one byte more than an event may
/// have.
fn payload_of(stdin: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    stdin
        .take(MAX_DATA_BYTES as u64 + "\r\n".len() as u64 + 1)
        .read_to_string(&mut text)
        .context("cannot read the payload from stdin")?;
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

fn object(data: &str) -> Result<Map<String, Value>, Mistake> {
    if data.len() > MAX_DATA_BYTES {
        return Err(Mistake::new(format!(
            "the payload is larger than {MAX_DATA_BYTES} bytes: store the large part elsewhere and publish a reference"
        )));
    }
    match serde_json::from_str(data) {
        Ok(Value::Object(payload)) => Ok(payload),
        Ok(_) => Err(Mistake::new(
            "the payload is JSON, but not an object: write it as '{\"field\": value}'",
        )),
        Err(error) => Err(Mistake::new(format!(
            "the payload is not JSON: {error}. Write an object, in single quotes for the shell: '{{\"field\": \"value\"}}'"
        ))),
    }
}

/// Compares the fields with the event map, since no handler could read an invalid event.
/// Unknown events and fields are not checked.
fn check_fields(
    registry: &Registry<App>,
    name: &str,
    payload: &Map<String, Value>,
) -> Result<(), Mistake> {
    let map = registry.map();
    let Some(entry) = map.iter().find(|entry| entry.event == name) else {
        return Ok(());
    };
    check_schema(name, entry.schema.as_value(), payload)
}

fn check_schema(name: &str, schema: &Value, payload: &Map<String, Value>) -> Result<(), Mistake> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|fields| fields.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let missing: Vec<&str> = required
        .iter()
        .copied()
        .filter(|field| !payload.contains_key(*field))
        .collect();
    if !missing.is_empty() {
        return Err(Mistake::new(format!(
            "{name} needs {}: the payload has no {}",
            required.join(", "),
            missing.join(", ")
        )));
    }
    for (field, value) in payload {
        let property = resolved(schema, &schema["properties"][field]);
        if let Some(allowed) = property["enum"].as_array()
            && !allowed.contains(value)
        {
            let words: Vec<_> = allowed.iter().map(Value::to_string).collect();
            return Err(Mistake::new(format!(
                "{name}: the field `{}` must be one of {}",
                escape(field),
                words.join(", ")
            )));
        }
        let expected = &property["type"];
        if !fits(expected, value) {
            return Err(Mistake::new(format!(
                "{name}: the field `{}` must be {}",
                escape(field),
                words(expected)
            )));
        }
    }
    Ok(())
}

/// The schema that a `$ref` within the same document names.
fn resolved<'a>(schema: &'a Value, property: &'a Value) -> &'a Value {
    let pointer = property["$ref"]
        .as_str()
        .and_then(|it| it.strip_prefix('#'));
    pointer
        .and_then(|pointer| schema.pointer(pointer))
        .unwrap_or(property)
}

/// Returns true if `value` has a JSON Schema `type`: one word, several, or none.
fn fits(expected: &Value, value: &Value) -> bool {
    match expected {
        Value::String(word) => match word.as_str() {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => value.is_array(),
            "null" => value.is_null(),
            _ => true,
        },
        Value::Array(words) => words.iter().any(|word| fits(word, value)),
        _ => true,
    }
}

fn words(expected: &Value) -> String {
    match expected {
        Value::Array(words) => words
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" or "),
        word => word.as_str().unwrap_or("of another type").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_payload_that_is_not_json_is_refused_with_the_place() {
        let error = object("{\"id\": ,}").unwrap_err().to_string();
        assert!(error.contains("line 1 column"), "{error}");
        assert!(
            object("[1]")
                .unwrap_err()
                .to_string()
                .contains("not an object")
        );
    }

    #[test]
    fn the_line_break_at_the_end_of_stdin_does_not_count() {
        let longest = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_DATA_BYTES - 8));
        for (end, fits) in [("", true), ("\n", true), ("\r\n", true), (" ", false)] {
            let text = format!("{longest}{end}");
            let payload = payload_of(text.as_bytes()).unwrap();
            assert_eq!(object(&payload).is_ok(), fits, "{end:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_in_the_enum_of_its_field_is_refused() {
        let schema = json!({
            "properties": { "level": { "$ref": "#/$defs/Level" }, "kind": { "enum": ["a", "b"] } },
            "$defs": { "Level": { "type": "string", "enum": ["low", "high"] } },
        });
        let check = |payload: &Value| check_schema("x", &schema, payload.as_object().unwrap());
        assert!(check(&json!({ "level": "low", "kind": "a" })).is_ok());
        for wrong in [json!({ "level": "medium" }), json!({ "kind": "c" })] {
            let error = check(&wrong).unwrap_err().to_string();
            assert!(error.contains("must be one of"), "{error}");
        }
    }

    #[test]
    fn types_are_compared_with_the_schema() {
        assert!(fits(&json!("string"), &json!("x")) && !fits(&json!("string"), &json!(1)));
        assert!(fits(&json!(["string", "null"]), &Value::Null));
        assert!(fits(&Value::Null, &json!(1)));
    }
}
