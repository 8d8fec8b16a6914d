//! Who is near a budget or over it, as builds tell, so that it is said once when that changes, and counted. Nothing is
//! decided by it: what is beyond a budget is held by the guard ([`super::guard`]).

use super::{Built, Report, Writer};
use contexts::name::{Kind, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Tenants that are remembered. Those beyond are told again by every build.
const TENANTS_MAX: usize = 10_000;

/// How much a tenant has of a kind of which it has a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The kind.
    pub kind: Kind,
    /// Contexts at the hub, in the region where they are most; those that are held count too.
    pub contexts: u64,
    /// `warn_contexts`.
    pub warn: Option<u64>,
    /// `max_contexts`.
    pub max: Option<u64>,
}

/// How near it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Fine,
    /// More than `warn_contexts`.
    Near,
    /// More than `max_contexts`: what is new is held.
    Over,
}

impl Usage {
    /// How near it is.
    pub fn level(&self) -> Level {
        if self.max.is_some_and(|max| self.contexts > max) {
            Level::Over
        } else if self.warn.is_some_and(|warn| self.contexts > warn) {
            Level::Near
        } else {
            Level::Fine
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, contexts, .. } = self;
        write!(f, "{contexts} contexts of kind {kind}")?;
        match (self.level(), self.warn, self.max) {
            (Level::Over, _, Some(max)) => write!(f, ", more than max_contexts ({max})"),
            (Level::Near, Some(warn), Some(max)) => {
                write!(f, ", more than warn_contexts ({warn}); at most {max}")
            }
            (Level::Near, Some(warn), None) => write!(f, ", more than warn_contexts ({warn})"),
            _ => Ok(()),
        }
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetNews {
    /// Of whom.
    pub tenant: TenantId,
    /// Of what.
    pub kind: Kind,
    /// How it is now; none if there is room again.
    pub usage: Option<Usage>,
}

/// Who is near a budget or over it.
#[derive(Debug, Default)]
pub struct Budgets(BTreeMap<TenantId, Vec<Usage>>);

impl Budgets {
    /// Tenants.
    pub fn tenants(&self) -> usize {
        self.0.len()
    }

    /// Tenants that are over one.
    pub fn over(&self) -> usize {
        let over = |usages: &&Vec<Usage>| usages.iter().any(|u| u.level() == Level::Over);
        self.0.values().filter(over).count()
    }

    /// The first of them.
    pub fn first(&self, tenants: usize) -> BTreeMap<TenantId, Vec<Usage>> {
        let first = self.0.iter().take(tenants);
        first.map(|(t, u)| (t.clone(), u.clone())).collect()
    }

    /// A build found this of a tenant, of kinds that it could build; returns what changed.
    fn note(&mut self, tenant: &TenantId, mut now: Vec<Usage>, built: &Built) -> Vec<BudgetNews> {
        let before = self.0.remove(tenant).unwrap_or_default();
        let kept = |u: &&Usage| built.bundles.iter().any(|b| b.bundle.keeps_kind(&u.kind));
        now.extend(before.iter().filter(kept).cloned());
        let find = |all: &[Usage], kind: &Kind| all.iter().find(|u| u.kind == *kind).cloned();
        let level = |usage: &Option<Usage>| usage.as_ref().map_or(Level::Fine, Usage::level);
        let mut news = Vec::new();
        let gone = before.iter().filter(|u| find(&now, &u.kind).is_none());
        for kind in now.iter().chain(gone).map(|u| &u.kind) {
            let usage = find(&now, kind);
            if level(&usage) != level(&find(&before, kind)) {
                let (tenant, kind) = (tenant.clone(), kind.clone());
                news.push(BudgetNews {
                    tenant,
                    kind,
                    usage,
                });
            }
        }
        if !now.is_empty() && self.0.len() < TENANTS_MAX {
            self.0.insert(tenant.clone(), now);
        }
        news
    }
}

impl Writer {
    /// Builds found these tenants, some of them near a budget or over it.
    pub(super) fn note_budgets(
        &mut self,
        tenants: &[Built],
        budgets: &BTreeMap<TenantId, Vec<Usage>>,
    ) {
        for built in tenants {
            let now = budgets.get(&built.tenant).cloned().unwrap_or_default();
            let news = self.budgets.note(&built.tenant, now, built);
            self.reports.extend(news.into_iter().map(Report::Budget));
        }
    }

    /// Who is near a budget or over it.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_growth_within_a_level_is_none() {
        let tenant = TenantId::new("t").expect("tenant");
        let built = Built {
            tenant: tenant.clone(),
            bundles: Vec::new(),
        };
        let mut budgets = Budgets::default();
        let levels = |contexts: u64| {
            let usage = Usage {
                kind: Kind::new("k").expect("kind"),
                contexts,
                warn: Some(8),
                max: Some(10),
            };
            let now = vec![usage].into_iter().filter(|u| u.level() > Level::Fine);
            let news = budgets.note(&tenant, now.collect(), &built);
            let level = |n: &BudgetNews| n.usage.as_ref().map_or(Level::Fine, Usage::level);
            news.iter().map(level).collect::<Vec<_>>()
        };
        let told = [3, 9, 10, 11, 12, 9, 8].map(levels);
        let once = |level| vec![level];
        let nothing = Vec::new;
        assert_eq!(
            told,
            [
                nothing(),
                once(Level::Near),
                nothing(),
                once(Level::Over),
                nothing(),
                once(Level::Near),
                once(Level::Fine)
            ]
        );
    }
}
