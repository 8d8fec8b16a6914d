//! What one snapshot of the hub's database sees, the bundles that are built from it, and what a transaction writes.

use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What identifies a context.
pub type Name = (Kind, Key);

/// One row that a context's query returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Raised by every change of anything, never used twice: the value contains it.
    pub revision: u64,
    /// Where it belongs; everywhere if none.
    pub regions: Option<BTreeSet<Region>>,
    /// Its value has more bytes than allowed.
    pub too_large: bool,
}

impl Row {
    /// Whether it belongs in a region.
    pub fn is_in(&self, region: &Region) -> bool {
        self.regions.as_ref().is_none_or(|r| r.contains(region))
    }

    /// The value.
    pub fn value(&self) -> Arc<str> {
        format!(
            "{{\"rev\":{},\"pad\":\"{}\"}}",
            self.revision,
            "x".repeat(20)
        )
        .into()
    }
}

/// A plan that tenants are on: what a `tenants` query is asked about.
pub type Plan = u8;

/// The rows of one tenant, shared by the states in which they are the same.
pub type Rows = Arc<BTreeMap<Name, Row>>;

/// Everything that one snapshot sees.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The rows of each tenant.
    pub rows: BTreeMap<TenantId, Rows>,
    /// Kinds whose query fails for a tenant.
    pub broken: BTreeSet<(TenantId, Kind)>,
    /// The revision of each plan.
    pub plans: BTreeMap<Plan, u64>,
    /// The plan of each tenant that has one: its bundle has a context with the revision of the plan.
    pub on_plan: BTreeMap<TenantId, Plan>,
    /// The fingerprint of the definitions.
    pub definitions: u128,
}

impl State {
    /// A tenant's bundle in a region, before anything is held for a clash.
    pub fn bundle(&self, tenant: &TenantId, region: &Region) -> Bundle {
        let broken = |kind: &Kind| self.broken.contains(&(tenant.clone(), kind.clone()));
        let (mut contexts, mut held) = (Vec::new(), Vec::new());
        let rows = self.rows.get(tenant).into_iter().flat_map(|r| r.iter());
        for ((kind, key), row) in rows.filter(|((kind, _), row)| row.is_in(region) && !broken(kind))
        {
            let (kind, key) = (kind.clone(), key.clone());
            match row.too_large {
                true => held.push(Held {
                    kind,
                    key,
                    why: HoldReason::TooLarge { bytes: 2, max: 1 },
                }),
                false => contexts.push(Context {
                    kind,
                    key,
                    value: row.value(),
                    expires: None,
                }),
            }
        }
        contexts.extend(self.limits(tenant));
        let whole = |kind: &Kind| HeldKind {
            kind: kind.clone(),
            why: HoldReason::CannotBuild {
                why: "division by zero".into(),
            },
        };
        let of_tenant = self.broken.iter().filter(|(t, _)| t == tenant);
        let held_kinds = of_tenant.map(|(_, kind)| whole(kind)).collect();
        Bundle::new(tenant.clone(), contexts, held, held_kinds).expect("a sound bundle")
    }

    /// The context that comes from the tenant's plan.
    fn limits(&self, tenant: &TenantId) -> Option<Context> {
        let plan = self.on_plan.get(tenant)?;
        self.rows.get(tenant)?;
        let revision = self.plans.get(plan).copied().unwrap_or_default();
        Some(Context {
            kind: limits_kind(),
            key: Key::new(tenant.as_str()).ok()?,
            value: format!("{{\"plan\":{plan},\"rev\":{revision}}}").into(),
            expires: None,
        })
    }

    /// The tenants that are on a plan.
    pub fn tenants_on(&self, plan: Plan) -> Vec<TenantId> {
        let on = self.on_plan.iter().filter(|(_, p)| **p == plan);
        on.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Who has a key in a region, good or not.
    pub fn claimants(&self, name: &Name, region: &Region) -> Vec<&TenantId> {
        let has = |rows: &Rows| rows.get(name).is_some_and(|r| r.is_in(region));
        let having = self.rows.iter().filter(|(_, rows)| has(rows));
        having.map(|(tenant, _)| tenant).collect()
    }
}

/// What a transaction writes: by row, so that transactions which run side by side do not undo one another.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    rows: BTreeMap<(TenantId, Name), Option<Row>>,
    broken: BTreeMap<(TenantId, Kind), bool>,
    plans: BTreeMap<Plan, u64>,
    on_plan: BTreeMap<TenantId, Plan>,
    definitions: bool,
}

