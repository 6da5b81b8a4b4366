//! Rows as they are stored. Any column may hold what no program of ours wrote, after a
//! repair by hand or a fault of the disk: one such row must keep nobody from the others.
//! So events are read column by column, into an envelope or into the reason why not,
//! and texts that are only shown or compared are read whatever they hold.

use std::fmt;

use serde_json::json;
use serde_json::value::RawValue;
use sqlx::{Database, Decode, Type};
use uuid::Uuid;

use super::sql::{Statement, statement};
use crate::clock::from_micros;
use crate::db::{Conn, Sql};
use crate::engine::sql::SqlValueRef;
use crate::error::Error;
use crate::event::{Envelope, as_json_text};

/// A text; bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

/// The bytes of a text or blob.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        Uuid::from_slice(&self.0).ok()
    }

    pub(crate) fn text(self) -> Option<String> {
        String::from_utf8(self.0).ok()
    }

    fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Reads the bytes of a text, of a blob or of a UUID.
macro_rules! reads_bytes {
    ($type:ty, $make:expr) => {
        impl<DB: Database> Type<DB> for $type
        where
            Vec<u8>: Type<DB>,
        {
            fn type_info() -> DB::TypeInfo {
                <Vec<u8> as Type<DB>>::type_info()
            }

            fn compatible(_: &DB::TypeInfo) -> bool {
                true
            }
        }

        impl<'r> Decode<'r, Sql> for $type {
            fn decode(value: SqlValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                value.bytes().map($make)
            }
        }

        #[cfg(feature = "postgres")]
        impl<'r> Decode<'r, sqlx::Postgres> for $type {
            fn decode(
                value: sqlx::postgres::PgValueRef<'r>,
            ) -> Result<Self, sqlx::error::BoxDynError> {
                value.as_bytes().map($make)
            }
        }
    };
}
reads_bytes!(Text, |bytes: &[u8]| Text(
    String::from_utf8_lossy(bytes).into_owned()
));
reads_bytes!(Bytes, |bytes: &[u8]| Bytes(bytes.to_vec()));

/// The columns of a [`StoredEvent`] but its row: `e` may be joined and not there.
macro_rules! event_columns {
    () => {
        "e.id, e.name, e.version, e.source, e.time_us, e.key, e.traceparent, e.cause, e.data"
    };
}
pub(crate) use event_columns;

/// An event as its row has it.
#[derive(sqlx::FromRow)]
pub(crate) struct StoredEvent {
    pub(crate) seq: i64,
    /// `None`: there is no such row.
    pub(crate) id: Option<Bytes>,
    pub(crate) name: Option<Bytes>,
    pub(crate) version: Option<i64>,
    pub(crate) source: Option<Bytes>,
    pub(crate) time_us: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) traceparent: Option<Bytes>,
    pub(crate) cause: Option<Bytes>,
    pub(crate) data: Option<Bytes>,
}

/// A row that cannot be read, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// The event's row.
    pub(crate) seq: i64,
    column: &'static str,
    why: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, column, why } = self;
        write!(
            f,
            "column `{column}` of event row {seq} cannot be read: {why}"
        )
    }
}

const NOT_UTF8: &str = "not UTF-8";
const NOT_A_UUID: &str = "not a UUID of 16 bytes";
const OUT_OF_RANGE: &str = "out of range";

impl StoredEvent {
    /// No such row.
    pub(crate) fn missing(seq: i64) -> Self {
        Self {
            seq,
            id: None,
            name: None,
            version: None,
            source: None,
            time_us: None,
            key: None,
            traceparent: None,
            cause: None,
            data: None,
        }
    }

