//! The users of the database: random statements of transactions that run side by side.

use crate::database::{Database, Transaction};
use crate::outbox::Note;
use crate::state::{self, Name, Plan, Row, State, Writes};
use contexts::name::{Region, TenantId};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tenants of this world.
const TENANTS: usize = 10;
/// Keys of each kind of this world.
const KEYS: usize = 24;
/// Tenants that only bulk changes concern.
const BULK_TENANTS: usize = 70;
/// Plans of this world.
const PLANS: Plan = 3;

/// A statement that was made.
pub struct Done {
    /// What it was, for the trace.
    pub what: String,
    /// Whom it touched.
    pub tenants: BTreeSet<TenantId>,
}

/// What there is more of than usual.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    /// Changes of many tenants at once.
    pub bulk: bool,
    /// Changes of plans, and of who is on which.
    pub plans: bool,
}

/// Makes one random statement of a transaction, with what its triggers do; nothing if it would have to wait for another
/// transaction.
pub fn statement(
    rng: &mut SmallRng,
    db: &mut Database,
    transaction: &mut Transaction,
    regions: &[Region],
    mood: Mood,
) -> Option<Done> {
    let before = db.view(transaction);
    let mut state = before.clone();
    let (mut tenants, mut notes) = (BTreeSet::new(), Vec::new());
    let touched = transaction.touched.take();
    let drawn = match rng.random_range(0..100) {
        // Those of plans.
        x if mood.plans && x % 4 > 0 => 89 + x % 8,
        x => x,
    };
    let what = match drawn {
        _ if touched.is_some() => unwatched(rng, db, &mut state, touched),
        x if mood.bulk && x % 20 == 0 => change_all(db, &mut state, &mut notes),
        0..28 => insert(rng, db, &mut state, regions, &mut tenants),
        28..43 => change(rng, db, &mut state, &mut tenants),
        43..52 => delete(rng, &mut state, &mut tenants),
        52..56 => delete_tenant(rng, &mut state, &mut tenants),
        56..67 => move_key(rng, db, &mut state, &mut tenants),
        67..74 => share_key(rng, db, &mut state, &mut tenants),
        74..80 => change_regions(rng, db, &mut state, regions, &mut tenants),
        80..86 => poison(rng, db, &mut state, &mut tenants),
        86..89 => break_kind(rng, &mut state, &mut tenants),
        89..93 => join_plan(rng, &mut state, &mut tenants),
        93..97 => {
            let plan = rng.random_range(0..PLANS);
            state.plans.insert(plan, db.next_revision());
            notes.push(Note::Changed(plan));
            format!("change plan {plan}")
        }
        97 => truncate(rng, &mut state, &mut notes),
        98 => {
            let tenant = tenant(rng);
            notes.push(Note::Tenant(tenant.clone()));
            transaction.touched = Some(tenant.clone());
            format!("touch {tenant}")
        }
        99 => {
            notes.push(Note::Token);
            "token".to_owned()
        }
        _ => {
            state.definitions += 1;
            "definitions".to_owned()
        }
    };
    notes.extend(tenants.iter().cloned().map(Note::Tenant));
    write(db, transaction, &before, &state, notes).then_some(Done { what, tenants })
}

/// Puts a tenant on another plan; false if that would have to wait for another transaction.
pub fn leave_plan(db: &mut Database, transaction: &mut Transaction, tenant: &TenantId) -> bool {
    let before = db.view(transaction);
    let mut state = before.clone();
    let plan = state.on_plan.entry(tenant.clone()).or_default();
    *plan = (*plan + 1) % PLANS;
    let notes = vec![Note::Tenant(tenant.clone())];
    write(db, transaction, &before, &state, notes)
}

fn write(
    db: &mut Database,
    transaction: &mut Transaction,
    before: &State,
    after: &State,
    notes: Vec<Note>,
) -> bool {
    let writes = Writes::between(before, after);
    if db.open.values().any(|other| other.writes.collide(&writes)) {
        return false;
    }
    if !notes.is_empty() || !writes.is_empty() {
        db.number(transaction);
    }
    db.trigger(transaction, notes);
    transaction.writes.add(writes);
    true
}

