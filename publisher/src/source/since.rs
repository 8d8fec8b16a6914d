//! Builds of very large tenants from their last build: what the rows of the outbox since then name is read, in one snapshot with
//! these rows, and put into what was found last. What comes of it is what a build of the whole tenant would have found in that
//! snapshot, or that is done instead.
//!
//! It is not tried where it would have to be thought about: something of the tenant is held or paused, a row since then
//! names the tenant and no keys, every tenant may have changed, the definitions are others, or triggers found no room.

use super::definitions::{Definition, Definitions};
use super::last::Last;
use super::query::{self, Tenants};
use super::statement::{quoted, texts};
use crate::config::Watch;
use crate::writer::{Built, BuiltBatch, BuiltBundle};
use contexts::bundle::Bundle;
use contexts::digest::DigestKey;
use contexts::limits;
use contexts::name::{Key, Kind};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

/// The columns of the row that says what has changed since the last build, fewer than any of a context.
pub(super) const HEADER: usize = 3;
/// Names that are read one by one; for more the tenant is built as a whole.
const NAMES_MAX: usize = 1_000;
/// Rows that may wait in the outbox: with more, to go through them may take longer than to read the tenant.
const WAITING_MAX: u32 = 20_000;

/// What has changed of a tenant since its last build.
#[derive(Debug)]
pub(super) struct Since {
    tenant: String,
    names: BTreeSet<(Kind, Key)>,
}

/// The watches of a kind whose rows say which context they concern. Not where a table is watched twice: while the triggers are
/// made anew, rows of the old ones speak for one watch alone.
fn keyed<'a>(
    definitions: &'a Definitions,
    definition: &'a Definition,
) -> impl Iterator<Item = String> + 'a {
    let all = || definitions.kinds.iter().flat_map(|d| &d.watch);
    let is_only = move |watch: &&Watch| all().filter(|w| w.table == watch.table).count() == 1;
    let watches = definition.watch.iter().filter(|w| w.key.is_some());
    watches.filter(is_only).map(Watch::id)
}

/// Whether builds from the last one can be made at all.
pub(super) fn is_possible(definitions: &Definitions) -> bool {
    definitions
        .kinds
        .iter()
        .any(|d| keyed(definitions, d).next().is_some())
}

/// Whether a build may stand for the next one: it is large, and nothing of it is held.
pub(super) fn may_stand(built: &Built) -> bool {
    let bundles = || built.bundles.iter().map(|b| &b.bundle);
    built.bundles.iter().any(|b| b.parts.is_some()) && bundles().all(|b| b.is_plain())
}

/// Adds the statements for a tenant: the header, and the contexts that the rows since then name.
pub(super) fn add_statements(sql: &mut String, last: &Last, definitions: &Definitions) {
    let tenant = quoted(last.built.tenant.as_str());
    let few = format!(
        "(SELECT i.last_value - a.last_value < {WAITING_MAX} FROM hubcast.outbox_ids i, hubcast.outbox_acked a)"
    );
    let since = format!(
        "hubcast.outbox o WHERE NOT pg_visible_in_snapshot(o.xid, '{}')",
        last.seen.as_str()
    );
    // Writing to a string does not fail.
    let _ = write!(
        sql,
        "; SELECT {tenant}::text, {few} AND (SELECT m.last_value = d.last_value FROM hubcast.outbox_missed m, hubcast.outbox_mended d) AND \
         NOT EXISTS (SELECT FROM {since} AND (o.tenant = {tenant} AND o.changed IS NULL \
          OR o.tenant IS NULL AND coalesce(o.mark, 'all') = 'all')), \
         (SELECT json_agg(json_build_array(o.watch, o.changed))::text FROM {since} AND o.tenant = {tenant})"
    );
    let list = texts(std::iter::once(last.built.tenant.as_str()));
    for (i, definition) in definitions.kinds.iter().enumerate() {
        let (Some(key_type), ids) = (&definition.key_type, keyed(definitions, definition)) else {
            continue;
        };
        let ids: Vec<String> = ids.collect();
        let ids = texts(ids.iter().map(String::as_str));
        let keys = format!(
            "ARRAY(SELECT jsonb_array_elements_text(o.changed) FROM {since} AND o.tenant = {tenant} AND o.watch = ANY({ids}))"
        );
        let types = (definitions.tenant_type.as_str(), key_type.as_str());
        let contexts = query::contexts_of_keys(definition, types, Tenants::Listed(&list), &keys);
        let _ = write!(sql, "; SELECT {i}, c.* FROM ({contexts}) AS c");
    }
}

