//! A cron expression in a time zone: which instant comes next.
//!
//! Daylight saving: with `*` or `*/n` in the hour field a rule follows real
//! time, so that both hours of an overlap run and a gap has none. With fixed
//! hours it follows the hands of the clock: a time in a gap fires at the first
//! instant after it, a time in an overlap at its first occurrence only.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::steps;
use super::wall::{Hands, Zoned};
use crate::clock::from_micros;

/// A parsed rule.
pub(crate) struct Rule {
    cron: Cron,
    timezone: TimeZone,
}

impl Rule {
    pub(crate) fn parse(cron: &str, timezone: &str) -> Result<Self, String> {
        let parsed = CronParser::builder()
            .seconds(Seconds::Optional)
            // A rule for a year that is over would never fire.
            .year(Year::Disallowed)
            .build()
            .parse(cron)
            .map_err(|error| format!("`{cron}` is not a cron expression ({error}): five fields, minute hour day month weekday, or six with seconds first"))?;
        steps::check(cron).map_err(|mistake| format!("`{cron}`: {mistake}"))?;
        let timezone = TimeZone::get(timezone).map_err(|_| {
            format!("`{timezone}` is not an IANA time zone such as UTC or Europe/Berlin")
        })?;
        let rule = Self {
            cron: parsed,
            timezone,
        };
        match rule.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(rule),
            None => Err(format!(
                "`{cron}` never comes due: no month that it names has such a day"
            )),
        }
    }

    fn follows_real_time(&self) -> bool {
        self.cron.pattern.hours.from_wildcard
    }

    /// In whole seconds: croner's backward search would return an instant after one with a fraction
    /// of a second, if the clock shows it a second time.
    fn zoned(&self, instant: Timestamp) -> Zoned {
        let seconds = instant.as_microsecond().div_euclid(1_000_000);
        Zoned(
            from_micros(seconds.saturating_mul(1_000_000)).to_zoned_datetime(self.timezone.clone()),
        )
    }

    /// The first instant of the rule after `instant`, if there is any.
    pub(crate) fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        if self.follows_real_time() {
            let from = self.zoned(instant);
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            return Some(next.0.timestamp());
        }
        let mut hands = self.timezone.to_datetime(instant);
        loop {
            // Times fire in the order of the hands: the first that is later is next.
            hands = self.cron.find_next_occurrence(&Hands(hands), false).ok()?.0;
            match self.first_occurrence(hands) {
                Some(at) if at > instant => return Some(at),
                _ => {}
            }
        }
    }

    /// The last instant of the rule at or before `instant`, if there is any.
    pub(crate) fn last_until(&self, instant: Timestamp) -> Option<Timestamp> {
        if self.follows_real_time() {
            let from = self.zoned(instant);
            let last = self.cron.find_previous_occurrence(&from, true).ok()?;
            return Some(last.0.timestamp());
        }
        let mut hands = self.latest_hands(instant)?;
        let mut inclusive = true;
        loop {
            hands = self
                .cron
                .find_previous_occurrence(&Hands(hands), inclusive)
                .ok()?
                .0;
            inclusive = false;
            match self.first_occurrence(hands) {
                Some(at) if at <= instant => return Some(at),
                _ => {}
            }
        }
    }

    /// The latest local time whose first occurrence may be at or before `instant`: in an overlap
    /// the clock has already shown later times.
    fn latest_hands(&self, instant: Timestamp) -> Option<DateTime> {
        let hands = self.timezone.to_datetime(instant);
        match self.timezone.to_ambiguous_timestamp(hands).offset() {
            AmbiguousOffset::Fold { .. } => hands.checked_add(LONGEST_OVERLAP).ok(),
            _ => Some(hands),
        }
    }

    /// When the hands first show this time, or the end of the gap that
    /// swallowed it. `None`: a zone left the whole day out (Apia, 2011-12-30).
    fn first_occurrence(&self, hands: DateTime) -> Option<Timestamp> {
        let ambiguous = self.timezone.to_ambiguous_timestamp(hands);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { before, after } => {
                let gap = after.seconds() - before.seconds();
                let earlier = ambiguous.earlier().ok()?;
                let end = self.timezone.following(earlier).next()?.timestamp();
                (gap < SECONDS_OF_A_DAY).then_some(end)
            }
            _ => ambiguous.earlier().ok(),
        }
    }
}

const SECONDS_OF_A_DAY: i32 = 86_400;
const LONGEST_OVERLAP: SignedDuration = SignedDuration::from_hours(25);

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
        // A fixed hour with a star among its minutes is still a fixed hour.
        (
            "Europe/Berlin",
            "*/20 2 * * *",
            "2026-10-24T12:00:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:20:00Z",
                "2026-10-25T00:40:00Z",
                "2026-10-26T01:00:00Z",
            ],
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
    fn looking_back_never_answers_with_an_instant_to_come() {
        let rule = Rule::parse("0 * * * *", "Europe/Berlin").unwrap_or_else(|e| panic!("{e}"));
        // The hands show 02:00 for the second time; a microsecond before.
        let before: Timestamp = "2026-10-25T00:59:59.999999Z"
            .parse()
            .unwrap_or_else(|error| panic!("{error}"));
        let last = rule.last_until(before).map(|last| last.to_string());
        assert_eq!(last.as_deref(), Some("2026-10-25T00:00:00Z"));
    }

    #[test]
    fn a_rule_that_never_comes_due_is_refused() {
        for cron in [
            "0 0 30 2 *",
            "0 0 31 2,4,6,9,11 *",
            "0 , * * *",
            "0 0 0 1 1 * 2020",
            "0 0 0 1 1 * 2999",
        ] {
            assert!(Rule::parse(cron, "Europe/Berlin").is_err(), "{cron}");
        }
    }

    #[test]
    fn a_bad_rule_is_named_with_the_way_out() {
        let error = Rule::parse("61 * * * *", "UTC").err().unwrap_or_default();
        assert!(
            error.contains("61 * * * *") && error.contains("five fields"),
            "{error}"
        );
        let error = Rule::parse("0 0 30 2 *", "UTC").err().unwrap_or_default();
        assert!(error.contains("never comes due"), "{error}");
        let error = Rule::parse("*/90 * * * *", "UTC").err().unwrap_or_default();
        assert!(
            error.contains("`*/90 * * * *`") && error.contains("minute"),
            "{error}"
        );
        let error = Rule::parse("* * * * *", "Berlin").err().unwrap_or_default();
        assert!(
            error.contains("`Berlin`") && error.contains("Europe/Berlin"),
            "{error}"
        );
    }
}
