//! Statements in a form that passes a transaction pooler, which may give every transaction another connection to the
//! server. So nothing may be left on a connection: no prepared statement, no setting and no lock of the session.
//!
//! A single statement goes as a `Statement`: its values are written into it, so that it is one message and one
//! transaction of its own. In a transaction, `unnamed` takes the values beside the statement, which the server
//! forgets with the next one.

use super::{Source, SourceError};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::raw_sql;
use sqlx::{AssertSqlSafe, Postgres};

/// A query for a transaction that is open: preparing and running it are two messages.
///
/// sqlx names whatever it prepares unless it is told not to, also when it keeps none.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(super) fn unnamed(sql: impl Into<String>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(sql.into())).persistent(false)
}

/// One statement and its values: `$1` is the first. The text must be our own: wherever a `$1` stands in it, also in a
/// string, the value is written.
#[derive(Debug)]
pub(super) struct Statement {
    sql: String,
    values: Vec<String>,
}

impl Statement {
    /// A statement without values so far.
    pub(super) fn new(sql: impl Into<String>) -> Self {
        let (sql, values) = (sql.into(), Vec::new());
        Self { sql, values }
    }

    /// Gives the next value.
    pub(super) fn bind(mut self, value: impl Literal) -> Self {
        self.values.push(value.literal());
        self
    }

    /// The whole text. A number without a value stays, and the server refuses it.
    fn text(&self) -> String {
        let mut parts = self.sql.split('$');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number = part[..digits].parse::<usize>().unwrap_or(0);
            match number.checked_sub(1).and_then(|i| self.values.get(i)) {
                Some(value) => out.extend([value, &part[digits..]]),
                None => out.extend(["$", part]),
            }
        }
        out
    }
}

/// A value as SQL writes it.
pub(super) trait Literal {
    /// With its type, in parentheses where it needs them.
    fn literal(&self) -> String;
}

impl Literal for i64 {
    fn literal(&self) -> String {
        format!("('{self}'::bigint)")
    }
}

impl Literal for i32 {
    fn literal(&self) -> String {
        format!("('{self}'::integer)")
    }
}

impl Literal for bool {
    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Literal for &str {
    fn literal(&self) -> String {
        format!("({}::text)", quoted(self))
    }
}

impl Literal for String {
    fn literal(&self) -> String {
        self.as_str().literal()
    }
}

impl<T: Literal> Literal for Option<T> {
    fn literal(&self) -> String {
        self.as_ref()
            .map_or_else(|| "NULL".to_owned(), Literal::literal)
    }
}

/// A string literal that means the same whatever `standard_conforming_strings` is. A zero byte, which Postgres has in no
/// text, becomes one that the server refuses by name; as it is, it would end the message.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    out.push_str("E'");
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("''"),
            '\0' => out.push_str("\\x00"),
            other => out.push(other),
        }
    }
    out.push('\'');
    out
}

/// An array of text, written as one literal however many there are: statements that differ in nothing else count as one
/// in statistics.
pub(super) fn texts<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let all: Vec<String> = all.map(|text| format!("\"{}\"", escaped(text))).collect();
    format!("{}::text[]", quoted(&format!("{{{}}}", all.join(","))))
}

impl Source {
    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// [`SourceError`] says that it failed `doing` something.
    pub(super) async fn fetch_all(
        &self,
        doing: &str,
        statement: Statement,
    ) -> Result<Vec<PgRow>, SourceError> {
        let failed = |e| self.error(doing, e);
        let mut lent = self.connections().lend().await.map_err(failed)?;
        let rows = raw_sql(AssertSqlSafe(statement.text())).fetch_all(lent.connection());
        let rows = rows.await.map_err(failed)?;
        lent.keep();
        Ok(rows)
    }

    /// Runs a statement and returns its row, if there is one.
    ///
    /// # Errors
    /// As [`Source::fetch_all`].
    pub(super) async fn fetch_optional(
        &self,
        doing: &str,
        statement: Statement,
    ) -> Result<Option<PgRow>, SourceError> {
        Ok(self.fetch_all(doing, statement).await?.into_iter().next())
    }

    /// Runs a statement that returns one row.
    ///
    /// # Errors
    /// As [`Source::fetch_all`]; none is an error too.
    pub(super) async fn fetch_one(
        &self,
        doing: &str,
        statement: Statement,
    ) -> Result<PgRow, SourceError> {
        let row = self.fetch_optional(doing, statement).await?;
        row.ok_or_else(|| self.error(doing, sqlx::Error::RowNotFound))
    }

    /// Runs a statement and returns how many rows it wrote.
    ///
    /// # Errors
    /// As [`Source::fetch_all`].
    pub(super) async fn execute(
        &self,
        doing: &str,
        statement: Statement,
    ) -> Result<u64, SourceError> {
        let failed = |e| self.error(doing, e);
        let mut lent = self.connections().lend().await.map_err(failed)?;
        let done = raw_sql(AssertSqlSafe(statement.text())).execute(lent.connection());
        let rows = done.await.map_err(failed)?.rows_affected();
        lent.keep();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_one_literal() {
        assert_eq!(texts([].into_iter()), "E'{}'::text[]");
        let odd = ["a", "", "NULL", r#"b"\"#, "c'{,}"];
        assert_eq!(
            texts(odd.into_iter()),
            r#"E'{"a","","NULL","b\\"\\\\","c''{,}"}'::text[]"#
        );
    }

    #[test]
    fn values_are_written_where_their_numbers_stand() {
        let statement = Statement::new("SELECT $2, $1 || $10, '$', $3, $$x$$")
            .bind("a$2'\\\0")
            .bind(-5_i64)
            .bind(None::<String>);
        assert_eq!(
            statement.text(),
            r"SELECT ('-5'::bigint), (E'a$2''\\\x00'::text) || $10, '$', NULL, $$x$$"
        );
    }
}
