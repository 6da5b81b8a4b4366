//! A connection that can only read.

use std::ops::{Deref, DerefMut};

use super::Conn;
use super::sqlite::Pooled;

/// A connection that can only read. Statements run on it:
/// `query.fetch_all(&mut *reader)`.
pub struct Reader(Home);

/// A connection that goes back to where it came from when it is dropped.
pub(crate) enum Home {
    Sqlite(Pooled),
    #[cfg(feature = "postgres")]
    Postgres(Conn),
}

impl Reader {
    pub(crate) fn new(home: Home) -> Self {
        Self(home)
    }
}

impl Deref for Home {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        match self {
            Self::Sqlite(conn) => conn,
            #[cfg(feature = "postgres")]
            Self::Postgres(conn) => conn,
        }
    }
}

impl DerefMut for Home {
    fn deref_mut(&mut self) -> &mut Conn {
        match self {
            Self::Sqlite(conn) => conn,
            #[cfg(feature = "postgres")]
            Self::Postgres(conn) => conn,
        }
    }
}

impl Deref for Reader {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}
