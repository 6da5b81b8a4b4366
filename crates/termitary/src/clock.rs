//! Time, ids and randomness come from one place, so that a test can control all three.

use std::fmt;
#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

#[cfg(feature = "testing")]
use crate::lock::Mutex;

/// The source of time, new ids and jitter.
///
/// Cheap to clone; clones of a manual clock share its time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    #[cfg(feature = "testing")]
    Manual(Arc<Mutex<Manual>>),
}

#[cfg(feature = "testing")]
struct Manual {
    now: Timestamp,
    random: fastrand::Rng,
}

impl Clock {
    /// The machine's clock and the system's randomness.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`], with ids and jitter derived from
    /// `seed`.
    #[cfg(feature = "testing")]
    pub fn manual(start: Timestamp, seed: u64) -> Self {
        let manual = Manual {
            now: start,
            random: fastrand::Rng::with_seed(seed),
        };
        Self(Source::Manual(Arc::new(Mutex::new(manual))))
    }

    /// Moves a manual clock forward. Does nothing to the system clock.
    #[cfg(feature = "testing")]
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let mut manual = manual.lock();
            manual.now = later(manual.now, by);
        }
    }

    /// Sets a manual clock, forward or back.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn set(&self, now: Timestamp) {
        if let Source::Manual(manual) = &self.0 {
            manual.lock().now = now;
        }
    }

    /// The current time, in whole microseconds.
    pub fn now(&self) -> Timestamp {
        from_micros(match &self.0 {
            Source::System => Timestamp::now().as_microsecond(),
            #[cfg(feature = "testing")]
            Source::Manual(manual) => manual.lock().now.as_microsecond(),
        })
    }

    pub(crate) fn now_us(&self) -> i64 {
        self.now().as_microsecond()
    }

    /// A new UUIDv7.
    pub fn new_id(&self) -> Uuid {
        match &self.0 {
            Source::System => {
                let millis = Timestamp::now().as_millisecond();
                uuid::Builder::from_unix_timestamp_millis(millis as u64, &entropy::ten_bytes())
                    .into_uuid()
            }
            #[cfg(feature = "testing")]
            Source::Manual(manual) => {
                let mut manual = manual.lock();
                let millis = u64::try_from(manual.now.as_millisecond()).unwrap_or_default();
                let mut random = [0; 10];
                manual.random.fill(&mut random);
                uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
            }
        }
    }

    /// A number in `[0, 1)`, for jitter.
    pub(crate) fn random(&self) -> f64 {
        match &self.0 {
            Source::System => fastrand::f64(),
            #[cfg(feature = "testing")]
            Source::Manual(manual) => manual.lock().random.f64(),
        }
    }

    /// Returns whether time moves only on command: a wait for a due time must then check again
    /// instead of sleeping until it.
    pub(crate) fn is_manual(&self) -> bool {
        !matches!(self.0, Source::System)
    }
}

/// Randomness of the system, fetched for many ids at once: one call for each id would cost
/// more than the rest of making it.
mod entropy {
    use std::cell::RefCell;

    const BYTES: usize = 640;

    struct Stock {
        bytes: [u8; BYTES],
        used: usize,
    }

    thread_local! {
        static STOCK: RefCell<Stock> = const {
            RefCell::new(Stock { bytes: [0; BYTES], used: BYTES })
        };
    }

    pub(super) fn ten_bytes() -> [u8; 10] {
        STOCK.with_borrow_mut(|stock| {
            if stock.used == BYTES {
                fill(&mut stock.bytes);
                stock.used = 0;
            }
            let mut ten = [0; 10];
            ten.copy_from_slice(&stock.bytes[stock.used..stock.used + 10]);
            stock.used += 10;
            ten
        })
    }

    fn fill(bytes: &mut [u8; BYTES]) {
        if getrandom::fill(bytes).is_err() {
            // A system without randomness: ids are still unique within this process.
            fastrand::fill(bytes);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Source::System => "system",
            #[cfg(feature = "testing")]
            Source::Manual(_) => "manual",
        };
        write!(f, "Clock({name}, {})", self.now())
    }
}

/// `time` plus `by`, at most the last instant that can be represented.
pub(crate) fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The instant of a stored number of microseconds since 1970, clamped to the range of
/// timestamps.
pub(crate) fn from_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// `n` hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

/// `n` days of 24 hours.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

/// The current time by a monotonic clock, which no change of the wall clock affects.
pub(crate) fn forward() -> std::time::Instant {
    let now = std::time::Instant::now();
    #[cfg(test)]
    let now = now + ahead::get();
    now
}

/// Time that the simulation adds to the monotonic clock of its thread.
#[cfg(test)]
pub(crate) mod ahead {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(crate) fn advance(by: Duration) {
        AHEAD.set(AHEAD.get() + by);
    }

    pub(crate) fn get() -> Duration {
        AHEAD.get()
    }
}
