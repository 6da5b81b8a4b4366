//! A second implementation of cron rules, written to be obvious and slow: it
//! walks every minute and every civil day. The fast one must agree with it.

use std::collections::BTreeSet;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::Rule;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Sets of values, one per field: minute, hour, day, month, weekday.
#[derive(Clone, Debug)]
struct Plain {
    fields: [BTreeSet<u8>; 5],
    /// Both day fields are restricted: cron then takes either.
    either_day: bool,
    /// `*` or `*/n` in the hour field: real time, not the hands of the clock.
    follows_real_time: bool,
}

impl Plain {
    fn parse(text: &str) -> Self {
        const RANGES: [(u8, u8); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
        let parts: Vec<&str> = text.split(' ').collect();
        let fields = std::array::from_fn(|i| values(parts[i], RANGES[i]));
        Self {
            fields,
            either_day: parts[2] != "*" && parts[4] != "*",
            follows_real_time: parts[1].contains('*'),
        }
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.fields[2].contains(&(date.day() as u8));
        let weekday = self.fields[4].contains(&(date.weekday().to_sunday_zero_offset() as u8));
        let month = self.fields[3].contains(&(date.month() as u8));
        month
            && if self.either_day {
                day || weekday
            } else {
                day && weekday
            }
    }

    fn has_time(&self, at: DateTime) -> bool {
        self.has_day(at.date())
            && self.fields[1].contains(&(at.hour() as u8))
            && self.fields[0].contains(&(at.minute() as u8))
    }

    /// Every instant in `(from, until]`.
    fn instants(&self, zone: &TimeZone, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let all = if self.follows_real_time {
            self.by_real_time(zone, from, until)
        } else {
            self.by_the_hands(zone, from, until)
        };
        all.into_iter()
            .filter(|&at| at > from && at <= until)
            .collect()
    }

    fn by_real_time(
        &self,
        zone: &TimeZone,
        from: Timestamp,
        until: Timestamp,
    ) -> BTreeSet<Timestamp> {
        minutes(from, until)
            .filter(|&at| self.has_time(zone.to_datetime(at)))
            .collect()
    }

    /// Each time of each day once: at its first occurrence, or right after the
    /// gap that swallowed it.
    fn by_the_hands(
        &self,
        zone: &TimeZone,
        from: Timestamp,
        until: Timestamp,
    ) -> BTreeSet<Timestamp> {
        let mut found = BTreeSet::new();
        let last = zone.to_datetime(until).date().tomorrow().unwrap();
        let mut date = zone.to_datetime(from).date().yesterday().unwrap();
        while date <= last {
            if self.has_day(date) {
                for &hour in &self.fields[1] {
                    for &minute in &self.fields[0] {
                        let at = date.at(hour as i8, minute as i8, 0, 0);
                        found.extend(first_occurrence(zone, at));
                    }
                }
            }
            date = date.tomorrow().unwrap();
        }
        found
    }
}

fn first_occurrence(zone: &TimeZone, at: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } => {
            // The transition itself, found the slow way; a whole day that a
            // zone left out has no instants at all.
            let later = ambiguous.later().unwrap();
            let after = (0..=26 * 60)
                .map(|n| later - MINUTE * n)
                .take_while(|&t| zone.to_datetime(t) > at)
                .last();
            let left_out = zone
                .to_datetime(later)
                .date()
                .since(at.date())
                .is_ok_and(|span| span.get_days() > 0);
            after.filter(|_| !left_out)
        }
        _ => ambiguous.earlier().ok(),
    }
}

fn minutes(from: Timestamp, until: Timestamp) -> impl Iterator<Item = Timestamp> {
    let start = from.as_second().div_euclid(60) * 60;
    (start..=until.as_second())
        .step_by(60)
        .map(|second| Timestamp::from_second(second).unwrap())
}

/// `*`, `*/n`, `a`, `a-b`, `a-b/n` and lists of them.
fn values(field: &str, (low, high): (u8, u8)) -> BTreeSet<u8> {
    let mut all = BTreeSet::new();
    for part in field.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        all.extend((from..=to).step_by(step.parse().unwrap()));
    }
    all
}

/// Instants around clock changes: by an hour, by half an hour, by a whole day, and none.
const PLACES: &[(&str, &str)] = &[
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Pacific/Apia", "2011-09-24T11:00:00Z"),
    ("Africa/Casablanca", "2026-03-22T02:00:00Z"),
    ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
    ("UTC", "2028-02-28T23:30:00Z"),
];

fn field(low: u8, high: u8) -> impl Strategy<Value = String> {
    let value = low..=high;
    prop_oneof![
        3 => Just("*".to_owned()),
        4 => value.clone().prop_map(|n| n.to_string()),
        2 => (2..=12.min(high - low + 1)).prop_map(|n| format!("*/{n}")),
        1 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), value).prop_map(|(a, b)| format!("{a},{b}")),
    ]
}

/// Mostly in the small hours, where clocks are changed.
fn hours() -> impl Strategy<Value = String> {
    prop_oneof![field(0, 23), (0..=4u8).prop_map(|n| n.to_string())]
}

fn rules() -> impl Strategy<Value = String> {
    let day = prop_oneof![3 => Just("*".to_owned()), 1 => field(1, 31)];
    let month = prop_oneof![6 => Just("*".to_owned()), 1 => field(1, 12)];
    let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => field(0, 6)];
    (field(0, 59), hours(), day, month, weekday).prop_map(|(minute, hour, day, month, weekday)| {
        format!("{minute} {hour} {day} {month} {weekday}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_implementations_of_cron_agree_wherever_clocks_change(
        text in rules(),
        place in 0..PLACES.len(),
        offset_minutes in -36 * 60..12 * 60i64,
    ) {
        let (name, transition) = PLACES[place];
        let zone = TimeZone::get(name).unwrap();
        let transition: Timestamp = transition.parse().unwrap();
        let from = transition + SignedDuration::from_mins(offset_minutes) + SignedDuration::from_secs(17);
        let until = from + SignedDuration::from_hours(2 * 24);
        let expected = Plain::parse(&text).instants(&zone, from, until);

        let Ok(rule) = Rule::parse(&text, name) else {
            prop_assert!(expected.is_empty(), "{} has instants", &text);
            return Ok(());
        };
        let mut forward = Vec::new();
        let mut at = from;
        while let Some(next) = rule.next_after(at).filter(|&next| next <= until) {
            prop_assert!(next > at, "{} in {}: {} comes after {}", &text, name, next, at);
            forward.push(next);
            at = next;
        }
        prop_assert_eq!(&forward, &expected, "{} in {} after {}", &text, name, from);

        let mut backward = Vec::new();
        let mut at = until;
        while let Some(last) = rule.last_until(at).filter(|&last| last > from) {
            prop_assert!(last <= at, "{} in {}: {} comes before {}", &text, name, last, at);
            backward.push(last);
            at = last - SignedDuration::from_micros(1);
        }
        backward.reverse();
        prop_assert_eq!(&backward, &expected, "backwards, {} in {} before {}", &text, name, until);
    }
}
