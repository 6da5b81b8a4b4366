//! The security log: one line for each failed login, reached limit, refusal, change of a
//! role or a password, and ended session, with the source and the user's id. No line
//! contains an e-mail address, a name, a password or a token.
//!
//! An attack cannot fill the disk: the lines of each network and of all together are
//! limited per minute, and the log counts the lines that it omits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use termitary::clock::Clock;
use uuid::Uuid;

use crate::network::network;

/// The lines of one network in a minute.
const PER_SOURCE: u32 = 20;
/// The lines of all networks in a minute.
const TOGETHER: u32 = 600;
const MINUTE_US: i64 = 60_000_000;
/// The networks that are counted separately; further ones share the lines of all.
const SOURCES: usize = 4_096;

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The address or the password was wrong.
    LoginFailed,
    /// The current password of a user with a session was wrong.
    PasswordRefused,
    /// Too many attempts: 429.
    LimitHit,
    /// An invalid token (401), or a forbidden request (403).
    Refused,
    RoleChanged,
    PasswordChanged,
    SessionEnded,
    /// A user requested another address.
    AddressChangeRequested,
    AccountDeleted,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::LoginFailed => "login_failed",
            Self::PasswordRefused => "password_refused",
            Self::LimitHit => "limit_hit",
            Self::Refused => "refused",
            Self::RoleChanged => "role_changed",
            Self::PasswordChanged => "password_changed",
            Self::SessionEnded => "session_ended",
            Self::AddressChangeRequested => "address_change_requested",
            Self::AccountDeleted => "account_deleted",
        }
    }

    /// Returns true for a permitted change.
    fn is_change(self) -> bool {
        matches!(
            self,
            Self::RoleChanged
                | Self::PasswordChanged
                | Self::SessionEnded
                | Self::AddressChangeRequested
                | Self::AccountDeleted
        )
    }
}

/// A line to write.
pub(crate) struct Note {
    event: Event,
    source: IpAddr,
    user: Option<Uuid>,
    actor: Option<Uuid>,
    detail: Option<String>,
}

impl Note {
    pub(crate) fn new(event: Event, source: IpAddr) -> Self {
        Self {
            event,
            source,
            user: None,
            actor: None,
            detail: None,
        }
    }

    /// The user whom it is about.
    pub(crate) fn user(mut self, user: impl Into<Option<Uuid>>) -> Self {
        self.user = user.into();
        self
    }

    /// The user who did it.
    pub(crate) fn actor(mut self, actor: Uuid) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Further details, in words of this program.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Writes the line, unless too many were written in this minute.
    pub(crate) fn log(self, log: &Log) {
        let now_us = log.clock.now().as_microsecond();
        let (admitted, left_out) = log.admit(&network(self.source), now_us);
        for (network, lines) in left_out {
            tracing::warn!(
                security.event = "suppressed",
                source.network = network,
                lines,
                "lines of the security log were omitted in the last minute"
            );
        }
        if !admitted {
            return;
        }
        let id = |id: Option<Uuid>| id.map(tracing::field::display);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    security.event = self.event.name(),
                    source.ip = %self.source,
                    user.id = id(self.user),
                    actor.id = id(self.actor),
                    detail = self.detail,
                    "security"
                )
            };
        }
        if self.event.is_change() {
            line!(info);
        } else {
            line!(warn);
        }
    }
}

/// Counts the lines of the present minute.
pub(crate) struct Log {
    clock: Clock,
    minute: Mutex<Minute>,
}

#[derive(Default)]
struct Minute {
    began_us: i64,
    together: Lines,
    sources: HashMap<String, Lines>,
}

#[derive(Clone, Copy, Default)]
struct Lines {
    written: u32,
    left_out: u64,
}

impl Log {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            minute: Mutex::default(),
        }
    }

    /// Returns true if a line of this network may be written; and, when a minute is over,
    /// the number of omitted lines per network.
    fn admit(&self, network: &str, now_us: i64) -> (bool, Vec<(String, u64)>) {
        let mut minute = self.lock();
        let left_out = minute.turn(now_us);
        (minute.admit(network), left_out)
    }

    fn lock(&self) -> MutexGuard<'_, Minute> {
        // No change can panic halfway.
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Minute {
    fn turn(&mut self, now_us: i64) -> Vec<(String, u64)> {
        let age_us = now_us - self.began_us;
        // A clock that went back starts a new minute too.
        if (0..MINUTE_US).contains(&age_us) {
            return Vec::new();
        }
        let over = std::mem::replace(
            self,
            Self {
                began_us: now_us,
                ..Self::default()
            },
        );
        let apart = over.sources.into_iter();
        apart
            .chain([("all others".to_owned(), over.together)])
            .filter(|(_, lines)| lines.left_out > 0)
            .map(|(network, lines)| (network, lines.left_out))
            .collect()
    }

    fn admit(&mut self, network: &str) -> bool {
        if self.together.written >= TOGETHER {
            self.together.left_out += 1;
            return false;
        }
        if let Some(lines) = self.sources.get_mut(network) {
            if lines.written >= PER_SOURCE {
                lines.left_out += 1;
                return false;
            }
            lines.written += 1;
        } else if self.sources.len() < SOURCES {
            let lines = Lines {
                written: 1,
                left_out: 0,
            };
            self.sources.insert(network.to_owned(), lines);
        }
        self.together.written += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(log: &Log, network: &str, times: usize, now_us: i64) -> usize {
        (0..times).filter(|_| log.admit(network, now_us).0).count()
    }

    #[test]
    fn one_network_cannot_fill_the_log_and_is_counted() {
        let log = Log::new(Clock::system());
        let now_us = 7 * MINUTE_US;
        assert_eq!(admitted(&log, "192.0.2.1", 100, now_us), 20);
        assert_eq!(admitted(&log, "192.0.2.2", 1, now_us), 1);
        let (admitted, left_out) = log.admit("192.0.2.2", now_us + MINUTE_US);
        assert!(admitted);
        assert_eq!(left_out, [("192.0.2.1".to_owned(), 80)]);
        let (_, left_out) = log.admit("192.0.2.2", now_us + MINUTE_US);
        assert_eq!(left_out, []);
    }

    #[test]
    fn a_hundred_thousand_networks_cannot_either() {
        let log = Log::new(Clock::system());
        let now_us = 7 * MINUTE_US;
        let lines: usize = (0..100_000)
            .map(|n| admitted(&log, &format!("2001:db8:0:{n:x}::/64"), 1, now_us))
            .sum();
        assert_eq!(lines, 600);
        let (_, left_out) = log.admit("192.0.2.2", now_us + MINUTE_US);
        assert_eq!(left_out, [("all others".to_owned(), 99_400)]);
    }

    #[test]
    fn a_clock_that_goes_back_begins_another_minute() {
        let log = Log::new(Clock::system());
        admitted(&log, "192.0.2.1", 100, 7 * MINUTE_US);
        assert_eq!(admitted(&log, "192.0.2.1", 1, 3 * MINUTE_US), 1);
    }
}
