//! The rows of one tenant, what is held of them, and the bundles that come of both. Pure.

use super::assemble::Row;
use super::budgets::Budget;
use super::definitions::Definition;
use super::holds::{HoldRow, HoldState};
use super::pauses::Pause;
use crate::writer::{ANY_VALUE, Built, BuiltBundle, HoldName, Withheld, value_of};
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::DigestKey;
use contexts::limits;
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Part {
    pub content: Result<Context, Held>,
    pub regions: Option<Vec<Region>>,
}

impl Part {
    /// Whether it belongs in a region.
    pub fn is_in(&self, region: &Region) -> bool {
        self.regions.as_ref().is_none_or(|r| r.contains(region))
    }
}

/// The rows of one tenant so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub parts: BTreeMap<(Kind, Key), Part>,
    pub held_kinds: BTreeMap<Kind, HoldReason>,
    /// Bytes of what is in `parts`.
    bytes: usize,
    /// The kinds with which the tenant was too large to be sent.
    too_many: BTreeSet<Kind>,
    /// Those that keep something here, once they are settled.
    pub holds: Vec<HoldRow>,
}

impl Parts {
    /// Takes a row that belongs in these regions; none for all of them.
    ///
    /// # Errors
    /// Why the kind cannot be built for this tenant.
    pub fn add(
        &mut self,
        definition: &Definition,
        row: Row,
        regions: Option<Vec<Region>>,
    ) -> Result<(), String> {
        let kind = &definition.kind;
        let key = row.key.ok_or("a row has a NULL key")?;
        let key = Key::try_from(key).map_err(|e| e.to_string())?;
        let held = |why: HoldReason| Held {
            kind: kind.clone(),
            key: key.clone(),
            why,
        };
        let (bytes, max) = (row.value.len() as u64, definition.max_value_bytes);
        let content = if bytes > max {
            Err(held(HoldReason::TooLarge { bytes, max }))
        } else if let Some((at, why)) = definition.fault(&row.value) {
            Err(held(HoldReason::BreaksSchema { at, why }))
        } else if definition.regions_required && regions.is_none() {
            Err(held(HoldReason::CannotBuild {
                why: "regions is NULL, and regions_required is set".into(),
            }))
        } else {
            Ok(Context {
                kind: kind.clone(),
                key: key.clone(),
                value: row.value,
                expires: row.expires,
            })
        };
        let weight = content.as_ref().map_or(0, Context::weight);
        if !self.has_room(kind, weight) {
            let most = limits::TENANT_CONTEXTS_BYTES >> 20;
            return Err(format!(
                "with this kind the tenant has more than {most} MiB of contexts, and cannot be sent"
            ));
        }
        match self.parts.entry((kind.clone(), key)) {
            Entry::Vacant(place) => {
                place.insert(Part { content, regions });
            }
            Entry::Occupied(place) => {
                let (kind, key) = place.key().clone();
                let part = place.into_mut();
                let why = HoldReason::Duplicate;
                part.content = Err(Held { kind, key, why });
                part.regions = match (part.regions.take(), regions) {
                    (Some(mut a), Some(b)) => {
                        a.extend(b);
                        Some(a)
                    }
                    _ => None,
                };
            }
        }
        Ok(())
    }

    pub fn hold_kind(&mut self, kind: &Kind, why: String) {
        self.held_kinds
            .entry(kind.clone())
            .or_insert(HoldReason::CannotBuild { why });
    }

    /// Counts a context; whether the tenant can be sent with it. If not, what came of its kind is let go: there may be more
    /// of that than there is memory for.
    fn has_room(&mut self, kind: &Kind, weight: usize) -> bool {
        if self.too_many.contains(kind) {
            return false;
        }
        self.bytes += weight;
        if self.bytes <= limits::TENANT_CONTEXTS_BYTES {
            return true;
        }
        self.too_many.insert(kind.clone());
        self.parts.retain(|(of, _), _| of != kind);
        let weight = |part: &Part| part.content.as_ref().map_or(0, Context::weight);
        self.bytes = self.parts.values().map(weight).sum();
        false
    }

