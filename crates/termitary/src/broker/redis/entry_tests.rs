//! Every event survives both forms of an entry, and no entry that anybody can
//! write makes a reader panic.

use proptest::prelude::*;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::entry::{Carried, add, decode};
use crate::broker::redis::wire::keys::{self, Stream};
use crate::broker::redis::wire::reply::Raw;
use crate::clock::from_micros;
use crate::event::{Envelope, MAX_DATA_BYTES};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn stream() -> Stream {
    Stream {
        key: keys::Keys::default().main("todos.created").into(),
        event: "todos.created".into(),
    }
}

fn raw(fields: Fields) -> Raw {
    Raw {
        id: "1700000000000-3".to_owned(),
        fields: Some(fields),
    }
}

fn ce(json: impl Into<Vec<u8>>) -> Fields {
    vec![(b"ce".to_vec(), json.into())]
}

/// The arguments of `XADD` after the stream and the `*`.
fn sent(event: &Envelope, ledger: Option<(i64, i64)>) -> Fields {
    let (seq, fence) = ledger.unzip();
    let cmd = add("s", event, seq, fence);
    let args: Vec<_> = cmd
        .args_iter()
        .skip(3)
        .map(|arg| match arg {
            redis::Arg::Simple(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        })
        .collect();
    args.chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

/// JSON text of many shapes, as a producer may have written it.
fn payload() -> impl Strategy<Value = Box<RawValue>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("-1.50e+3".to_owned()),
        ".{0,12}".prop_map(|text| serde_json::Value::String(text).to_string()),
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[ {} ]", all.join(" ,"))),
            // Keys repeat: legal JSON, carried as it is.
            prop::collection::vec((r"[a-b]", inner), 0..4).prop_map(|all| {
                let all: Vec<_> = all.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    });
    tree.prop_map(|text| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}

fn event() -> impl Strategy<Value = Envelope> {
    let optional = || prop::option::of(".{0,20}");
    (
        any::<u128>(),
        1..u32::MAX,
        -62_000_000_000_000_000..250_000_000_000_000_000_i64,
        ".{0,20}",
        (optional(), optional(), prop::option::of(any::<u128>())),
        payload(),
    )
        .prop_map(
            |(id, version, time, source, (key, traceparent, cause), data)| Envelope {
                id: Uuid::from_u128(id),
                name: "todos.created".to_owned(),
                version,
                time: from_micros(time),
                source,
                key,
                traceparent,
                cause: cause.map(Uuid::from_u128),
                data,
            },
        )
}

fn assert_same(
    read: Result<Carried, impl std::fmt::Debug>,
    event: &Envelope,
    ledger: Option<(i64, i64)>,
) {
    let read = read.map(|carried| (format!("{:?}", carried.envelope), carried.ledger));
    let expected = (format!("{event:?}"), ledger);
    assert_eq!(format!("{read:?}"), format!("Ok({expected:?})"));
}

proptest! {
    #[test]
    fn the_short_form_carries_every_event_to_the_byte(
        event in event(),
        ledger in prop::option::of((any::<i64>(), any::<i64>())),
    ) {
        assert_same(decode(&stream(), &raw(sent(&event, ledger))), &event, ledger);
    }

    #[test]
    fn the_cloud_events_form_carries_every_event_to_the_byte(event in event()) {
        let json = serde_json::to_vec(&event).unwrap_or_default();
        assert_same(decode(&stream(), &raw(ce(json))), &event, None);
    }

    #[test]
    fn whatever_anybody_writes_is_read_or_kept_and_fits_into_an_event(
        id in ".{0,8}",
        fields in prop::collection::vec(
            (r"(d|i|t|v|s|k|p|c|l|f|ce|.{0,3})", prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                payload().prop_map(|json| json.get().as_bytes().to_vec()),
            ]),
            0..8,
        ),
    ) {
        let fields = fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        let raw = Raw { id, fields: Some(fields) };
        prop_assert!(outcome(&raw).len() <= MAX_DATA_BYTES);
    }

    #[test]
    fn a_cloud_event_with_bytes_cut_or_changed_is_read_or_kept(
        event in event(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut json = serde_json::to_vec(&event).unwrap_or_default();
        let at = at.index(json.len());
        if cut { json.truncate(at) } else { json[at] = byte }
        prop_assert!(outcome(&raw(ce(json))).len() <= MAX_DATA_BYTES);
    }
}

/// The payload that comes of an entry, readable or not.
fn outcome(raw: &Raw) -> String {
    match decode(&stream(), raw) {
        Ok(carried) => carried.envelope.data.get().to_owned(),
        Err(unreadable) => {
            assert!(!unreadable.error.is_empty());
            unreadable.envelope.data.get().to_owned()
        }
    }
}

fn is_read(fields: Fields) -> bool {
    outcome(&raw(fields.clone()));
    decode(&stream(), &raw(fields)).is_ok()
}

fn cloud_event(data: &str) -> Vec<u8> {
    format!(
        r#"{{"specversion":"1.0","id":"a","source":"/x","type":"todos.created","data":{data}}}"#
    )
    .into_bytes()
}

#[test]
fn a_foreign_corpus_is_read_or_kept_and_never_panics() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = format!("\"{}\"", "x".repeat(4 * 1024 * 1024));
    let refused: [&[u8]; 12] = [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe{}",
        b"\"\xc3\x28\"",
        b"{\"a\":1}{\"b\":2}",
        b"[1,]",
        b"NaN",
        b"\"\\ud800\"x",
        b"\0",
        "\u{feff}{}".as_bytes(),
        huge.as_bytes(),
    ];
    for data in refused {
        assert!(
            !is_read(vec![(b"d".to_vec(), data.to_vec())]),
            "{:.40}",
            String::from_utf8_lossy(data)
        );
        assert!(!is_read(ce(data)), "{:.40}", String::from_utf8_lossy(data));
    }
    // Deep nesting is carried; decoding it into a type fails there, and parks it.
    assert!(is_read(vec![(b"d".to_vec(), deep.clone().into_bytes())]));
    assert!(is_read(ce(cloud_event(&deep))));
    assert!(
        is_read(ce(cloud_event(r#"{"a":1,"a":2}"#))),
        "keys of the payload are its own affair"
    );
    assert!(!is_read(ce(cloud_event(r#"1,"id":"b""#))), "two ids");
    assert!(!is_read(ce(cloud_event(&huge))));
    assert!(!is_read(vec![]), "no fields");
    assert!(!is_read(vec![(Vec::new(), Vec::new())]));
    let deleted = Raw {
        id: String::new(),
        fields: None,
    };
    assert!(outcome(&deleted).starts_with('"'));
}