/// Reads a header; none if the tenant has to be built as a whole.
///
/// # Errors
/// If the row is another one.
pub(super) fn read(row: &PgRow, definitions: &Definitions) -> sqlx::Result<Option<Since>> {
    let tenant = row.try_get(0)?;
    let is_complete: bool = row.try_get(1)?;
    let rows: Option<&str> = row.try_get(2)?;
    let rows: Vec<(String, Vec<Option<String>>)> = match rows.map(serde_json::from_str).transpose()
    {
        Ok(rows) => rows.unwrap_or_default(),
        Err(_) => return Ok(None),
    };
    let kind = |watch: &String| {
        let mut kinds = definitions.kinds.iter();
        let found = kinds.find(|d| keyed(definitions, d).any(|id| id == *watch));
        found.map(|definition| &definition.kind)
    };
    let mut names = BTreeSet::new();
    for (watch, keys) in &rows {
        for key in keys {
            let key = key.as_deref().and_then(|key| Key::new(key).ok());
            let Some((kind, key)) = kind(watch).zip(key) else {
                return Ok(None);
            };
            names.insert((kind.clone(), key));
        }
    }
    let since = Since { tenant, names };
    Ok((is_complete && since.names.len() <= NAMES_MAX).then_some(since))
}

/// Puts what was read of some tenants into their last builds, in the result of a build in which they have what was read and
/// nothing else. False if one of them has to be built as a whole.
pub(super) fn complete(
    batch: &mut BuiltBatch,
    lasts: Vec<Last>,
    since: &[Since],
    definitions: &Definitions,
) -> bool {
    for last in lasts {
        let tenant = &last.built.tenant;
        let since = since.iter().find(|s| s.tenant == tenant.as_str());
        let read = batch.tenants.iter_mut().find(|b| b.tenant == *tenant);
        let (Some(since), Some(read)) = (since, read) else {
            return false;
        };
        let is_clear = |b: &Arc<BuiltBundle>| b.bundle.is_plain();
        if !read.bundles.iter().all(is_clear) {
            return false;
        }
        let bundles = put(
            last.built.bundles,
            &read.bundles,
            since,
            &definitions.digest_key,
        );
        if !bundles.iter().all(|bundle| is_within(bundle, definitions)) {
            return false;
        }
        read.bundles = bundles;
    }
    true
}

/// Whether nothing of a bundle has to be held or named for being too much.
fn is_within(bundle: &BuiltBundle, definitions: &Definitions) -> bool {
    let within = |definition: &Definition| {
        let budgets = [definition.max_contexts, definition.warn_contexts];
        budgets.iter().flatten().min().is_none_or(|most| {
            let of_kind = bundle
                .bundle
                .contexts
                .iter()
                .filter(|c| c.kind == definition.kind);
            of_kind.count() as u64 <= *most
        })
    };
    bundle.weight <= limits::TENANT_CONTEXTS_BYTES && definitions.kinds.iter().all(within)
}

/// The bundles of a tenant with what was read of some names instead of what was there. Regions that share a bundle, and still do,
/// share the work.
fn put(
    mut bundles: Vec<Arc<BuiltBundle>>,
    read: &[Arc<BuiltBundle>],
    since: &Since,
    key: &DigestKey,
) -> Vec<Arc<BuiltBundle>> {
    let is_one =
        |bundles: &[Arc<BuiltBundle>]| bundles.windows(2).all(|b| Arc::ptr_eq(&b[0], &b[1]));
    let copies = match is_one(&bundles) && is_one(read) {
        true => bundles.len(),
        false => 1,
    };
    bundles.truncate(bundles.len() / copies.max(1));
    for (bundle, read) in bundles.iter_mut().zip(read) {
        put_into(bundle, &read.bundle, since, key);
    }
    // What is the same again is shared again.
    for at in 1..bundles.len() {
        let (before, from) = bundles.split_at_mut(at);
        let same = before.iter().find(|b| b.digest == from[0].digest);
        same.into_iter().for_each(|same| from[0] = same.clone());
    }
    bundles
        .iter()
        .flat_map(|b| std::iter::repeat_n(b, copies))
        .cloned()
        .collect()
}

fn put_into(bundle: &mut Arc<BuiltBundle>, read: &Bundle, since: &Since, key: &DigestKey) {
    let names = since.names.iter().map(|(kind, name)| {
        let context = read.context(kind, name);
        ((kind, name), context.cloned())
    });
    Arc::make_mut(bundle).replace(names, key);
}