    /// Leaves the holds that keep something here, and returns what may go. Of a kind that cannot be built nothing can be
    /// said.
    pub fn settle_holds(
        &mut self,
        budgets: &BTreeMap<Kind, Budget>,
        void: &mut Vec<HoldName>,
    ) -> Vec<HoldName> {
        let mut approved = Vec::new();
        for hold in std::mem::take(&mut self.holds) {
            let HoldName {
                kind, key, region, ..
            } = &hold.name;
            if self.held_kinds.contains_key(kind) {
                continue;
            }
            let there = self.parts.get(&(kind.clone(), key.clone()));
            let there = there.filter(|part| part.is_in(region));
            let is_over = match (hold.name.what, there.map(|part| &part.content)) {
                (Withheld::Removal, there) => there.is_some(),
                (Withheld::Change(value), Some(Ok(context))) => {
                    value != ANY_VALUE && value != value_of(context)
                }
                // It is held for what is wrong with it; what it will be nobody knows.
                (Withheld::Change(_), Some(Err(_))) => continue,
                (Withheld::Beyond, Some(_)) => budgets.get(kind).is_none_or(|b| b.max.is_none()),
                (Withheld::Change(_) | Withheld::Beyond, None) => true,
            };
            match hold.state {
                _ if is_over => void.push(hold.name),
                HoldState::Approved => approved.push(hold.name),
                HoldState::Held | HoldState::Dropped => self.holds.push(hold),
            }
        }
        approved
    }

    pub fn build(
        mut self,
        tenant: TenantId,
        regions: &[Region],
        key: &DigestKey,
        pauses: &[Pause],
        budgets: &BTreeMap<Kind, Budget>,
    ) -> Built {
        let held_kinds = &self.held_kinds;
        self.parts
            .retain(|(kind, _), _| !held_kinds.contains_key(kind));
        let everywhere = self.parts.values().all(|p| p.regions.is_none())
            && pauses.iter().all(|p| p.region.is_none())
            && self.holds.is_empty();
        let bundles = match (everywhere, regions.first()) {
            (true, Some(first)) => {
                let one = self.bundle(&tenant, first, pauses, budgets);
                let one = Arc::new(BuiltBundle::new(one, key));
                vec![one; regions.len()]
            }
            _ => {
                let bundles = regions
                    .iter()
                    .map(|region| self.bundle(&tenant, region, pauses, budgets));
                let built = bundles.map(|bundle| Arc::new(BuiltBundle::new(bundle, key)));
                built.collect()
            }
        };
        Built { tenant, bundles }
    }

    fn bundle(
        &self,
        tenant: &TenantId,
        region: &Region,
        pauses: &[Pause],
        budgets: &BTreeMap<Kind, Budget>,
    ) -> Bundle {
        let (mut contexts, mut held) = (Vec::new(), Vec::new());
        let holds = self.holds.iter().filter(|h| h.name.region == *region);
        let reason = |hold: &HoldRow| match (hold.state, hold.name.what) {
            (HoldState::Dropped, _) => HoldReason::Dropped,
            (_, Withheld::Removal) => HoldReason::Removed,
            (_, Withheld::Change(_)) => HoldReason::Changed,
            (_, Withheld::Beyond) => {
                let budget = budgets.get(&hold.name.kind).and_then(|b| b.max);
                HoldReason::OverBudget {
                    max: budget.unwrap_or_default(),
                }
            }
        };
        let mut holds: BTreeMap<(&Kind, &Key), HoldReason> = holds
            .map(|h| ((&h.name.kind, &h.name.key), reason(h)))
            .collect();
        for part in self.parts.values().filter(|part| part.is_in(region)) {
            let name = match &part.content {
                Ok(context) => context.name(),
                Err(held) => (&held.kind, &held.key),
            };
            let hold = holds.remove(&name);
            let paused = pauses.iter().any(|p| p.stops(region, name.0));
            let why = match (&part.content, hold) {
                (Err(name), _) => {
                    held.push(name.clone());
                    continue;
                }
                (Ok(_), _) if paused => HoldReason::Paused,
                (Ok(_), Some(why)) => why,
                (Ok(context), None) => {
                    contexts.push(context.clone());
                    continue;
                }
            };
            held.push(Held {
                kind: name.0.clone(),
                key: name.1.clone(),
                why,
            });
        }
        // What is left of them the hub has no longer.
        held.extend(holds.into_iter().map(|((kind, key), why)| Held {
            kind: kind.clone(),
            key: key.clone(),
            why,
        }));
        held.sort_unstable_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
        let whole = |(kind, why): (&Kind, &HoldReason)| HeldKind {
            kind: kind.clone(),
            why: why.clone(),
        };
        // The map's keys are sorted and unique, and held kinds were taken out, so the parts agree by construction.
        Bundle {
            tenant: tenant.clone(),
            contexts,
            held,
            held_kinds: self.held_kinds.iter().map(whole).collect(),
        }
    }
}
