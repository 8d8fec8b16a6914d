//! Tenants of which a kind cannot be built: tried again with backoff, so that nobody waits for them and none is
//! forgotten. Pure. A scan tries them as well.

use super::Millis;
use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet};

/// When a tenant is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often it failed.
    pub attempts: u32,
    /// When it is tried, on the writer's clock.
    pub at: Millis,
    /// Why it failed.
    pub why: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Retries {
    tenants: BTreeMap<TenantId, Retry>,
    changed: BTreeSet<TenantId>,
}

/// Tenants that are remembered; the others wait for the next scan.
const TENANTS_MAX: usize = 1_000;
const FIRST: Millis = 5_000;
const LONGEST: Millis = 600_000;

impl Retries {
    /// What the database remembers of an earlier writer.
    pub fn resume(&mut self, known: Vec<(TenantId, Retry)>) {
        self.tenants.extend(known.into_iter().take(TENANTS_MAX));
    }

    /// A build of a tenant ended, with this trouble or none.
    pub fn built(&mut self, tenant: &TenantId, trouble: Option<String>, now: Millis) {
        let Some(why) = trouble else {
            if self.tenants.remove(tenant).is_some() {
                self.changed.insert(tenant.clone());
            }
            return;
        };
        let attempts = self.tenants.get(tenant).map_or(1, |r| r.attempts + 1);
        if attempts == 1 && self.tenants.len() >= TENANTS_MAX {
            return;
        }
        let at = now + (FIRST << (attempts - 1).min(7)).min(LONGEST);
        self.tenants
            .insert(tenant.clone(), Retry { attempts, at, why });
        self.changed.insert(tenant.clone());
    }

    /// The tenants whose time has come; each is named once until it was built again.
    pub fn due(&mut self, now: Millis) -> Vec<TenantId> {
        let due = self.tenants.iter_mut().filter(|(_, r)| r.at <= now);
        due.map(|(tenant, retry)| {
            retry.at = Millis::MAX;
            tenant.clone()
        })
        .collect()
    }

    /// What the database is to be told.
    pub fn news(&self) -> Vec<(TenantId, Option<Retry>)> {
        let each = self.changed.iter();
        each.map(|t| (t.clone(), self.tenants.get(t).cloned()))
            .collect()
    }

    /// The database was told.
    pub fn told(&mut self, news: &[(TenantId, Option<Retry>)]) {
        for (tenant, retry) in news {
            if self.tenants.get(tenant) == retry.as_ref() {
                self.changed.remove(tenant);
            }
        }
    }

    /// How many tenants wait.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_writer_could_not_build_is_tried_again_and_then_forgotten() {
        let (mut retries, tenant) = (Retries::default(), TenantId::new("t").expect("tenant"));
        let (attempts, at, why) = (3, 500, "division by zero".to_owned());
        retries.resume(vec![(tenant.clone(), Retry { attempts, at, why })]);
        assert!(retries.news().is_empty() && retries.due(499).is_empty());
        assert_eq!(retries.due(500), std::slice::from_ref(&tenant));
        retries.built(&tenant, None, 501);
        assert_eq!(retries.news(), [(tenant, None)], "the database is told");
    }

    #[test]
    fn a_failing_tenant_is_tried_ever_more_rarely_until_it_builds() {
        let (mut retries, tenant) = (Retries::default(), TenantId::new("t").expect("tenant"));
        let mut now = 0;
        for wait in [5_000, 10_000, 20_000] {
            retries.built(&tenant, Some("division by zero".into()), now);
            assert!(retries.due(now + wait - 1).is_empty());
            now += wait;
            assert_eq!(retries.due(now), std::slice::from_ref(&tenant));
            assert!(retries.due(now + 1_000_000).is_empty(), "named once");
        }
        let news = retries.news();
        retries.told(&news);
        assert!(retries.news().is_empty());
        retries.built(&tenant, None, now);
        assert_eq!(retries.news(), [(tenant, None)]);
        assert_eq!(retries.len(), 0);
    }
}
