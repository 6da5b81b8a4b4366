//! A column of a result.

use sqlx::Column;

use super::{Sql, SqlTypeInfo};

/// A column of a result: its place, name and type.
#[derive(Clone, Debug)]
pub struct SqlColumn {
    ordinal: usize,
    name: String,
    type_info: SqlTypeInfo,
}

impl SqlColumn {
    pub(super) fn new(column: &impl Column, type_info: SqlTypeInfo) -> Self {
        Self {
            ordinal: column.ordinal(),
            name: column.name().to_owned(),
            type_info,
        }
    }
}

impl Column for SqlColumn {
    type Database = Sql;

    fn ordinal(&self) -> usize {
        self.ordinal
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn type_info(&self) -> &SqlTypeInfo {
        &self.type_info
    }
}
