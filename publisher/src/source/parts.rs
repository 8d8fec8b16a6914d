//! The rows of one tenant, what is held of them, and the bundles that come of both. Pure.

use super::assemble::Row;
use super::budgets::Budget;
use super::definitions::Definition;
use super::holds::{HoldRow, HoldState};
use super::pauses::Pause;
use crate::writer::{ANY_VALUE, Built, BuiltBundle, HoldName, Withheld, value_of};
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::delta::Cut;
use contexts::digest::{Digest, DigestKey};
use contexts::limits;
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Part {
    pub content: Result<Context, Held>,
    /// The digest of the context, if it is one.
    pub digest: Digest,
    pub regions: Option<Vec<Region>>,
}

impl Part {
    /// Kind and key.
    pub fn name(&self) -> (&Kind, &Key) {
        match &self.content {
            Ok(context) => context.name(),
            Err(held) => (&held.kind, &held.key),
        }
    }

    /// Adds another part of the same name: which of both is meant nobody knows.
    fn join(&mut self, other: Self) {
        let (kind, key) = self.name();
        self.content = Err(Held {
            kind: kind.clone(),
            key: key.clone(),
            why: HoldReason::Duplicate,
        });
        self.regions = match (self.regions.take(), other.regions) {
            (Some(mut a), Some(b)) => {
                a.extend(b);
                Some(a)
            }
            _ => None,
        };
    }

    /// Whether it belongs in a region.
    pub fn is_in(&self, region: &Region) -> bool {
        self.regions.as_ref().is_none_or(|r| r.contains(region))
    }
}

/// The rows of one tenant so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Sorted by name and without duplicates once [`Parts::sort`] was called.
    pub parts: Vec<Part>,
    pub held_kinds: BTreeMap<Kind, HoldReason>,
    /// Bytes of what is in `parts`.
    bytes: usize,
    /// The kinds with which the tenant was too large to be sent.
    too_many: BTreeSet<Kind>,
    /// Those that keep something here, once they are settled.
    pub holds: Vec<HoldRow>,
}

impl Parts {
    /// Takes a row that belongs in these regions; none for all of them. `kind` is that of the definition.
    ///
    /// # Errors
    /// Why the kind cannot be built for this tenant.
    pub fn add(
        &mut self,
        definition: &Definition,
        kind: &Kind,
        row: Row,
        regions: Option<Vec<Region>>,
    ) -> Result<(), String> {
        let key = row.key.ok_or("a row has a NULL key")?;
        let key = Key::try_from(key).map_err(|e| e.to_string())?;
        let (bytes, max) = (row.value.len() as u64, definition.max_value_bytes);
        let wrong = if bytes > max {
            Some(HoldReason::TooLarge { bytes, max })
        } else if let Some((at, why)) = definition.fault(&row.value) {
            Some(HoldReason::BreaksSchema { at, why })
        } else if definition.regions_required && regions.is_none() {
            Some(HoldReason::CannotBuild {
                why: "regions is NULL, and regions_required is set".into(),
            })
        } else {
            None
        };
        let content = match wrong {
            Some(why) => Err(Held {
                kind: kind.clone(),
                key,
                why,
            }),
            None => Ok(Context {
                kind: kind.clone(),
                key,
                value: row.value,
                expires: row.expires,
            }),
        };
        let weight = content.as_ref().map_or(0, Context::weight);
        if !self.has_room(kind, weight) {
            let most = limits::TENANT_CONTEXTS_BYTES >> 20;
            return Err(format!(
                "with this kind the tenant has more than {most} MiB of contexts, and cannot be sent"
            ));
        }
        self.parts.push(Part {
            content,
            digest: row.digest,
            regions,
        });
        Ok(())
    }

