//! A value of a row that is not decoded yet.

use std::borrow::Cow;

use sqlx::{Value, ValueRef};

use super::type_info::Kind;
use super::{Sql, SqlTypeInfo};

/// An owned value of a row.
#[derive(Clone)]
pub struct SqlValue(Owned);

#[derive(Clone)]
enum Owned {
    Sqlite(sqlx::sqlite::SqliteValue),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgValue),
}

/// A value of a row.
pub struct SqlValueRef<'r>(pub(super) Borrowed<'r>);

pub(super) enum Borrowed<'r> {
    Sqlite(sqlx::sqlite::SqliteValueRef<'r>),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgValueRef<'r>),
}

impl<'r> SqlValueRef<'r> {
    /// The bytes of a text, of a blob or of a UUID.
    pub(crate) fn bytes(self) -> Result<&'r [u8], sqlx::error::BoxDynError> {
        match self.0 {
            Borrowed::Sqlite(value) => <&[u8] as sqlx::Decode<sqlx::Sqlite>>::decode(value),
            #[cfg(feature = "postgres")]
            Borrowed::Postgres(value) => value.as_bytes(),
        }
    }
}

impl Value for SqlValue {
    type Database = Sql;

    fn as_ref(&self) -> SqlValueRef<'_> {
        SqlValueRef(match &self.0 {
            Owned::Sqlite(value) => Borrowed::Sqlite(value.as_ref()),
            #[cfg(feature = "postgres")]
            Owned::Postgres(value) => Borrowed::Postgres(value.as_ref()),
        })
    }

    fn type_info(&self) -> Cow<'_, SqlTypeInfo> {
        Cow::Owned(SqlTypeInfo(match &self.0 {
            Owned::Sqlite(value) => Kind::Sqlite(value.type_info().into_owned()),
            #[cfg(feature = "postgres")]
            Owned::Postgres(value) => Kind::Postgres(value.type_info().into_owned()),
        }))
    }

    fn is_null(&self) -> bool {
        match &self.0 {
            Owned::Sqlite(value) => value.is_null(),
            #[cfg(feature = "postgres")]
            Owned::Postgres(value) => value.is_null(),
        }
    }
}

impl<'r> ValueRef<'r> for SqlValueRef<'r> {
    type Database = Sql;

    fn to_owned(&self) -> SqlValue {
        SqlValue(match &self.0 {
            Borrowed::Sqlite(value) => Owned::Sqlite(ValueRef::to_owned(value)),
            #[cfg(feature = "postgres")]
            Borrowed::Postgres(value) => Owned::Postgres(ValueRef::to_owned(value)),
        })
    }

    fn type_info(&self) -> Cow<'_, SqlTypeInfo> {
        Cow::Owned(SqlTypeInfo(match &self.0 {
            Borrowed::Sqlite(value) => Kind::Sqlite(value.type_info().into_owned()),
            #[cfg(feature = "postgres")]
            Borrowed::Postgres(value) => Kind::Postgres(value.type_info().into_owned()),
        }))
    }

    fn is_null(&self) -> bool {
        match &self.0 {
            Borrowed::Sqlite(value) => value.is_null(),
            #[cfg(feature = "postgres")]
            Borrowed::Postgres(value) => value.is_null(),
        }
    }
}