    pub(crate) fn read(self) -> Result<Envelope, Unreadable> {
        let seq = self.seq;
        let bad = |column, why| Unreadable { seq, column, why };
        let text = |column, bytes: Option<Bytes>| match bytes.map(Bytes::text) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(bad(column, NOT_UTF8)),
        };
        let id = self.id.ok_or(bad("id", "there is no such row"))?;
        let cause = match self.cause {
            Some(cause) => Some(cause.uuid().ok_or(bad("cause", NOT_A_UUID))?),
            None => None,
        };
        let version = u32::try_from(self.version.unwrap_or_default());
        let data = text("data", self.data)?.unwrap_or_default();
        Ok(Envelope {
            id: id.uuid().ok_or(bad("id", NOT_A_UUID))?,
            name: text("name", self.name)?.unwrap_or_default(),
            version: version.map_err(|_| bad("version", OUT_OF_RANGE))?,
            time: from_micros(self.time_us.unwrap_or_default()),
            source: text("source", self.source)?.unwrap_or_default(),
            key: text("key", self.key)?,
            traceparent: text("traceparent", self.traceparent)?,
            cause,
            data: RawValue::from_string(data).map_err(|_| bad("data", "not JSON"))?,
        })
    }

    /// The event as far as it can be shown: the same as [`StoredEvent::read`] if that
    /// succeeds. Payload that is not JSON is shown as a JSON string.
    pub(crate) fn shown(self) -> Envelope {
        let text = |bytes: Option<Bytes>| bytes.as_ref().map(Bytes::lossy);
        let data = text(self.data).unwrap_or_default();
        Envelope {
            id: known_or_stand_in(self.id.as_ref(), self.seq),
            name: text(self.name).unwrap_or_default(),
            version: clamped(self.version.unwrap_or_default()),
            time: from_micros(self.time_us.unwrap_or_default()),
            source: text(self.source).unwrap_or_default(),
            key: text(self.key),
            traceparent: text(self.traceparent),
            cause: self.cause.and_then(|cause| cause.uuid()),
            data: serde_json::from_str(&data).unwrap_or_else(|_| as_json_text(&data)),
        }
    }
}

