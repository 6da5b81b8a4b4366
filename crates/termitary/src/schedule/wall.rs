//! jiff's times as croner's search sees them.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, ZonedDateTime};

/// An instant and the time that the hands of the clock show then in its zone.
#[derive(Clone)]
pub(super) struct Zoned(pub(super) ZonedDateTime);

impl CronDateTime for Zoned {
    fn to_civil(&self) -> CivilDateTime {
        civil(self.0.datetime())
    }

    fn civil_weekday(&self) -> Weekday {
        weekday(self.0.weekday())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let ambiguous = self
            .0
            .time_zone()
            .to_ambiguous_zoned_datetime(datetime(civil)?);
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

/// The reading of a clock that nobody ever changes.
#[derive(Clone)]
pub(super) struct Hands(pub(super) DateTime);

impl CronDateTime for Hands {
    fn to_civil(&self) -> CivilDateTime {
        civil(self.0)
    }

    fn civil_weekday(&self) -> Weekday {
        weekday(self.0.weekday())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        Ok(Resolution::Single(Self(datetime(civil)?)))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0
            .checked_add(SignedDuration::from_secs(seconds))
            .ok()
            .map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

fn civil(d: DateTime) -> CivilDateTime {
    let date = CivilDate::from_ymd_opt(i32::from(d.year()), d.month() as u32, d.day() as u32);
    let time = CivilTime::from_hms_opt(d.hour() as u32, d.minute() as u32, d.second() as u32);
    match (date, time) {
        (Some(date), Some(time)) => CivilDateTime::new(date, time),
        // jiff holds only dates and times that exist.
        _ => unreachable!("jiff named a date or time that does not exist: {d}"),
    }
}

fn weekday(weekday: jiff::civil::Weekday) -> Weekday {
    Weekday::from_days_from_sunday(weekday.to_sunday_zero_offset() as u32)
}

fn datetime(civil: CivilDateTime) -> Result<DateTime, CronError> {
    DateTime::new(
        i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?,
        civil.month() as i8,
        civil.day() as i8,
        civil.hour() as i8,
        civil.minute() as i8,
        civil.second() as i8,
        0,
    )
    .map_err(|_| CronError::InvalidDate)
}
