//! What differs between the hub's truth and the stores, without changing anything and without being the writer: for
//! `diff`, `scan --dry-run` and `get`.

use crate::engine::Parts;
use crate::source::SourceError;
use crate::writer::{BatchId, BuildRequest, Built, RegionFilter, What};
use contexts::bundle::{Bundle, Context, HoldClass, HoldReason};
use contexts::digest::{BUCKETS, Digest};
use contexts::limits;
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{ReadTenant, TenantState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How a context differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The hub has it, the store does not.
    Missing,
    /// The store has it, the hub does not.
    Extra,
    /// They have different values or expiry.
    Changed,
    /// The hub does not publish it, or another tenant owns the key: the store is not meant to have the hub's value.
    Held,
    /// The hub has it no longer, or has another value, and the store keeps it since a person decided so.
    Kept,
}

/// One context that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// The tenant.
    pub tenant: TenantId,
    /// The kind.
    pub kind: Kind,
    /// The key; none for a whole kind.
    pub key: Option<Key>,
    /// How.
    pub difference: Difference,
}

/// One store compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Region and address.
    pub store: String,
    /// Its region.
    pub region: Region,
    /// Why it could not be compared.
    pub unreachable: Option<String>,
    /// Tenants that differ or of which something is held.
    pub tenants: u64,
    /// The contexts.
    pub differences: Vec<Differs>,
}

/// All that was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Tenants at the hub.
    pub tenants: usize,
    /// Contexts at the hub.
    pub contexts: u64,
    /// What is wrong with the hub's own data.
    pub problems: Vec<String>,
    /// The stores.
    pub stores: Vec<Compared>,
}

impl Comparison {
    /// Whether nothing differs but what a person wants so.
    pub fn is_clean(&self) -> bool {
        let is_clean = |store: &Compared| {
            let mut all = store.differences.iter();
            store.unreachable.is_none() && all.all(|d| d.difference == Difference::Kept)
        };
        self.problems.is_empty() && self.stores.iter().all(is_clean)
    }
}

/// Tenants that are built at once when differences are looked into.
const AT_ONCE: usize = 200;

struct Hub<'a> {
    parts: &'a Parts,
    regions: Vec<Region>,
}

impl Hub<'_> {
    async fn build(&self, what: What) -> Result<crate::writer::BuiltBatch, SourceError> {
        self.parts
            .source
            .build(&BuildRequest::new(BatchId(0), what), &self.regions)
            .await
    }
}

/// Compares all tenants, or one.
///
/// # Errors
/// [`SourceError`] if the database fails.
pub async fn compare(
    parts: &Parts,
    tenant: Option<TenantId>,
    regions: &RegionFilter,
    progress: impl Fn(usize, usize),
) -> Result<Comparison, SourceError> {
    let wanted: BTreeSet<Region> = parts.spokes.iter().map(|s| s.region.clone()).collect();
    let hub = Hub {
        parts,
        regions: wanted.into_iter().collect(),
    };
    let mut result = Comparison {
        tenants: 0,
        contexts: 0,
        problems: Vec::new(),
        stores: Vec::new(),
    };
    let mut truth: HashMap<TenantId, Vec<Option<Digest>>> = HashMap::new();
    let mut holding: BTreeSet<TenantId> = BTreeSet::new();
    let mut note = |result: &mut Comparison, built: &[Built]| {
        for b in built {
            let held = |x: &Bundle| !x.held.is_empty() || !x.held_kinds.is_empty();
            if b.bundles.iter().any(|x| held(&x.bundle)) {
                holding.insert(b.tenant.clone());
            }
            result.tenants += usize::from(b.bundles.iter().any(|x| x.presence().is_some()));
            truth.insert(
                b.tenant.clone(),
                b.bundles.iter().map(|x| x.presence()).collect(),
            );
        }
    };
    match &tenant {
        Some(tenant) => {
            let batch = hub.build(What::Tenants(vec![tenant.clone()])).await?;
            result.contexts += batch.contexts;
            note(&mut result, &batch.tenants);
            result.problems.extend(batch.problems);
        }
        None => {
            let bounds = hub.build(What::Bounds).await?;
            result.problems.extend(bounds.problems);
            let all = bounds.ranges.len();
            for (i, range) in bounds.ranges.into_iter().enumerate() {
                let batch = hub.build(What::Range(range)).await?;
                result.contexts += batch.contexts;
                note(&mut result, &batch.tenants);
                result.problems.extend(batch.problems);
                progress(i + 1, all);
            }
        }
    }
    for spoke in parts.spokes.iter().filter(|s| regions.has(&s.region)) {
        let region = hub
            .regions
            .iter()
            .position(|r| *r == spoke.region)
            .unwrap_or(0);
        let mut compared = Compared {
            store: spoke.name(),
            region: spoke.region.clone(),
            unreachable: None,
            tenants: 0,
            differences: Vec::new(),
        };
        let suspects = match (spoke.hello().await, &tenant) {
            (Err(why), _) => Err(why),
            (Ok(_), Some(tenant)) => Ok(vec![tenant.clone()]),
            // A store that keeps what the hub holds has the same digest, and still not what the hub has.
            (Ok(_), None) => suspects(spoke, region, &truth).await.map(|suspects| {
                let all: BTreeSet<TenantId> = suspects.into_iter().chain(holding.clone()).collect();
                all.into_iter().collect()
            }),
        };
        match suspects {
            Err(why) => compared.unreachable = Some(why),
            Ok(suspects) => {
                for part in suspects.chunks(AT_ONCE) {
                    look(&hub, spoke, region, part, &mut compared).await?;
                }
            }
        }
        result.stores.push(compared);
    }
    Ok(result)
}