    /// Sorts what came, and makes one of what has the same name.
    pub fn sort(&mut self) {
        self.parts.sort_unstable_by(|a, b| a.name().cmp(&b.name()));
        let is_unique = self.parts.is_sorted_by(|a, b| a.name() != b.name());
        if is_unique {
            return;
        }
        let mut parts: Vec<Part> = Vec::with_capacity(self.parts.len());
        for part in self.parts.drain(..) {
            match parts.last_mut() {
                Some(last) if last.name() == part.name() => last.join(part),
                _ => parts.push(part),
            }
        }
        self.parts = parts;
    }

    /// The part of this name.
    fn part(&self, kind: &Kind, key: &Key) -> Option<&Part> {
        let place = self
            .parts
            .binary_search_by(|part| part.name().cmp(&(kind, key)));
        place.ok().map(|at| &self.parts[at])
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
        self.parts.retain(|part| part.name().0 != kind);
        let weight = |part: &Part| part.content.as_ref().map_or(0, Context::weight);
        self.bytes = self.parts.iter().map(weight).sum();
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
            let there = self.part(kind, key);
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
        let mut parts = std::mem::take(&mut self.parts);
        parts.retain(|part| !self.held_kinds.contains_key(part.name().0));
        let everywhere = parts.iter().all(|p| p.regions.is_none())
            && pauses.iter().all(|p| p.region.is_none())
            && self.holds.is_empty();
        let built = |parts: Vec<Part>, region| {
            let (bundle, digests) = self.bundle(parts, &tenant, region, pauses, budgets);
            Arc::new(BuiltBundle::of(bundle, digests, key, Cut::default()))
        };
        let bundles = match (everywhere, regions.first()) {
            (true, Some(first)) => vec![built(parts, first); regions.len()],
            _ => {
                let of = |region| parts.iter().filter(move |part| part.is_in(region)).cloned();
                let bundles = regions
                    .iter()
                    .map(|region| built(of(region).collect(), region));
                bundles.collect()
            }
        };
        Built { tenant, bundles }
    }

    /// The bundle of a region, of the parts that belong there, and the digests of its contexts.
    fn bundle(
        &self,
        parts: Vec<Part>,
        tenant: &TenantId,
        region: &Region,
        pauses: &[Pause],
        budgets: &BTreeMap<Kind, Budget>,
    ) -> (Bundle, Vec<Digest>) {
        let (mut contexts, mut digests) = (
            Vec::with_capacity(parts.len()),
            Vec::with_capacity(parts.len()),
        );
        let mut held = Vec::new();
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
        let mut holds: BTreeMap<(Kind, Key), HoldReason> = holds
            .map(|h| ((h.name.kind.clone(), h.name.key.clone()), reason(h)))
            .collect();
        for part in parts {
            let hold = match holds.is_empty() {
                true => None,
                false => {
                    let (kind, key) = part.name();
                    holds.remove(&(kind.clone(), key.clone()))
                }
            };
            let context = match part.content {
                Ok(context) => context,
                Err(name) => {
                    held.push(name);
                    continue;
                }
            };
            let paused = pauses.iter().any(|p| p.stops(region, &context.kind));
            let why = match (paused, hold) {
                (true, _) => HoldReason::Paused,
                (false, Some(why)) => why,
                (false, None) => {
                    contexts.push(context);
                    digests.push(part.digest);
                    continue;
                }
            };
            held.push(Held {
                kind: context.kind,
                key: context.key,
                why,
            });
        }
        // What is left of them the hub has no longer.
        let gone = holds.into_iter();
        held.extend(gone.map(|((kind, key), why)| Held { kind, key, why }));
        held.sort_unstable_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
        let whole = |(kind, why): (&Kind, &HoldReason)| HeldKind {
            kind: kind.clone(),
            why: why.clone(),
        };
        // The parts are sorted and unique, and held kinds were taken out, so they agree by construction.
        let bundle = Bundle {
            tenant: tenant.clone(),
            contexts,
            held,
            held_kinds: self.held_kinds.iter().map(whole).collect(),
        };
        (bundle, digests)
    }
}
