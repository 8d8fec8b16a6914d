//! Keys that two tenants really both have. Pure. Whoever owned the key in the store when the clash was first seen
//! keeps it; for the others it is held, until one side gives it up.
//!
//! Nothing here is kept over a change of writer: the stores know who owns what, so the next writer learns of each clash
//! from their answers and settles it the same way.

use contexts::bundle::{Bundle, HoldReason};
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet};

type Place = (Region, Kind, Key);

#[derive(Debug)]
struct Clash {
    owner: TenantId,
    others: BTreeSet<TenantId>,
}

/// A store said that `tenant` cannot have a key because `owner` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// Where.
    pub region: Region,
    /// The kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// Who has it in the store.
    pub owner: TenantId,
    /// Who wants it.
    pub tenant: TenantId,
}

/// The clashes that are known.
#[derive(Debug, Default)]
pub struct Clashes(BTreeMap<Place, Clash>);

impl Clashes {
    /// Both tenants were built in one snapshot. Remembers the clash if both have the key there, and says whether.
    pub fn settle(&mut self, suspicion: &Suspicion, owners: &Bundle, others: &Bundle) -> bool {
        let Suspicion {
            region,
            kind,
            key,
            owner,
            tenant,
        } = suspicion;
        if !(owners.mentions(kind, key) && others.has(kind, key)) {
            return false;
        }
        let place = (region.clone(), kind.clone(), key.clone());
        let clash = self.0.entry(place).or_insert_with(|| Clash {
            owner: owner.clone(),
            others: BTreeSet::new(),
        });
        match clash.owner == *tenant {
            true => clash.others.insert(owner.clone()),
            false => clash.others.insert(tenant.clone()),
        };
        true
    }

    /// The bundle as it may be published in a region: keys that belong to others are held.
    pub fn hold(&self, region: &Region, bundle: Bundle) -> Bundle {
        let held: Vec<(&Place, &Clash)> = self
            .0
            .iter()
            .filter(|(place, clash)| place.0 == *region && clash.others.contains(&bundle.tenant))
            .collect();
        held.into_iter()
            .fold(bundle, |bundle, ((_, kind, key), clash)| {
                bundle.hold(
                    kind,
                    key,
                    HoldReason::KeyTaken {
                        owner: clash.owner.clone(),
                    },
                )
            })
    }

    /// Whether any clash concerns this tenant, so that [`Clashes::hold`] and [`Clashes::settled_by`] need a look.
    pub fn concerns(&self, tenant: &TenantId) -> bool {
        self.0
            .values()
            .any(|c| c.owner == *tenant || c.others.contains(tenant))
    }

    /// Every tenant of every clash.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        let each = self.0.values();
        each.flat_map(|c| c.others.iter().chain([&c.owner]))
    }

    /// Forgets the clashes that a new build (before [`Clashes::hold`]) has ended; returns the tenants that may have
    /// their keys now and must be built again.
    pub fn settled_by(&mut self, region: &Region, bundle: &Bundle) -> Vec<TenantId> {
        let mut freed = Vec::new();
        self.0.retain(|(place, kind, key), clash| {
            if place != region {
                return true;
            }
            if clash.owner == bundle.tenant && !bundle.mentions(kind, key) {
                freed.extend(clash.others.iter().cloned());
                return false;
            }
            if clash.others.contains(&bundle.tenant) && !bundle.mentions(kind, key) {
                clash.others.remove(&bundle.tenant);
            }
            !clash.others.is_empty()
        });
        freed
    }

    /// How many keys clash.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::bundle::Context;

    fn t(name: &str) -> TenantId {
        TenantId::new(name).expect("tenant")
    }

    fn bundle(tenant: &str, keys: &[&str]) -> Bundle {
        let context = |key: &&str| Context {
            kind: Kind::new("k").expect("kind"),
            key: Key::new(key).expect("key"),
            value: "1".into(),
            expires: None,
        };
        Bundle::new(
            t(tenant),
            keys.iter().map(context).collect(),
            vec![],
            vec![],
        )
        .expect("bundle")
    }

    fn suspicion(owner: &str, tenant: &str) -> Suspicion {
        Suspicion {
            region: Region::new("r").expect("region"),
            kind: Kind::new("k").expect("kind"),
            key: Key::new("x").expect("key"),
            owner: t(owner),
            tenant: t(tenant),
        }
    }

    #[test]
    fn a_move_is_no_clash_and_a_real_clash_is_held_until_one_side_gives_up() {
        let region = Region::new("r").expect("region");
        let mut clashes = Clashes::default();
        assert!(!clashes.settle(
            &suspicion("a", "b"),
            &bundle("a", &[]),
            &bundle("b", &["x"])
        ));
        assert!(clashes.settle(
            &suspicion("a", "b"),
            &bundle("a", &["x"]),
            &bundle("b", &["x", "y"])
        ));
        let held = clashes.hold(&region, bundle("b", &["x", "y"]));
        assert_eq!((held.contexts.len(), held.held.len()), (1, 1));
        assert_eq!(
            clashes.hold(&region, bundle("a", &["x"])),
            bundle("a", &["x"])
        );
        assert!(clashes.settled_by(&region, &bundle("b", &["x"])).is_empty());
        assert_eq!(clashes.settled_by(&region, &bundle("a", &[])), [t("b")]);
        assert!(clashes.is_empty());
    }

    #[test]
    fn a_tenant_that_cannot_be_built_yields_the_key_to_its_owner_all_the_same() {
        let mut clashes = Clashes::default();
        let (a, b) = (bundle("a", &["x"]), bundle("b", &["x"]));
        assert!(clashes.settle(&suspicion("a", "b"), &a, &b));
        let (kind, key) = (suspicion("a", "b").kind, suspicion("a", "b").key);
        let region = Region::new("r").expect("region");
        let broken = contexts::bundle::HeldKind {
            kind: kind.clone(),
            why: HoldReason::Duplicate,
        };
        let whole = Bundle::new(t("b"), vec![], vec![], vec![broken]).expect("bundle");
        let large = b.hold(&kind, &key, HoldReason::Duplicate);
        for bundle in [whole, large] {
            assert!(bundle.mentions(&kind, &key));
            let held = clashes.hold(&region, bundle);
            assert!(held.check().is_ok() && !held.mentions(&kind, &key));
        }
    }

    #[test]
    fn another_store_naming_the_other_owner_does_not_turn_the_clash_round() {
        let mut clashes = Clashes::default();
        let (a, b) = (bundle("a", &["x"]), bundle("b", &["x"]));
        assert!(clashes.settle(&suspicion("a", "b"), &a, &b));
        assert!(clashes.settle(&suspicion("b", "a"), &b, &a));
        let region = Region::new("r").expect("region");
        assert_eq!(clashes.hold(&region, a.clone()), a);
        assert_eq!(clashes.hold(&region, b).held.len(), 1);
    }
}
