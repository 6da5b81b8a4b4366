//! The values that are bound to a statement.

use std::fmt;
use std::sync::Arc;

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::types::Type;
use sqlx::{Arguments, IntoArguments};
use uuid::Uuid;

#[cfg(feature = "postgres")]
use super::type_info::{Kind, Scalar};
use super::{Sql, SqlTypeInfo};

/// The values that are bound to a statement, in order.
#[derive(Debug, Default)]
pub struct SqlArguments(Vec<Argument>);

/// One value.
#[derive(Debug)]
pub enum Argument {
    /// No value of this type.
    Null(SqlTypeInfo),
    Bool(bool),
    Int(i64),
    Real(f64),
    Text(Arc<str>),
    Bytes(Arc<Vec<u8>>),
    Uuid(Uuid),
}

impl Arguments for SqlArguments {
    type Database = Sql;

    fn reserve(&mut self, additional: usize, _size: usize) {
        self.0.reserve(additional);
    }

    fn add<'t, T>(&mut self, value: T) -> Result<(), BoxDynError>
    where
        T: Encode<'t, Sql> + Type<Sql>,
    {
        let kind = value.produces();
        if value.encode(&mut self.0)?.is_null() {
            let kind = kind.unwrap_or_else(T::type_info);
            self.0.push(Argument::Null(kind));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// Numbered, as PostgreSQL wants it and SQLite takes it.
    fn format_placeholder<W: fmt::Write>(&self, writer: &mut W) -> fmt::Result {
        write!(writer, "${}", self.0.len())
    }
}

impl IntoArguments<Sql> for SqlArguments {
    fn into_arguments(self) -> Self {
        self
    }
}

impl SqlArguments {
    pub(super) fn into_sqlite(self) -> Result<sqlx::sqlite::SqliteArguments, BoxDynError> {
        let mut arguments = sqlx::sqlite::SqliteArguments::default();
        arguments.reserve(self.0.len(), 0);
        for argument in self.0 {
            match argument {
                Argument::Null(_) => Arguments::add(&mut arguments, None::<i64>),
                Argument::Bool(value) => Arguments::add(&mut arguments, value),
                Argument::Int(value) => Arguments::add(&mut arguments, value),
                Argument::Real(value) => Arguments::add(&mut arguments, value),
                Argument::Text(value) => Arguments::add(&mut arguments, value),
                Argument::Bytes(value) => Arguments::add(&mut arguments, value),
                Argument::Uuid(value) => Arguments::add(&mut arguments, value),
            }?;
        }
        Ok(arguments)
    }

    #[cfg(feature = "postgres")]
    pub(super) fn into_postgres(self) -> Result<sqlx::postgres::PgArguments, BoxDynError> {
        let mut arguments = sqlx::postgres::PgArguments::default();
        arguments.reserve(self.0.len(), 0);
        for argument in self.0 {
            match argument {
                Argument::Null(info) => add_null(&mut arguments, &info),
                Argument::Bool(value) => arguments.add(value),
                Argument::Int(value) => arguments.add(value),
                Argument::Real(value) => arguments.add(value),
                Argument::Text(value) => arguments.add(&*value),
                Argument::Bytes(value) => arguments.add(&**value),
                Argument::Uuid(value) => arguments.add(value),
            }?;
        }
        Ok(arguments)
    }
}

/// PostgreSQL asks for the type of a value that is not there.
#[cfg(feature = "postgres")]
fn add_null(
    arguments: &mut sqlx::postgres::PgArguments,
    info: &SqlTypeInfo,
) -> Result<(), BoxDynError> {
    match info.0 {
        Kind::Rust(Scalar::Bool) => arguments.add(None::<bool>),
        Kind::Rust(Scalar::Int) => arguments.add(None::<i64>),
        Kind::Rust(Scalar::Real) => arguments.add(None::<f64>),
        Kind::Rust(Scalar::Bytes) => arguments.add(None::<Vec<u8>>),
        Kind::Rust(Scalar::Uuid) => arguments.add(None::<Uuid>),
        Kind::Rust(Scalar::Text) | Kind::Sqlite(_) | Kind::Postgres(_) => {
            arguments.add(None::<String>)
        }
    }
}

/// Adds one argument.
pub(super) fn push(buffer: &mut Vec<Argument>, argument: Argument) -> IsNull {
    buffer.push(argument);
    IsNull::No
}