/// A count as it is shown.
pub(crate) fn clamped(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

/// The first bytes of ids that stand in for one that cannot be read: `unread`.
const STAND_IN: u128 = 0x756e_7265_6164_8000_8000_0000_0000_0000;
const ROW: u128 = 0x3fff_ffff_ffff_ffff;

/// The id under which the event of a row is shown.
pub(crate) fn known_or_stand_in(id: Option<&Bytes>, seq: i64) -> Uuid {
    let known = id.and_then(Bytes::uuid);
    known.unwrap_or_else(|| Uuid::from_u128(STAND_IN | u128::from(seq.unsigned_abs()) & ROW))
}

/// The row of an event that is shown under such an id.
pub(crate) fn stands_in_for(id: Uuid) -> Option<i64> {
    let id = id.as_u128();
    (id & !ROW == STAND_IN).then(|| i64::try_from(id & ROW).ok())?
}

/// A delivery's counters: attempts and fence.
pub(crate) fn counters(seq: i64, attempts: i64, fence: i64) -> Result<(u32, i64), Unreadable> {
    let bad = |column| Unreadable {
        seq,
        column,
        why: OUT_OF_RANGE,
    };
    let attempts = u32::try_from(attempts).map_err(|_| bad("attempts, of its delivery,"))?;
    // One more is the next lease's.
    if !(0..i64::MAX).contains(&fence) {
        return Err(bad("fence, of its delivery,"));
    }
    Ok((attempts, fence))
}

/// Parks deliveries that were not leased before this transaction: as JSON arrays of row,
/// route and error, and now. Both drivers bind by number only what is written as `?1`. Numbered in both ways of binding.
pub(super) const PARK: Statement = statement!(
    "UPDATE termitary_deliveries AS d SET state = 4, reason = 'unreadable', error = ",
    [text 2],
    ", settled_us = ",
    [numbered 2],
    ", ",
    [free],
    " FROM ",
    [rows_numbered 1],
    " WHERE d.event = ",
    [int 0],
    " AND d.subscription = ",
    [int 1],
    " AND d.state <= 1"
);

/// The row of one delivery for [`PARK`]; logs it.
pub(super) fn park_row(unreadable: &Unreadable, route: i64) -> serde_json::Value {
    let error = unreadable.to_string();
    tracing::warn!(subscription.row = route, %error, "parked a delivery whose row cannot be read");
    json!([unreadable.seq, route, error])
}

/// Parks these deliveries, each an unreadable row and a route.
pub(crate) async fn park(
    conn: &mut Conn,
    deliveries: &[(Unreadable, i64)],
    now_us: i64,
) -> Result<(), Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = deliveries
        .iter()
        .map(|(unreadable, route)| park_row(unreadable, *route))
        .collect();
    sqlx::query(PARK.on(conn))
        .bind(json!(rows).to_string())
        .bind(now_us)
        .execute(conn)
        .await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn event() -> StoredEvent {
        let bytes = |text: &str| Some(Bytes(text.as_bytes().to_vec()));
        StoredEvent {
            seq: 7,
            id: Some(Bytes(Uuid::now_v7().as_bytes().to_vec())),
            name: bytes("things.made"),
            version: Some(1),
            source: bytes("/termitary/test"),
            time_us: Some(5),
            key: bytes("k"),
            traceparent: None,
            cause: None,
            data: bytes(r#"{ "n": 1.0 }"#),
        }
    }

    fn refused(spoil: impl FnOnce(&mut StoredEvent)) -> String {
        let mut event = event();
        spoil(&mut event);
        event.read().unwrap_err().to_string()
    }

    #[test]
    fn a_column_that_cannot_be_read_is_named_and_never_quoted() {
        let no_text = || Some(Bytes(b"secret \xff".to_vec()));
        let short = || Some(Bytes(vec![1, 2, 3]));
        for (column, said) in [
            ("id", refused(|e| e.id = short())),
            ("id", refused(|e| e.id = None)),
            ("name", refused(|e| e.name = no_text())),
            ("version", refused(|e| e.version = Some(1 << 32))),
            ("version", refused(|e| e.version = Some(-1))),
            ("source", refused(|e| e.source = no_text())),
            ("key", refused(|e| e.key = no_text())),
            ("traceparent", refused(|e| e.traceparent = no_text())),
            ("cause", refused(|e| e.cause = short())),
            ("data", refused(|e| e.data = no_text())),
            ("data", refused(|e| e.data = Some(Bytes(b"{".to_vec())))),
        ] {
            assert!(
                said.starts_with(&format!("column `{column}` of event row 7")),
                "{said}"
            );
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn what_is_shown_of_a_readable_row_is_all_of_it() {
        let (id, data) = (event(), event());
        let seen = StoredEvent {
            id: id.id.clone(),
            ..data
        };
        let read = StoredEvent {
            id: id.id,
            ..event()
        }
        .read()
        .unwrap();
        assert_eq!(format!("{:?}", seen.shown()), format!("{read:?}"));
    }

    #[test]
    fn an_id_that_cannot_be_read_has_a_stand_in_that_names_its_row() {
        let short = Bytes(vec![1]);
        let id = known_or_stand_in(Some(&short), 7);
        assert_eq!(id.to_string(), "756e7265-6164-8000-8000-000000000007");
        assert_eq!(stands_in_for(id), Some(7));
        assert_eq!(stands_in_for(Uuid::now_v7()), None);
        assert_eq!(
            stands_in_for(known_or_stand_in(None, i64::MAX >> 2)),
            Some(i64::MAX >> 2)
        );
    }

    #[test]
    fn counters_leave_room_for_the_next_lease() {
        assert_eq!(counters(1, 3, 4), Ok((3, 4)));
        for (attempts, fence) in [(-1, 0), (1 << 32, 0), (0, -1), (0, i64::MAX)] {
            assert!(counters(1, attempts, fence).is_err());
        }
    }
}