impl Writes {
    /// What makes of one state the other.
    pub fn between(before: &State, after: &State) -> Self {
        let mut writes = Self {
            definitions: before.definitions != after.definitions,
            ..Self::default()
        };
        let tenants: BTreeSet<&TenantId> = before.rows.keys().chain(after.rows.keys()).collect();
        let none = Rows::default();
        for tenant in tenants {
            let (old, new) = (before.rows.get(tenant), after.rows.get(tenant));
            let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
            if Arc::ptr_eq(old, new) {
                continue;
            }
            for name in old.keys().chain(new.keys()) {
                if old.get(name) != new.get(name) {
                    let place = (tenant.clone(), name.clone());
                    writes.rows.insert(place, new.get(name).cloned());
                }
            }
        }
        for broken in before.broken.symmetric_difference(&after.broken) {
            let now = after.broken.contains(broken);
            writes.broken.insert(broken.clone(), now);
        }
        for (plan, revision) in &after.plans {
            if before.plans.get(plan) != Some(revision) {
                writes.plans.insert(*plan, *revision);
            }
        }
        for (tenant, plan) in &after.on_plan {
            if before.on_plan.get(tenant) != Some(plan) {
                writes.on_plan.insert(tenant.clone(), *plan);
            }
        }
        writes
    }

    /// Adds later writes of the same transaction.
    pub fn add(&mut self, later: Self) {
        self.rows.extend(later.rows);
        self.broken.extend(later.broken);
        self.plans.extend(later.plans);
        self.on_plan.extend(later.on_plan);
        self.definitions |= later.definitions;
    }

    /// Makes the changes in a state.
    pub fn apply(&self, state: &mut State) {
        for ((tenant, name), row) in &self.rows {
            let rows = Arc::make_mut(state.rows.entry(tenant.clone()).or_default());
            match row {
                Some(row) => rows.insert(name.clone(), row.clone()),
                None => rows.remove(name),
            };
            if rows.is_empty() {
                state.rows.remove(tenant);
            }
        }
        for (broken, now) in &self.broken {
            match now {
                true => state.broken.insert(broken.clone()),
                false => state.broken.remove(broken),
            };
        }
        let rows = &state.rows;
        state.broken.retain(|(tenant, _)| rows.contains_key(tenant));
        state.plans.extend(&self.plans);
        let moved = self.on_plan.iter().map(|(t, plan)| (t.clone(), *plan));
        state.on_plan.extend(moved);
        state.definitions += u128::from(self.definitions);
    }

    /// Whether two transactions that run side by side write the same row: one would wait for the other.
    pub fn collide(&self, other: &Self) -> bool {
        self.rows.keys().any(|k| other.rows.contains_key(k))
            || self.broken.keys().any(|k| other.broken.contains_key(k))
            || self.plans.keys().any(|k| other.plans.contains_key(k))
            || self.on_plan.keys().any(|k| other.on_plan.contains_key(k))
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        !self.definitions && !self.collide(self)
    }

    /// The tenants whose bundles these writes change, as a state sees it.
    pub fn tenants(&self, state: &State) -> BTreeSet<TenantId> {
        let rows = self.rows.keys().map(|(t, _)| t.clone());
        let broken = self.broken.keys().map(|(t, _)| t.clone());
        let moved = self.on_plan.keys().cloned();
        let on = self.plans.keys().flat_map(|plan| state.tenants_on(*plan));
        rows.chain(broken).chain(moved).chain(on).collect()
    }
}

/// The kinds whose contexts are rows of a tenant.
pub fn row_kinds() -> Vec<Kind> {
    ["api_key", "cluster"]
        .iter()
        .map(|k| Kind::new(k).expect("a kind"))
        .collect()
}

/// The kind whose contexts come from the tenants' plans.
fn limits_kind() -> Kind {
    Kind::new("limits").expect("a kind")
}

/// The kinds of this world.
pub fn kinds() -> Vec<Kind> {
    row_kinds().into_iter().chain([limits_kind()]).collect()
}

/// A tenant of this world.
pub fn tenant(i: usize) -> TenantId {
    TenantId::new(&format!("t{i:02}")).expect("a tenant")
}

/// A tenant that only bulk changes concern.
pub fn bulk_tenant(i: usize) -> TenantId {
    TenantId::new(&format!("b{i:02}")).expect("a tenant")
}

/// Its key.
pub fn bulk_key(i: usize) -> Key {
    Key::new(&format!("bulk{i:02}")).expect("a key")
}

/// A key of this world.
pub fn key(i: usize) -> Key {
    Key::new(&format!("k{i:02}")).expect("a key")
}
