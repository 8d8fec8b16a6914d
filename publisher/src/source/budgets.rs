//! What a build says about budgets: how many contexts of a kind a tenant has, which that were held there is room for now, and
//! where there is too much. Pure; it decides of what is held already, and never what is held next (`writer/guard/budget.rs`).

use super::definitions::Definition;
use super::holds::HoldState;
use super::parts::{Part, Parts};
use crate::writer::{HoldName, Level, Over, Usage, Withheld};
use contexts::name::{Key, Kind, Region};
use std::collections::{BTreeMap, BTreeSet};

/// How many contexts of a kind a tenant may have in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Beyond it, what is new is held.
    pub max: Option<u64>,
    /// Beyond it, the tenant is named.
    pub warn: Option<u64>,
}

impl Budget {
    /// That of a kind, if it has one.
    pub fn of(definition: &Definition) -> Option<Self> {
        let (max, warn) = (definition.max_contexts, definition.warn_contexts);
        (max.is_some() || warn.is_some()).then_some(Self { max, warn })
    }
}

/// What there is to say of one tenant.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Where there is too much.
    pub over: Vec<Over>,
    /// What is near a budget or over it.
    pub usage: Vec<Usage>,
}

impl Ledger {
    /// Looks at a tenant, and takes out of its holds those for which there is room.
    pub fn of(
        parts: &mut Parts,
        approved: &[HoldName],
        regions: &[Region],
        budgets: &BTreeMap<Kind, Budget>,
        void: &mut Vec<HoldName>,
    ) -> Self {
        let mut ledger = Self::default();
        for (kind, budget) in budgets {
            // Of a kind that cannot be built nothing is known.
            if parts.held_kinds.contains_key(kind) {
                continue;
            }
            let most = count(parts, kind, |_| true);
            if budget.warn.is_none_or(|warn| most <= warn)
                && budget.max.is_none_or(|max| most <= max)
                && parts.holds.is_empty()
            {
                continue;
            }
            let mut contexts = 0;
            for (place, region) in regions.iter().enumerate() {
                contexts = contexts.max(count(parts, kind, |part| part.is_in(region)));
                if let Some(max) = budget.max {
                    let over = settle(parts, approved, (place, region), kind, max, void);
                    ledger.over.extend(over);
                }
            }
            let usage = Usage {
                kind: kind.clone(),
                contexts,
                warn: budget.warn,
                max: budget.max,
            };
            if usage.level() > Level::Fine {
                ledger.usage.push(usage);
            }
        }
        ledger
    }
}

fn of_kind<'a>(parts: &'a Parts, kind: &'a Kind) -> impl Iterator<Item = (&'a Key, &'a Part)> {
    let named = parts.parts.iter().map(|part| (part.name(), part));
    let all = named.filter(move |((k, _), _)| *k == kind);
    all.map(|((_, key), part)| (key, part))
}

fn count(parts: &Parts, kind: &Kind, wanted: impl Fn(&Part) -> bool) -> u64 {
    of_kind(parts, kind)
        .filter(|(_, part)| wanted(part))
        .count() as u64
}

/// Lets in what there is room for, in the order of the keys, and says what is too much beside what is held.
fn settle(
    parts: &mut Parts,
    approved: &[HoldName],
    (place, region): (usize, &Region),
    kind: &Kind,
    max: u64,
    void: &mut Vec<HoldName>,
) -> Option<Over> {
    let is_ours = |name: &HoldName| {
        name.what == Withheld::Beyond && name.kind == *kind && name.region == *region
    };
    let ours = parts.holds.iter().filter(|h| is_ours(&h.name));
    let mut held: BTreeSet<Key> = ours.clone().map(|h| h.name.key.clone()).collect();
    let waiting = ours.filter(|h| h.state == HoldState::Held);
    let waiting: BTreeSet<Key> = waiting.map(|h| h.name.key.clone()).collect();
    let all = count(parts, kind, |part| part.is_in(region));
    let room = max.saturating_sub(all - held.len() as u64);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let freed: BTreeSet<Key> = waiting.into_iter().take(room).collect();
    let free = parts
        .holds
        .extract_if(.., |h| is_ours(&h.name) && freed.contains(&h.name.key));
    void.extend(free.map(|h| h.name));
    held.retain(|key| !freed.contains(key));
    let excess = (all - held.len() as u64).saturating_sub(max);
    if excess == 0 {
        return None;
    }
    let let_in = approved.iter().filter(|name| is_ours(name));
    held.extend(let_in.map(|name| name.key.clone()));
    let here =
        of_kind(parts, kind).filter(|(key, part)| part.is_in(region) && !held.contains(*key));
    Some(Over {
        region: place,
        kind: kind.clone(),
        max,
        excess: usize::try_from(excess).unwrap_or(usize::MAX),
        keys: here.map(|(key, _)| key.clone()).collect(),
    })
}
