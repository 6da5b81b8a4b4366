//! The type of a value.

use std::fmt;

use sqlx::TypeInfo;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgTypeInfo;
use sqlx::sqlite::SqliteTypeInfo;

/// The type of a value: of a Rust type, which each engine has, or of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlTypeInfo(pub(super) Kind);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Of a Rust type.
    Rust(Scalar),
    Sqlite(SqliteTypeInfo),
    #[cfg(feature = "postgres")]
    Postgres(PgTypeInfo),
}

/// The Rust types that can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int,
    Real,
    Text,
    Bytes,
    Uuid,
}

impl Scalar {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOLEAN",
            Self::Int => "BIGINT",
            Self::Real => "DOUBLE",
            Self::Text => "TEXT",
            Self::Bytes => "BYTES",
            Self::Uuid => "UUID",
        }
    }
}

impl TypeInfo for SqlTypeInfo {
    fn is_null(&self) -> bool {
        match &self.0 {
            Kind::Rust(_) => false,
            Kind::Sqlite(info) => info.is_null(),
            #[cfg(feature = "postgres")]
            Kind::Postgres(info) => info.is_null(),
        }
    }

    fn name(&self) -> &str {
        match &self.0 {
            Kind::Rust(scalar) => scalar.name(),
            Kind::Sqlite(info) => info.name(),
            #[cfg(feature = "postgres")]
            Kind::Postgres(info) => info.name(),
        }
    }
}

impl fmt::Display for SqlTypeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
