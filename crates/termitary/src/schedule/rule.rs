//! A cron expression in a time zone: which instant comes next.
//!
//! Daylight saving follows croner's rules: a fixed hour in a gap fires at the
//! first instant after it, in an overlap at the first occurrence only; `*` or
//! `/n` in the hour field follows real time.

use std::cmp::Ordering;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// A parsed rule.
pub(crate) struct Rule {
    cron: Cron,
    timezone: TimeZone,
}

impl Rule {
    pub(crate) fn parse(cron: &str, timezone: &str) -> Result<Self, String> {
        let parsed = CronParser::builder()
            .seconds(Seconds::Optional)
            .build()
            .parse(cron)
            .map_err(|error| format!("`{cron}` is not a cron expression ({error}): five fields, minute hour day month weekday, or six with seconds first"))?;
        let timezone = TimeZone::get(timezone).map_err(|_| {
            format!("`{timezone}` is not an IANA time zone such as UTC or Europe/Berlin")
        })?;
        Ok(Self {
            cron: parsed,
            timezone,
        })
    }

    /// The first instant of the rule after `instant`, if there is any.
    pub(crate) fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        self.search(instant, false, 1)
    }

    /// The last instant of the rule at or before `instant`, if there is any.
    pub(crate) fn last_until(&self, instant: Timestamp) -> Option<Timestamp> {
        self.search(instant, true, -1)
    }

    /// croner gives up on a gap of more than two hours. The only such gaps are
    /// calendar days that a zone left out (Apia, 2011-12-30): those have no
    /// instants, so the search goes on hour by hour beyond them.
    fn search(&self, from: Timestamp, inclusive: bool, direction: i64) -> Option<Timestamp> {
        for hours in 0..=LONGEST_GAP_HOURS {
            let start = from
                .checked_add(SignedDuration::from_hours(direction * hours))
                .ok()?;
            let start = Civil(start.to_zoned_datetime(self.timezone.clone()));
            let inclusive = inclusive || hours > 0;
            let found = if direction > 0 {
                self.cron.find_next_occurrence(&start, inclusive)
            } else {
                self.cron.find_previous_occurrence(&start, inclusive)
            };
            if let Ok(found) = found {
                return Some(found.0.timestamp());
            }
        }
        None
    }
}

const LONGEST_GAP_HOURS: i64 = 49;

/// Connects jiff's time zones to croner.
#[derive(Clone)]
struct Civil(ZonedDateTime);

impl CronDateTime for Civil {
    fn to_civil(&self) -> CivilDateTime {
        let d = self.0.datetime();
        let date = CivilDate::from_ymd_opt(i32::from(d.year()), d.month() as u32, d.day() as u32);
        let time = CivilTime::from_hms_opt(d.hour() as u32, d.minute() as u32, d.second() as u32);
        match (date, time) {
            (Some(date), Some(time)) => CivilDateTime::new(date, time),
            // jiff holds only dates and times that exist.
            _ => unreachable!("jiff named a date or time that does not exist: {d}"),
        }
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().to_sunday_zero_offset() as u32)
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let datetime = DateTime::new(
            i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?,
            civil.month() as i8,
            civil.day() as i8,
            civil.hour() as i8,
            civil.minute() as i8,
            civil.second() as i8,
            0,
        )
        .map_err(|_| CronError::InvalidDate)?;
        let ambiguous = self.0.time_zone().to_ambiguous_zoned_datetime(datetime);
        let invalid = |_| CronError::InvalidTime;
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                Resolution::Single(Self(ambiguous.unambiguous().map_err(invalid)?))
            }
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(
                Self(ambiguous.clone().earlier().map_err(invalid)?),
                Self(ambiguous.later().map_err(invalid)?),
            ),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0
            .checked_add(SignedDuration::from_secs(seconds))
            .ok()
            .map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Zone, rule, start, and the instants that follow, in UTC. By hand from
    /// the zones' published transitions.
    const GOLDEN: &[(&str, &str, &str, &[&str])] = &[
        // Berlin, 2026-03-29: 02:00 → 03:00; a fixed 02:30 fires at 03:00.
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        // Berlin, 2026-10-25: 03:00 → 02:00; a fixed 02:30 fires once, first.
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        // An hourly rule runs in both of the doubled hours.
        (
            "Europe/Berlin",
            "0 * * * *",
            "2026-10-24T23:30:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
            ],
        ),
        // New York, 2026-03-08: gap from 02:00 to 03:00.
        (
            "America/New_York",
            "15 2 * * *",
            "2026-03-07T12:00:00Z",
            &["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"],
        ),
        // Lord Howe, 2026-10-04: a gap of only 30 minutes, 02:00 to 02:30.
        (
            "Australia/Lord_Howe",
            "10 2 * * *",
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"],
        ),
        // Apia had no 2011-12-30: the daily noon moves over it.
        (
            "Pacific/Apia",
            "0 12 * * *",
            "2011-12-29T00:00:00Z",
            &["2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z"],
        ),
        (
            "UTC",
            "0 0 29 2 *",
            "2026-01-01T00:00:00Z",
            &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        ),
    ];

    #[test]
    fn instants_follow_the_golden_table_over_gaps_and_overlaps() {
        for (zone, cron, start, expected) in GOLDEN {
            let rule = Rule::parse(cron, zone).unwrap_or_else(|error| panic!("{error}"));
            let mut at: Timestamp = start.parse().unwrap_or_else(|error| panic!("{error}"));
            for want in *expected {
                let next = rule.next_after(at).map(|next| next.to_string());
                assert_eq!(next.as_deref(), Some(*want), "{zone} {cron} after {at}");
                at = want.parse().unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn a_bad_rule_is_named_with_the_way_out() {
        let error = Rule::parse("61 * * * *", "UTC").err().unwrap_or_default();
        assert!(
            error.contains("61 * * * *") && error.contains("five fields"),
            "{error}"
        );
        let error = Rule::parse("* * * * *", "Berlin").err().unwrap_or_default();
        assert!(
            error.contains("`Berlin`") && error.contains("Europe/Berlin"),
            "{error}"
        );
    }
}
