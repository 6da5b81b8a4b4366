//! One opaque error. Its predicates say what a caller can do about it.

use std::fmt;

/// Any failure of this crate, outside a handler's own code.
///
/// The text of an error does not repeat that of its source: print the whole chain to see
/// all of it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value or setting of the caller is wrong; a retry cannot help.
    Invalid,
    /// The database or Redis failed; a retry may help.
    Unavailable,
    /// The database refused a statement, of which nothing was done; a retry may help.
    Refused,
    /// Other writers blocked the database for too long; nothing was done.
    Busy,
    /// Another worker has the delivery.
    LostLease,
    /// Nothing has the given name.
    NotFound,
    /// A newer version wrote the stored schema.
    NewerSchema,
    /// A statement failed, or a stored value is not as this version expects.
    Internal,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn lost_lease(message: impl Into<String>) -> Self {
        Self::new(Kind::LostLease, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub(crate) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns a copy, one for each caller that shared a failed transaction.
    pub(crate) fn repeat(&self) -> Self {
        let again = Self::new(self.0.kind, self.0.message.clone());
        match &self.0.source {
            Some(source) => again.caused_by(source.to_string()),
            None => again,
        }
    }

    /// Returns whether a value or setting of the caller is wrong: a retry cannot help.
    pub fn is_invalid(&self) -> bool {
        self.0.kind == Kind::Invalid
    }

    /// Returns whether the database or Redis failed and a later retry may help. The outcome of the
    /// call is unknown unless its documentation says otherwise.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.0.kind, Kind::Unavailable | Kind::Busy | Kind::Refused)
    }

    /// Returns whether the database refused the statement: nothing of it was done.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_refused(&self) -> bool {
        self.0.kind == Kind::Refused
    }

    /// Returns whether other writers blocked the database for too long.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.kind == Kind::Busy
    }

    /// Returns whether another worker took the delivery over, or it was settled already: nothing
    /// was changed.
    pub fn is_lost_lease(&self) -> bool {
        self.0.kind == Kind::LostLease
    }

    /// Returns whether nothing has the given name.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == Kind::NotFound
    }

    /// Returns whether a newer version of this crate wrote the stored schema.
    pub fn is_newer_schema(&self) -> bool {
        self.0.kind == Kind::NewerSchema
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Io(io) = &error
            && let Some(own) = io.get_ref().and_then(|error| error.downcast_ref::<Self>())
        {
            // Ours: a statement had to return sqlx's type.
            return own.repeat();
        }
        let kind = match &error {
            sqlx::Error::Database(_) => Kind::Refused,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                Kind::Unavailable
            }
            _ => Kind::Internal,
        };
        Self::new(kind, "the database refused").caused_by(error)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let kind = match &error {
            rusqlite::Error::SqliteFailure(..) => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, "the database refused").caused_by(error)
    }
}

#[cfg(feature = "redis")]
impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        Self::new(Kind::Unavailable, "Redis refused").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_chain_repeats_no_message() {
        let error = Error::from(sqlx::Error::PoolTimedOut);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(source.is_some_and(|text| !error.to_string().contains(&text)));
    }
}
