//! The rows of a context query: from columns to values, gathered by tenant.

use super::assemble::Row;
use contexts::name::{BadName, TenantId};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};
use std::collections::HashMap;
use std::sync::Arc;

fn regions(json: Option<&str>) -> sqlx::Result<Option<Vec<Option<String>>>> {
    let parsed = json.map(serde_json::from_str).transpose();
    parsed.map_err(|_| sqlx::Error::Decode("regions has more than one dimension".into()))
}

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
                self.tenants.push((tenant, vec![row]));
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

/// A row of [`query::contexts`] whose columns begin at `first`: the tenant, and the rest.
pub(super) fn decode(row: &PgRow, first: usize) -> sqlx::Result<(&str, Row)> {
    let missing = || sqlx::Error::Decode("a column is NULL".into());
    let expires = match row.try_get_raw(first + 4)?.is_null() {
        true => None,
        false => Some(row.try_get(first + 4)?),
    };
    Ok((
        text(row, first)?.ok_or_else(missing)?,
        Row {
            key: text(row, first + 1)?.map(Arc::from),
            value: text(row, first + 2)?.ok_or_else(missing)?.into(),
            regions: regions(text(row, first + 3)?)?,
            expires,
        },
    ))
}