/// The tenants whose digest in a store is not that of the hub.
async fn suspects(
    spoke: &crate::spoke::Spoke,
    region: usize,
    truth: &HashMap<TenantId, Vec<Option<Digest>>>,
) -> Result<Vec<TenantId>, String> {
    let mut held = HashMap::new();
    let all: Vec<u16> = (0..BUCKETS as u16).collect();
    for buckets in all.chunks(limits::BUCKETS_LISTED) {
        held.extend(
            spoke
                .buckets(buckets.to_vec())
                .await?
                .into_iter()
                .map(|l| (l.tenant, l.digest)),
        );
    }
    let there = |t: &TenantId| truth.get(t).and_then(|digests| digests[region]);
    let mut suspects: BTreeSet<TenantId> = held
        .iter()
        .filter(|(t, d)| there(t) != Some(**d))
        .map(|(t, _)| t.clone())
        .collect();
    suspects.extend(
        truth
            .iter()
            .filter(|(t, d)| d[region].is_some() && !held.contains_key(*t))
            .map(|(t, _)| t.clone()),
    );
    Ok(suspects.into_iter().collect())
}

/// Builds tenants once more and compares them with what the store holds of them now, context by context.
async fn look(
    hub: &Hub<'_>,
    spoke: &crate::spoke::Spoke,
    region: usize,
    tenants: &[TenantId],
    compared: &mut Compared,
) -> Result<(), SourceError> {
    let batch = hub.build(What::Tenants(tenants.to_vec())).await?;
    let ask = ReadTenant {
        tenants: tenants.to_vec(),
        owners_of: Vec::new(),
    };
    let read = match spoke.read(&ask).await {
        Ok(read) => read,
        Err(why) => {
            compared.unreachable = Some(why);
            return Ok(());
        }
    };
    let states: HashMap<&TenantId, &TenantState> =
        read.tenants.iter().map(|s| (&s.tenant, s)).collect();
    for built in &batch.tenants {
        let Some(state) = states.get(&built.tenant) else {
            continue;
        };
        let found = differences(&built.bundles[region].bundle, state);
        compared.tenants += u64::from(!found.is_empty());
        compared.differences.extend(found);
    }
    Ok(())
}

/// How a store's side of a tenant differs from the bundle that belongs there.
pub(crate) fn differences(bundle: &Bundle, state: &TenantState) -> Vec<Differs> {
    type Name<'a> = (&'a Kind, &'a Key);
    let mut found: BTreeMap<(Kind, Option<Key>), Difference> = BTreeMap::new();
    let hub: BTreeMap<Name<'_>, &Context> = bundle.contexts.iter().map(|c| (c.name(), c)).collect();
    let store: BTreeMap<Name<'_>, &Context> =
        state.contexts.iter().map(|c| (c.name(), c)).collect();
    let held_here: BTreeSet<Name<'_>> = bundle.held.iter().map(|h| (&h.kind, &h.key)).collect();
    let held_there: BTreeSet<Name<'_>> = state.held.iter().map(|(kind, key)| (kind, key)).collect();
    let is_held = |name: &Name<'_>| {
        held_here.contains(name) || held_there.contains(name) || bundle.keeps_kind(name.0)
    };
    for name in hub.keys().chain(store.keys()) {
        let difference = match (hub.get(name), store.get(name)) {
            _ if is_held(name) => Difference::Held,
            (Some(a), Some(b)) if a == b => continue,
            (Some(_), Some(_)) => Difference::Changed,
            (Some(_), None) => Difference::Missing,
            _ => Difference::Extra,
        };
        found.insert((name.0.clone(), Some(name.1.clone())), difference);
    }
    for held in bundle
        .held
        .iter()
        .filter(|h| h.why.class() == HoldClass::Keeps)
    {
        let difference = match held.why {
            HoldReason::Dropped => Difference::Kept,
            _ => Difference::Held,
        };
        found.insert((held.kind.clone(), Some(held.key.clone())), difference);
    }
    for kind in &bundle.held_kinds {
        found.insert((kind.kind.clone(), None), Difference::Held);
    }
    let differs = |((kind, key), difference)| Differs {
        tenant: bundle.tenant.clone(),
        kind,
        key,
        difference,
    };
    found.into_iter().map(differs).collect()
}