/// Makes the tenants that bulk changes concern, and those that plans concern; then some statements, each committed.
pub fn prepare(rng: &mut SmallRng, db: &mut Database, regions: &[Region], mood: Mood) {
    let mut state = State::default();
    let (bulk, on_plan) = (
        mood.bulk.then_some(BULK_TENANTS),
        mood.plans.then_some(TENANTS),
    );
    for i in 0..bulk.unwrap_or(0) {
        let name = (state::row_kinds()[0].clone(), state::bulk_key(i));
        put(
            db,
            &mut state,
            &state::bulk_tenant(i),
            &name,
            Row::default(),
        );
    }
    for i in 0..on_plan.unwrap_or(0) {
        let (tenant, name) = (
            state::tenant(i),
            (state::row_kinds()[0].clone(), state::key(i)),
        );
        put(db, &mut state, &tenant, &name, Row::default());
        state.on_plan.insert(tenant, rng.random_range(0..PLANS));
    }
    let id = db.begin(0, false);
    if let Some(mut transaction) = db.open.remove(&id) {
        let writes = Writes::between(&State::default(), &state);
        transaction.writes.add(writes);
        db.number(&mut transaction);
        db.commit(0, transaction);
    }
    for _ in 0..8 {
        let id = db.begin(0, false);
        let Some(mut transaction) = db.open.remove(&id) else {
            continue;
        };
        statement(rng, db, &mut transaction, regions, mood);
        db.commit(0, transaction);
    }
}

fn tenant(rng: &mut SmallRng) -> TenantId {
    state::tenant(rng.random_range(0..TENANTS))
}

fn name(rng: &mut SmallRng) -> Name {
    let kinds = state::row_kinds();
    let kind = kinds[rng.random_range(0..kinds.len())].clone();
    (kind, state::key(rng.random_range(0..KEYS)))
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

/// Every row.
fn each(state: &State) -> impl Iterator<Item = (&TenantId, &Name)> {
    let rows = state.rows.iter();
    rows.flat_map(|(t, rows)| rows.keys().map(move |n| (t, n)))
}

/// A row that exists.
fn any(rng: &mut SmallRng, state: &State) -> Option<(TenantId, Name)> {
    let own = |(tenant, _): &(&TenantId, &Name)| !tenant.as_str().starts_with('b');
    let all: Vec<(&TenantId, &Name)> = each(state).filter(own).collect();
    let at = (!all.is_empty()).then(|| rng.random_range(0..all.len()))?;
    Some((all[at].0.clone(), all[at].1.clone()))
}

fn put(db: &mut Database, state: &mut State, tenant: &TenantId, name: &Name, mut row: Row) {
    row.revision = db.next_revision();
    let rows = state.rows.entry(tenant.clone()).or_default();
    Arc::make_mut(rows).insert(name.clone(), row);
}

fn take(state: &mut State, tenant: &TenantId, name: &Name) -> Option<Row> {
    let rows = state.rows.get_mut(tenant)?;
    let row = Arc::make_mut(rows).remove(name);
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
    for (name, row) in rows.iter() {
        let mut row = row.clone();
        row.regions = moved.clone();
        put(db, state, &tenant, name, row);
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

fn join_plan(rng: &mut SmallRng, state: &mut State, tenants: &mut BTreeSet<TenantId>) -> String {
    let (tenant, plan) = (tenant(rng), rng.random_range(0..PLANS));
    state.on_plan.insert(tenant.clone(), plan);
    tenants.insert(tenant.clone());
    format!("{tenant} is on plan {plan}")
}

/// Removes all rows of a kind.
fn truncate(rng: &mut SmallRng, state: &mut State, notes: &mut Vec<Note>) -> String {
    let (kind, _) = name(rng);
    let all: Vec<(TenantId, Name)> = each(state)
        .filter(|(_, (k, _))| *k == kind)
        .map(|(tenant, name)| (tenant.clone(), name.clone()))
        .collect();
    for (tenant, name) in all {
        take(state, &tenant, &name);
    }
    notes.push(Note::All);
    format!("truncate {kind}")
}

/// Changes rows of a table that no trigger watches, after the transaction said so itself.
fn unwatched(
    rng: &mut SmallRng,
    db: &mut Database,
    state: &mut State,
    touched: Option<TenantId>,
) -> String {
    let Some(tenant) = touched else {
        return "nothing".into();
    };
    let name = name(rng);
    put(db, state, &tenant, &name, Row::default());
    format!("put {name:?} of {tenant}, which was touched")
}

/// Changes the tenants of bulk changes, all at once.
fn change_all(db: &mut Database, state: &mut State, notes: &mut Vec<Note>) -> String {
    for i in 0..BULK_TENANTS {
        let (tenant, name) = (
            state::bulk_tenant(i),
            (state::row_kinds()[0].clone(), state::bulk_key(i)),
        );
        put(db, state, &tenant, &name, Row::default());
        notes.push(Note::Tenant(tenant));
    }
    "change all".to_owned()
}
