//! A table that is moved: its columns on both sides, and the texts of its statements.
//!
//! A row travels as a JSON array in the order of the columns; bytes are in hexadecimal.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::db::{Conn, Db};
use crate::engine::quoted;
use crate::error::Error;

/// A table that both databases have.
pub(super) struct Table {
    pub(super) name: String,
    columns: Vec<Column>,
    /// Columns that only the target has, for the transaction that wrote a row.
    written_by: Vec<String>,
    /// The columns of its primary key, in order: places in `columns`.
    pub(super) key: Vec<usize>,
}

struct Column {
    name: String,
    kind: Kind,
    /// Its numbers come from a sequence.
    counts: bool,
}

/// The types of columns, as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number(&'static str),
    Boolean,
    Text,
    Uuid,
    Bytes,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "bigint" => Self::Number("bigint"),
            "integer" => Self::Number("integer"),
            "smallint" => Self::Number("smallint"),
            "double precision" => Self::Number("double precision"),
            "boolean" => Self::Boolean,
            "text" | "character varying" => Self::Text,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytes,
            _ => return None,
        })
    }

    fn is_bytes(self) -> bool {
        matches!(self, Self::Uuid | Self::Bytes)
    }
}

/// The schema that a table is found in.
pub(super) async fn schema(conn: &mut Conn, table: &str) -> Result<String, Error> {
    let schema: String = sqlx::query_scalar(
        "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass($1)",
    )
    .bind(table)
    .fetch_one(conn)
    .await?;
    Ok(quoted(&schema))
}

impl Table {
    /// Finds a table on both sides.
    pub(super) async fn find(source: &Db, target: &Db, name: &str) -> Result<Self, Error> {
        let there: Vec<(String, String, bool, i64)> = sqlx::query_as(
            "SELECT a.attname::text, format_type(a.atttypid, NULL), a.attidentity <> '',
                coalesce(k.place, 0)
             FROM pg_attribute a LEFT JOIN (
                SELECT i.indrelid, u.number, u.place FROM pg_index i,
                    unnest(i.indkey::int2[]) WITH ORDINALITY u (number, place)
                WHERE i.indisprimary) k ON k.indrelid = a.attrelid AND k.number = a.attnum
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
                AND a.attgenerated = ''
             ORDER BY a.attnum",
        )
        .bind(name)
        .fetch_all(&mut *target.read().await?)
        .await?;
        let here: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(name)
            .fetch_all(&mut *source.read().await?)
            .await?;
        let written_by = there
            .iter()
            .filter(|(column, kind, ..)| kind == "xid8" && !here.contains(column))
            .map(|(column, ..)| quoted(column))
            .collect();
        let missing = here
            .iter()
            .find(|column| !there.iter().any(|(name, ..)| name == *column));
        if here.is_empty() || missing.is_some() {
            let column = missing.map_or_else(String::new, |column| format!(" with `{column}`"));
            return Err(Error::invalid(format!(
                "table {name}{column} is not in both databases: run `termitary migrate` of this version on each"
            )));
        }
        let mut columns = Vec::new();
        let mut key = Vec::new();
        // Any other column that only the target has keeps its default.
        for (column, kind, counts, place) in there.into_iter().filter(|it| here.contains(&it.0)) {
            if place > 0 {
                key.push((place, columns.len()));
            }
            let kind = Kind::of(&kind).ok_or_else(|| {
                Error::internal(format!("column {column} of {name} has the type {kind}"))
            })?;
            columns.push(Column {
                name: column,
                kind,
                counts,
            });
        }
        key.sort_unstable();
        if key.is_empty() {
            return Err(Error::internal(format!("table {name} has no primary key")));
        }
        Ok(Self {
            name: name.to_owned(),
            columns,
            written_by,
            key: key.into_iter().map(|(_, place)| place).collect(),
        })
    }

    pub(super) fn quoted(&self) -> String {
        quoted(&self.name)
    }

    fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|&place| &self.columns[place])
    }

    fn list(&self, of: impl Fn(usize, &Column) -> String) -> String {
        let columns = self.columns.iter().enumerate();
        let texts: Vec<_> = columns.map(|(place, column)| of(place, column)).collect();
        texts.join(", ")
    }

    /// Reads a page of rows from SQLite: those after a key, if there is one.
    pub(super) fn page(&self, after: bool) -> String {
        let row = self.list(|_, column| {
            let name = quoted(&column.name);
            if column.kind.is_bytes() {
                format!("CASE WHEN {name} IS NULL THEN NULL ELSE hex({name}) END")
            } else {
                name
            }
        });
        let names: Vec<_> = self.key_columns().map(|it| quoted(&it.name)).collect();
        let bound: Vec<_> = (1..=names.len()).map(|n| format!("${n}")).collect();
        let names = names.join(", ");
        let (after, limit) = if after {
            let after = format!(" WHERE ({names}) > ({})", bound.join(", "));
            (after, bound.len() + 1)
        } else {
            (String::new(), 1)
        };
        format!(
            "SELECT json_array({row}) FROM {}{after} ORDER BY {names} LIMIT ${limit} + 0",
            self.quoted()
        )
    }

    /// The values of a row's key.
    pub(super) fn key_of(&self, row: &str) -> Result<Vec<Value>, Error> {
        let row: Vec<Value> = serde_json::from_str(row).map_err(|error| {
            Error::internal(format!("a row of {} cannot be read", self.name)).caused_by(error)
        })?;
        Ok(self.key.iter().map(|&place| row[place].clone()).collect())
    }

    /// Returns whether a column of the key is stored as bytes.
    pub(super) fn key_is_bytes(&self, place: usize) -> bool {
        self.columns[self.key[place]].kind.is_bytes()
    }

    /// A value of the rows `j` on PostgreSQL.
    fn value(place: usize, column: &Column) -> String {
        let text = format!("j.value->>{place}");
        match column.kind {
            Kind::Number(kind) => format!("({text})::{kind}"),
            Kind::Boolean => format!("(({text})::bigint <> 0)"),
            Kind::Text => format!("({text})"),
            Kind::Uuid => format!("({text})::uuid"),
            Kind::Bytes => format!("decode({text}, 'hex')"),
        }
    }

    /// Inserts the rows that are bound as one JSON array.
    pub(super) fn insert(&self) -> String {
        let mut names = self.list(|_, column| quoted(&column.name));
        let mut values = self.list(Self::value);
        for column in &self.written_by {
            names.push_str(", ");
            names.push_str(column);
            values.push_str(", pg_current_xact_id()");
        }
        format!(
            "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE
             SELECT {values} FROM json_array_elements($1::json) AS j (value)",
            self.quoted()
        )
    }

    /// Counts those of the bound rows that PostgreSQL has with the same values.
    pub(super) fn same(&self) -> String {
        let conditions = self.columns.iter().enumerate().map(|(place, column)| {
            let is = if self.key.contains(&place) {
                "="
            } else {
                "IS NOT DISTINCT FROM"
            };
            let value = Self::value(place, column);
            format!("t.{} {is} {value}", quoted(&column.name))
        });
        let conditions: Vec<_> = conditions.collect();
        format!(
            "SELECT count(*) FROM json_array_elements($1::json) AS j (value) JOIN {} t ON {}",
            self.quoted(),
            conditions.join(" AND ")
        )
    }

    /// The key of the last row on PostgreSQL, as SQLite gives it.
    pub(super) fn last(&self) -> String {
        let values = self.key_columns().map(|column| {
            let name = quoted(&column.name);
            match column.kind {
                Kind::Uuid => format!("upper(replace({name}::text, '-', ''))"),
                Kind::Bytes => format!("upper(encode({name}, 'hex'))"),
                _ => name,
            }
        });
        let values: Vec<_> = values.collect();
        // SQLite compares texts byte by byte.
        let order = self.key_columns().map(|column| {
            let name = quoted(&column.name);
            if column.kind == Kind::Text {
                format!("{name} COLLATE \"C\" DESC")
            } else {
                format!("{name} DESC")
            }
        });
        let order: Vec<_> = order.collect();
        format!(
            "SELECT json_build_array({})::text FROM {} ORDER BY {} LIMIT 1",
            values.join(", "),
            self.quoted(),
            order.join(", ")
        )
    }

    pub(super) fn count(&self) -> String {
        format!("SELECT COUNT(*) FROM {}", self.quoted())
    }

    /// Sets the sequences of its columns so that no number comes twice.
    pub(super) async fn go_on(&self, source: &Db, target: &mut Conn) -> Result<(), Error> {
        for column in self.columns.iter().filter(|column| column.counts) {
            let name = quoted(&column.name);
            let last = format!(
                "SELECT max(n) FROM (SELECT max({name}) AS n FROM {}
                 UNION ALL SELECT seq FROM sqlite_sequence WHERE name = $1)",
                self.quoted()
            );
            let last: Option<i64> = sqlx::query_scalar(AssertSqlSafe(last))
                .bind(&self.name)
                .fetch_one(&mut *source.read().await?)
                .await?;
            if let Some(last) = last.filter(|last| *last > 0) {
                sqlx::query("SELECT setval(pg_get_serial_sequence($1, $2)::regclass, $3)")
                    .bind(&self.name)
                    .bind(&column.name)
                    .bind(last)
                    .execute(&mut *target)
                    .await?;
            }
        }
        Ok(())
    }
}
