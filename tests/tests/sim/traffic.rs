//! The users of the database: random transactions, some of them announced to the writers, some only a scan can find.

use crate::database::{self, Database, Name, Row, State};
use contexts::name::{Region, TenantId};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeSet;

/// Tenants of this world.
const TENANTS: usize = 10;
/// Keys of each kind of this world.
const KEYS: usize = 24;

/// A transaction that was committed.
pub struct Done {
    /// What it was, for the trace.
    pub what: String,
    /// Whom it touched.
    pub tenants: BTreeSet<TenantId>,
}

/// Commits one random transaction.
pub fn transaction(rng: &mut SmallRng, db: &mut Database, at: u64, regions: &[Region]) -> Done {
    let mut state = State::clone(db.now());
    let mut tenants = BTreeSet::new();
    let what = match rng.random_range(0..100) {
        0..30 => insert(rng, db, &mut state, regions, &mut tenants),
        30..45 => change(rng, db, &mut state, &mut tenants),
        45..55 => delete(rng, &mut state, &mut tenants),
        55..60 => delete_tenant(rng, &mut state, &mut tenants),
        60..72 => move_key(rng, db, &mut state, &mut tenants),
        72..80 => share_key(rng, db, &mut state, &mut tenants),
        80..87 => change_regions(rng, db, &mut state, regions, &mut tenants),
        87..94 => poison(rng, db, &mut state, &mut tenants),
        94..99 => break_kind(rng, &mut state, &mut tenants),
        _ => {
            state.definitions += 1;
            "definitions".to_owned()
        }
    };
    db.commit(at, state);
    Done { what, tenants }
}

fn tenant(rng: &mut SmallRng) -> TenantId {
    database::tenant(rng.random_range(0..TENANTS))
}

fn name(rng: &mut SmallRng) -> Name {
    let kinds = database::kinds();
    let kind = kinds[rng.random_range(0..kinds.len())].clone();
    (kind, database::key(rng.random_range(0..KEYS)))
}

fn random_regions(rng: &mut SmallRng, regions: &[Region]) -> Option<BTreeSet<Region>> {
    rng.random_bool(0.4).then(|| {
        regions
            .iter()
            .filter(|_| rng.random_bool(0.5))
            .cloned()
            .collect()
    })
}

/// A row that exists.
fn any(rng: &mut SmallRng, state: &State) -> Option<(TenantId, Name)> {
    let each = state.rows.iter();
    let all: Vec<(&TenantId, &Name)> = each
        .flat_map(|(t, rows)| rows.keys().map(move |n| (t, n)))
        .collect();
    let at = (!all.is_empty()).then(|| rng.random_range(0..all.len()))?;
    Some((all[at].0.clone(), all[at].1.clone()))
}

fn put(db: &mut Database, state: &mut State, tenant: &TenantId, name: &Name, mut row: Row) {
    row.revision = db.next_revision();
    state
        .rows
        .entry(tenant.clone())
        .or_default()
        .insert(name.clone(), row);
}

fn take(state: &mut State, tenant: &TenantId, name: &Name) -> Option<Row> {
    let rows = state.rows.get_mut(tenant)?;
    let row = rows.remove(name);
    if rows.is_empty() {
        state.rows.remove(tenant);
        state.broken.retain(|(t, _)| t != tenant);
    }
    row
}

fn insert(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    regions: &[Region],
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    for _ in 0..rng.random_range(1..4) {
        let (tenant, name) = (tenant(rng), name(rng));
        if state
            .rows
            .iter()
            .any(|(t, rows)| *t != tenant && rows.contains_key(&name))
        {
            continue;
        }
        let row = Row {
            revision: 0,
            regions: random_regions(rng, regions),
            too_large: rng.random_bool(0.1),
        };
        put(db, state, &tenant, &name, row);
        tenants.insert(tenant);
    }
    format!("insert {tenants:?}")
}

fn change(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let Some((tenant, name)) = any(rng, state) else {
        return "nothing".into();
    };
    let row = state.rows[&tenant][&name].clone();
    put(db, state, &tenant, &name, row);
    tenants.insert(tenant.clone());
    format!("change {name:?} of {tenant}")
}

fn delete(rng: &mut SmallRng, state: &mut State, tenants: &mut BTreeSet<TenantId>) -> String {
    let Some((tenant, name)) = any(rng, state) else {
        return "nothing".into();
    };
    take(state, &tenant, &name);
    tenants.insert(tenant.clone());
    format!("delete {name:?} of {tenant}")
}

fn delete_tenant(
    rng: &mut SmallRng,
    state: &mut State,
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let tenant = tenant(rng);
    state.rows.remove(&tenant);
    state.broken.retain(|(t, _)| *t != tenant);
    tenants.insert(tenant.clone());
    format!("delete all of {tenant}")
}

fn move_key(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let (Some((from, name)), to) = (any(rng, state), tenant(rng)) else {
        return "nothing".into();
    };
    if let Some(row) = take(state, &from, &name) {
        put(db, state, &to, &name, row);
    }
    tenants.extend([from.clone(), to.clone()]);
    format!("move {name:?} from {from} to {to}")
}

/// Gives a key to a second tenant: a real clash, or the first half of a move in two transactions.
fn share_key(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let (Some((from, name)), to) = (any(rng, state), tenant(rng)) else {
        return "nothing".into();
    };
    let row = state.rows[&from][&name].clone();
    put(db, state, &to, &name, row);
    tenants.insert(to.clone());
    format!("give {name:?} of {from} to {to} too")
}

fn change_regions(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    regions: &[Region],
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let Some((tenant, _)) = any(rng, state) else {
        return "nothing".into();
    };
    let moved = random_regions(rng, regions);
    let rows = state.rows[&tenant].clone();
    for (name, mut row) in rows {
        row.regions = moved.clone();
        put(db, state, &tenant, &name, row);
    }
    tenants.insert(tenant.clone());
    format!("{tenant} moves to {moved:?}")
}

fn poison(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    tenants: &mut BTreeSet<TenantId>,
) -> String {
    let Some((tenant, name)) = any(rng, state) else {
        return "nothing".into();
    };
    let mut row = state.rows[&tenant][&name].clone();
    row.too_large = !row.too_large;
    let what = format!("too large = {}: {name:?} of {tenant}", row.too_large);
    put(db, state, &tenant, &name, row);
    tenants.insert(tenant);
    what
}

fn break_kind(rng: &mut SmallRng, state: &mut State, tenants: &mut BTreeSet<TenantId>) -> String {
    let Some((tenant, (kind, _))) = any(rng, state) else {
        return "nothing".into();
    };
    let broken = (tenant.clone(), kind);
    let what = format!("break or mend {broken:?}");
    if !state.broken.remove(&broken) {
        state.broken.insert(broken);
    }
    tenants.insert(tenant);
    what
}
