//! Which bundles of a push may have the keys that they take. It only says so: what is written is for [`super`].

use super::{Draft, Name};
use crate::name::TenantId;
use crate::push::Verdict;
use std::collections::HashMap;

/// Refuses bundles until every key that remains wanted is given up by an accepted bundle, and is wanted once: of two that want
/// the same, the first has it.
pub(super) fn settle_ownership(drafts: &mut [Draft<'_>]) {
    let verdicts = Ownership::of(drafts).settle();
    for (draft, verdict) in drafts.iter_mut().zip(verdicts) {
        draft.verdict = verdict;
    }
}

/// Who has which key after a push.
struct Ownership<'a> {
    drafts: &'a [Draft<'a>],
    /// What is said of each; none if it is accepted.
    verdicts: Vec<Option<Verdict>>,
    by_tenant: HashMap<&'a TenantId, usize>,
    /// Those that want a key of a tenant.
    wanting: HashMap<&'a TenantId, Vec<usize>>,
    /// Who takes each key.
    taken: HashMap<&'a Name, usize>,
}

impl<'a> Ownership<'a> {
    fn of(drafts: &'a [Draft<'a>]) -> Self {
        let (mut by_tenant, mut wanting) = (HashMap::new(), HashMap::<_, Vec<usize>>::new());
        for (i, draft) in drafts.iter().enumerate() {
            if draft.verdict.is_some() {
                continue;
            }
            by_tenant.insert(draft.tenant(), i);
            for (_, owner) in &draft.wants {
                wanting.entry(owner).or_default().push(i);
            }
        }
        Self {
            drafts,
            verdicts: drafts.iter().map(|draft| draft.verdict.clone()).collect(),
            by_tenant,
            wanting,
            taken: HashMap::new(),
        }
    }

    /// In their order; one that is refused gives up no key, so those before it that counted on that are looked at again.
    fn settle(mut self) -> Vec<Option<Verdict>> {
        for i in 0..self.drafts.len() {
            let mut doubtful = vec![i];
            while let Some(j) = doubtful.pop() {
                if self.verdicts[j].is_some() {
                    continue;
                }
                let names = names_taken(&self.drafts[j]);
                match self.refusal(j) {
                    None => self.taken.extend(names.map(|name| (name, j))),
                    Some(verdict) => {
                        self.verdicts[j] = Some(verdict);
                        names.for_each(|name| {
                            if self.taken.get(name) == Some(&j) {
                                self.taken.remove(name);
                            }
                        });
                        let wanting = self.wanting.get(self.drafts[j].tenant());
                        doubtful.extend(wanting.into_iter().flatten().filter(|k| **k < i));
                    }
                }
            }
        }
        self.verdicts
    }

    /// Why a bundle cannot be applied, if it cannot.
    fn refusal(&self, i: usize) -> Option<Verdict> {
        let draft = &self.drafts[i];
        let is_given_up = |(kind, key): &Name, owner: &TenantId| {
            self.by_tenant.get(owner).is_some_and(|o| {
                self.verdicts[*o].is_none() && !self.drafts[*o].bundle().mentions(kind, key)
            })
        };
        let mut wants = draft.wants.iter();
        if let Some((name, owner)) = wants.find(|(name, owner)| !is_given_up(name, owner)) {
            return Some(key_taken(name, owner));
        }
        names_taken(draft).find_map(|name| {
            let other = self.taken.get(name).filter(|other| **other != i)?;
            Some(key_taken(name, self.drafts[*other].tenant()))
        })
    }
}

/// The keys that a bundle takes: nobody's, and those of others.
fn names_taken<'a>(draft: &'a Draft<'_>) -> impl Iterator<Item = &'a Name> {
    let wants = draft.wants.iter().map(|(name, _)| name);
    draft.claims.iter().chain(wants)
}

fn key_taken((kind, key): &Name, owner: &TenantId) -> Verdict {
    Verdict::KeyTaken {
        kind: kind.clone(),
        key: key.clone(),
        owner: owner.clone(),
    }
}
