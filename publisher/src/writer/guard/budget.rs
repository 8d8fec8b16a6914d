//! Budgets: how many contexts of a kind a tenant may have in a region. It must never hold what was published, and never let
//! in more than there is room for.
//!
//! A build says where a tenant has more than its budget, beside what is held for it already. What of that was published
//! before stays. Of the others the last ones, in the order of their keys, are written down as holds, and the tenant is built
//! again; builds let them in once there is room (`source/assemble.rs`). So a key that was let in is never pushed out by
//! another one, and a decision outlives the writer that took it.

use super::{Guard, Hold, HoldName, Over, Withheld};
use contexts::name::TenantId;

impl Guard {
    /// Whether something of a build is beyond a budget and not held yet. It is to be written down then.
    pub(super) fn is_beyond(&mut self, tenant: &TenantId, over: &[Over], open: &[bool]) -> bool {
        let mut names = Vec::new();
        let mut causes = Vec::new();
        for over in over.iter().filter(|o| open[o.region]) {
            let known = self.book.published(over.region, tenant).unwrap_or_default();
            let is_new = |key: &&contexts::name::Key| {
                let code = self.book.code_of_known(&over.kind, key);
                !code.is_some_and(|code| known.has(code))
            };
            let before = names.len();
            let new = over.keys.iter().rev().filter(is_new);
            names.extend(new.take(over.excess).map(|key| HoldName {
                tenant: tenant.clone(),
                kind: over.kind.clone(),
                key: key.clone(),
                region: self.regions[over.region].clone(),
                what: Withheld::Beyond,
            }));
            if names.len() > before {
                causes.push(format!(
                    "tenants with more of kind {} than max_contexts, {}",
                    over.kind, over.max
                ));
            }
        }
        causes.dedup();
        if names.is_empty() {
            return false;
        }
        self.beyond.push(Hold {
            cause: causes.join("; "),
            names,
            tenants: [tenant.clone()].into(),
        });
        true
    }
}
