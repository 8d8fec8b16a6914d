//! The rows of a context query: from columns to values, gathered by tenant.

use super::assemble::Row;
use contexts::digest::DigestKey;
use contexts::name::{BadName, Kind, TenantId};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};
use std::collections::HashMap;
use std::sync::Arc;

fn regions(json: Option<&str>) -> sqlx::Result<Option<Vec<Option<String>>>> {
    let parsed = json.map(serde_json::from_str).transpose();
    parsed.map_err(|_| sqlx::Error::Decode("regions has more than one dimension".into()))
}

/// Rows for which room is made before they come.
const LIKE_MAX: usize = 64;

/// The rows of a query by tenant, in the order in which the tenants came.
#[derive(Default)]
pub(super) struct Found {
    pub(super) tenants: Vec<(TenantId, Vec<Row>)>,
    places: HashMap<TenantId, usize>,
}

impl Found {
    /// # Errors
    /// If nobody can be called that.
    pub(super) fn add(&mut self, tenant: &str, row: Row) -> Result<(), BadName> {
        // Often the rows of a tenant stand together.
        if let Some((last, rows)) = self.tenants.last_mut()
            && last.as_str() == tenant
        {
            rows.push(row);
            return Ok(());
        }
        match self.places.get(tenant) {
            Some(at) => self.tenants[*at].1.push(row),
            None => {
                let tenant = TenantId::new(tenant)?;
                self.places.insert(tenant.clone(), self.tenants.len());
                // Tenants resemble one another.
                let like = self.tenants.last().map_or(1, |(_, rows)| rows.len());
                let mut rows = Vec::with_capacity(like.min(LIKE_MAX));
                rows.push(row);
                self.tenants.push((tenant, rows));
            }
        }
        Ok(())
    }
}

/// The text in a column that is text, as it came: its type is what the statement says, and need not be asked for each row.
fn text(row: &PgRow, at: usize) -> sqlx::Result<Option<&str>> {
    let value = row.try_get_raw(at)?;
    match value.is_null() {
        true => Ok(None),
        false => value.as_str().map(Some).map_err(sqlx::Error::Decode),
    }
}

/// A row of [`super::query::contexts`] for a kind, whose columns begin at `first`: the tenant, and the rest.
pub(super) fn decode<'r>(
    row: &'r PgRow,
    first: usize,
    kind: &Kind,
    digest_key: &DigestKey,
) -> sqlx::Result<(&'r str, Row)> {
    let missing = || sqlx::Error::Decode("a column is NULL".into());
    let expires = match row.try_get_raw(first + 4)?.is_null() {
        true => None,
        false => Some(row.try_get(first + 4)?),
    };
    let (key, value) = (
        text(row, first + 1)?,
        text(row, first + 2)?.ok_or_else(missing)?,
    );
    // Of a row without a key nothing comes.
    let name = key.unwrap_or_default();
    Ok((
        text(row, first)?.ok_or_else(missing)?,
        Row {
            digest: digest_key.context_of(kind.as_str(), name, expires, value),
            key: key.map(Arc::from),
            value: value.into(),
            regions: regions(text(row, first + 3)?)?,
            expires,
        },
    ))
}
