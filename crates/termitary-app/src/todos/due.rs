//! The due date of a todo: a time to the microsecond, up to the end of the year 9999,
//! read from ISO 8601.

use std::fmt;

use jiff::civil::{Date, DateTime, date};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970 in UTC. `Timestamp` ends on 9999-12-30, a day before the date
/// that people write for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(i64);

impl Due {
    pub(super) const fn from_microsecond(micros: i64) -> Self {
        Self(micros)
    }

    pub(super) const fn as_microsecond(self) -> i64 {
        self.0
    }

    fn of_timestamp(instant: Timestamp) -> Self {
        Self(instant.as_microsecond())
    }

    /// The due date of a civil time in UTC.
    fn of_utc(civil: DateTime) -> Self {
        let since = civil.duration_since(EPOCH);
        Self(since.as_micros() as i64)
    }

    /// Parses a date, a time in UTC, a time with an offset, or a time with a zone in
    /// brackets.
    fn parse(text: &str) -> Option<Self> {
        // Other parsers ignore the brackets, and with them the zone.
        if text.contains('[') {
            return text
                .parse::<ZonedDateTime>()
                .ok()
                .map(|zoned| Self::of_timestamp(zoned.timestamp()));
        }
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Some(Self::of_timestamp(instant));
        }
        if text.len() == "2026-12-24".len() {
            return Some(Self::of_utc(text.parse::<Date>().ok()?.at(0, 0, 0, 0)));
        }
        // A zero offset may exceed the range of `Timestamp`.
        let civil = text
            .strip_suffix(['Z', 'z'])
            .or_else(|| text.strip_suffix("+00:00"))
            .unwrap_or(text);
        // `Timestamp` refused any other offset.
        if has_offset(civil) {
            return None;
        }
        civil.parse::<DateTime>().ok().map(Self::of_utc)
    }
}

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// Returns true if an offset follows the date.
fn has_offset(text: &str) -> bool {
    text.get("2026-12-24".len()..)
        .is_some_and(|time| time.contains(['+', '-', 'Z', 'z']))
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(instant) = Timestamp::from_microsecond(self.0) {
            return write!(f, "{instant}");
        }
        let civil = EPOCH.saturating_add(SignedDuration::from_micros(self.0));
        write!(f, "{civil}Z")
    }
}

impl Serialize for Due {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Due {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(
                "not an ISO 8601 time such as 2026-12-24, 2026-12-24T18:00:00Z, 2026-12-24T18:00:00+01:00 or 2026-12-24T18:00:00[Europe/Berlin]",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        Due::parse(text).map(|due| due.to_string())
    }

    #[test]
    fn due_dates_are_read_with_and_without_time_and_offset() {
        for (text, instant) in [
            ("2026-12-24T18:00:00Z", "2026-12-24T18:00:00Z"),
            ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"),
            ("2026-12-24", "2026-12-24T00:00:00Z"),
            ("2026-12-24T18:00:00", "2026-12-24T18:00:00Z"),
            (
                "2026-12-24T18:00:00.123456789Z",
                "2026-12-24T18:00:00.123456Z",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Some(instant), "{text}");
        }
        for bad in [
            "",
            "tomorrow",
            "2026-13-01",
            "2026-12-24T25:00:00Z",
            "2026-12-24T18:00:00+99:00",
            "1766599200",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_zone_in_brackets_is_honoured_and_a_wrong_one_refused() {
        for (text, instant) in [
            ("2026-12-24T18:00:00[Europe/Berlin]", "2026-12-24T17:00:00Z"),
            ("2026-07-24T18:00:00[Europe/Berlin]", "2026-07-24T16:00:00Z"),
            (
                "2026-12-24T18:00:00+01:00[Europe/Berlin]",
                "2026-12-24T17:00:00Z",
            ),
            ("2026-12-24[America/New_York]", "2026-12-24T05:00:00Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(instant), "{text}");
        }
        for bad in [
            "2026-12-24T18:00:00[Europe/Nowhere]",
            // The offset is not that of the zone on that day.
            "2026-12-24T18:00:00+02:00[Europe/Berlin]",
            "2026-12-24T18:00:00[",
            "2026-12-24T18:00:00[]",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_day_that_can_be_written_is_a_due_date() {
        for (text, instant) in [
            ("9999-12-31", "9999-12-31T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(instant), "{text}");
            let due = Due::parse(text).map(Due::as_microsecond);
            let again = due.map(|micros| Due::from_microsecond(micros).to_string());
            assert_eq!(again.as_deref(), Some(instant));
        }
        assert_eq!(read("9999-12-31T23:59:59-05:00"), None, "in the year 10000");
    }
}
