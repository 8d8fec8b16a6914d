//! Keys that move between more tenants than one transaction has room for. The same bundles go in three rounds, and in each
//! of them tenant by tenant, so that nothing is to happen at once but what one tenant needs.
//!
//! | round | writes | why no invariant breaks if it ends here |
//! | --- | --- | --- |
//! | 1 leave | who gives keys away, with these and those that it takes as held names | a key that is on its way has no value and no two owners (2), and is known to exist (5) |
//! | 2 take | who takes keys, with those that it gives away as held names | the key comes with the head of its new tenant (2) |
//! | 3 forget | who gave keys away, and all others, as they are to be | what was held is somebody's by now |
//!
//! Each round is written as any push is. Wherever it ends, the heads of those who are not done have other digests than the
//! hub expects, so it sends them again (8). Held names stand in the head: where it has no room for them, the tenant goes
//! without, and its keys are absent while they are on their way.

use crate::client::TableError;
use crate::working::{Changed, Group};
use contexts::apply::Name;
use contexts::apply::maps::Maps;
use contexts::bundle::{BadBundle, Bundle, Held, HoldReason};
use contexts::name::TenantId;
use contexts::push::Sent;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keys, and the tenant on the other side of each.
type Keys = BTreeMap<Name, TenantId>;

/// The keys that move within a group.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    tenants: BTreeSet<TenantId>,
    /// By whom had the value, to whom it goes.
    gives: BTreeMap<TenantId, Keys>,
    /// By whom gets the value, and who had the key.
    takes: BTreeMap<TenantId, Keys>,
}

/// A part of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Leave,
    Take,
    Forget,
}

/// In this order.
pub(crate) const ROUNDS: [Round; 3] = [Round::Leave, Round::Take, Round::Forget];

impl Moves {
    /// What moves within a group; `before` is what was read.
    pub(crate) fn of(group: &Group, before: &Maps) -> Self {
        let mut this = Self::default();
        let tenants = group.heads.iter().map(|head| head.stored.tenant.clone());
        this.tenants.extend(tenants);
        for Changed { name, stored, .. } in &group.contexts {
            let now = stored.as_ref().map(|stored| &stored.owner);
            let now = now.filter(|owner| owner.has_value);
            let (Some(before), Some(now)) = (before.owners.get(name), now) else {
                continue;
            };
            if before.tenant == now.tenant {
                continue;
            }
            note(&mut this.takes, &now.tenant, name, &before.tenant);
            if before.has_value {
                note(&mut this.gives, &before.tenant, name, &now.tenant);
            }
        }
        this
    }

    /// How many tenants there are.
    pub(crate) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// What a round makes of these bundles, with `names` of what is on its way; those that it does not concern are left out.
    ///
    /// # Errors
    /// If one contradicts itself.
    pub(crate) fn bundles(
        &self,
        round: Round,
        bundles: &[Sent],
        names: bool,
    ) -> Result<Vec<Sent>, TableError> {
        let is_of_round = |sent: &&Sent| {
            let tenant = &sent.bundle.tenant;
            let (gives, takes) = (
                self.gives.contains_key(tenant),
                self.takes.contains_key(tenant),
            );
            self.tenants.contains(tenant)
                && match round {
                    Round::Leave => gives,
                    Round::Take => takes,
                    Round::Forget => gives || !takes,
                }
        };
        let of_round = bundles.iter().filter(is_of_round);
        let under_way = of_round.map(|sent| self.under_way(round, sent, names));
        let under_way: Result<_, _> = under_way.collect();
        under_way.map_err(|bad| TableError::Rejected(bad.to_string()))
    }

    fn under_way(&self, round: Round, sent: &Sent, names: bool) -> Result<Sent, BadBundle> {
        let bundle = &sent.bundle;
        let of = |all: &BTreeMap<TenantId, Keys>, is_under_way: bool| -> Keys {
            let keys = all.get(&bundle.tenant).filter(|_| is_under_way);
            keys.cloned().unwrap_or_default()
        };
        let gives = of(&self.gives, round != Round::Forget);
        let takes = of(&self.takes, round == Round::Leave);
        if gives.is_empty() && takes.is_empty() {
            return Ok(sent.clone());
        }
        let contexts = bundle.contexts.iter().filter(|context| {
            let (kind, key) = context.name();
            !takes.contains_key(&(kind.clone(), key.clone()))
        });
        let contexts = contexts.cloned().collect();
        let held = |((kind, key), owner): (&Name, &TenantId)| Held {
            kind: kind.clone(),
            key: key.clone(),
            why: HoldReason::KeyTaken {
                owner: owner.clone(),
            },
        };
        let moving = gives.iter().chain(&takes);
        let moving = moving.filter(|((kind, key), _)| names && !bundle.holds(kind, key));
        let moving = moving.map(held);
        let held = bundle.held.iter().cloned().chain(moving).collect();
        let bundle = Bundle::new(
            bundle.tenant.clone(),
            contexts,
            held,
            bundle.held_kinds.clone(),
        )?;
        Ok(Sent {
            version: sent.version,
            bundle: Arc::new(bundle),
        })
    }
}

fn note(all: &mut BTreeMap<TenantId, Keys>, one: &TenantId, name: &Name, other: &TenantId) {
    let keys = all.entry(one.clone()).or_default();
    keys.insert(name.clone(), other.clone());
}
