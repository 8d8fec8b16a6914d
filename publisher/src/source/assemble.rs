//! From rows to bundles. Pure. What cannot be published is held, by name where it has one; nothing is ever dropped
//! silently, and nothing that is wrong with one tenant touches another.

use super::budgets::{Budget, Ledger};
use super::definitions::Definition;
use super::holds::HoldRow;
use super::parts::Parts;
use super::pauses::Pauses;
use crate::writer::{Built, BuiltBundle, HoldName, Over, Usage};
use contexts::bundle::Bundle;
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Lines about odd rows that one build gives.
const WARNINGS_MAX: usize = 100;

/// One row of a context query.
#[derive(Debug, Clone)]
pub struct Row {
    /// The column `key`.
    pub key: Option<Arc<str>>,
    /// The other columns, as JSON text.
    pub value: Arc<str>,
    /// The column `regions`; none for every region.
    pub regions: Option<Vec<Option<String>>>,
    /// The column `expires`, in microseconds since 1970.
    pub expires: Option<i64>,
    /// The digest of the context that it makes, with its kind. It is made of a row that has just come, which is still in
    /// the processor's cache.
    pub digest: Digest,
}

/// What came of a build.
#[derive(Debug, Default)]
pub struct Finished {
    /// The bundles.
    pub tenants: Vec<Built>,
    /// Contexts that came, each counted once however many regions it goes to.
    pub contexts: u64,
    /// What a person let through.
    pub excused: BTreeMap<TenantId, Vec<HoldName>>,
    /// Holds that are over: what is gone is there again, what was changed is changed again, or there is room.
    pub void: Vec<HoldName>,
    /// Who is over a budget, and something of that is not held.
    pub over: BTreeMap<TenantId, Vec<Over>>,
    /// Who is near a budget or over it.
    pub budgets: BTreeMap<TenantId, Vec<Usage>>,
}

/// Collects the rows of one build.
#[derive(Debug)]
pub struct Assembly<'a> {
    regions: &'a [Region],
    key: &'a DigestKey,
    pauses: &'a Pauses,
    closed: &'a BTreeSet<Region>,
    tenants: BTreeMap<TenantId, Parts>,
    /// Copies of the kinds for this build alone: each row counts one more owner of its kind, and builds that run beside
    /// one another would pass that counter to and fro.
    kinds: Vec<Kind>,
    budgets: BTreeMap<Kind, Budget>,
    warnings: BTreeSet<String>,
}

impl<'a> Assembly<'a> {
    /// An assembly for the regions in the order of [`crate::writer::Writer::regions`]; what is `closed` gets nothing.
    pub fn new(
        regions: &'a [Region],
        key: &'a DigestKey,
        pauses: &'a Pauses,
        closed: &'a BTreeSet<Region>,
    ) -> Self {
        Self {
            regions,
            key,
            pauses,
            closed,
            tenants: BTreeMap::new(),
            kinds: Vec::new(),
            budgets: BTreeMap::new(),
            warnings: BTreeSet::new(),
        }
    }

    /// A tenant gets a result even if no row comes: an empty one.
    pub fn expect(&mut self, tenant: TenantId) {
        self.tenants.entry(tenant).or_default();
    }

    /// Takes rows of a kind, all of one tenant.
    pub fn rows(
        &mut self,
        definition: &Definition,
        tenant: &TenantId,
        rows: impl IntoIterator<Item = Row>,
    ) {
        let kind = &self.own(&definition.kind);
        if let Some(budget) = Budget::of(definition)
            && !self.budgets.contains_key(kind)
        {
            self.budgets.insert(kind.clone(), budget);
        }
        let parts = match self.tenants.get_mut(tenant) {
            Some(parts) => parts,
            None => self.tenants.entry(tenant.clone()).or_default(),
        };
        let rows = rows.into_iter();
        parts.parts.reserve(rows.size_hint().0);
        for mut row in rows {
            let names = row.regions.take();
            let regions = named(self.regions, kind, names, &mut self.warnings);
            if let Err(why) = regions.and_then(|regions| parts.add(definition, kind, row, regions))
            {
                parts.hold_kind(kind, why);
            }
        }
    }

    fn own(&mut self, kind: &Kind) -> Kind {
        if let Some(own) = self.kinds.iter().find(|own| *own == kind) {
            return own.clone();
        }
        let own = Kind::new(kind.as_str()).unwrap_or_else(|_| kind.clone());
        self.kinds.push(own.clone());
        own
    }

    /// The kind cannot be built for this tenant.
    pub fn hold_kind(&mut self, kind: &Kind, tenant: TenantId, why: String) {
        self.tenants.entry(tenant).or_default().hold_kind(kind, why);
    }

    /// The tenants so far.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.tenants.keys()
    }

    /// What is odd and stops nothing.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings).into_iter().collect()
    }

    /// Takes what is held of some tenants.
    pub fn holds(&mut self, holds: impl Iterator<Item = HoldRow>) {
        for hold in holds {
            let parts = self.tenants.entry(hold.name.tenant.clone()).or_default();
            parts.holds.push(hold);
        }
    }

    /// The bundles.
    pub fn finish(self) -> Finished {
        let Self {
            regions,
            key,
            pauses,
            closed,
            tenants,
            budgets,
            ..
        } = self;
        let mut finished = Finished::default();
        for (tenant, mut parts) in tenants {
            parts.sort();
            finished.contexts += parts.parts.len() as u64;
            let approved = parts.settle_holds(&budgets, &mut finished.void);
            let ledger = Ledger::of(&mut parts, &approved, regions, &budgets, &mut finished.void);
            if !approved.is_empty() {
                finished.excused.insert(tenant.clone(), approved);
            }
            if !ledger.over.is_empty() {
                finished.over.insert(tenant.clone(), ledger.over);
            }
            if !ledger.usage.is_empty() {
                finished.budgets.insert(tenant.clone(), ledger.usage);
            }
            let pauses = pauses.of(&tenant);
            let mut one = parts.build(tenant, regions, key, pauses, &budgets);
            let bundles = regions.iter().zip(&mut one.bundles);
            for (_, bundle) in bundles.filter(|(region, _)| closed.contains(*region)) {
                let empty = Bundle::empty(one.tenant.clone());
                *bundle = Arc::new(BuiltBundle::new(empty, key));
            }
            finished.tenants.push(one);
        }
        finished
    }
}

/// The regions that a row names; none for every region. One that there is not is odd, and nothing else.
fn named(
    regions: &[Region],
    kind: &Kind,
    names: Option<Vec<Option<String>>>,
    warnings: &mut BTreeSet<String>,
) -> Result<Option<Vec<Region>>, String> {
    let Some(names) = names else {
        return Ok(None);
    };
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let name = name.ok_or("regions contains NULL")?;
        match regions.iter().find(|r| r.as_str() == name) {
            Some(region) => found.push(region.clone()),
            None if warnings.len() >= WARNINGS_MAX => {}
            None => {
                let name: String = name.chars().take(64).collect();
                warnings.insert(format!(
                    "kind {kind}: rows name the region {name:?}, which no [[spoke]] has"
                ));
            }
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compiled;

    fn definition() -> Definition {
        Definition {
            kind: Kind::new("k").expect("kind"),
            query: String::new(),
            watch: Vec::new(),
            max_value_bytes: 10,
            schema: None,
            max_contexts: None,
            warn_contexts: None,
            key_type: None,
            compiled: Compiled::default(),
            regions_required: false,
            has_regions: true,
            has_expires: false,
        }
    }

    const KEY: DigestKey = DigestKey([0; 32]);

    fn row(key: Option<&str>, value: &str, regions: Option<&[&str]>) -> Row {
        let regions = regions.map(|r| r.iter().map(|x| Some((*x).to_owned())).collect());
        Row {
            key: key.map(Arc::from),
            value: value.into(),
            regions,
            expires: None,
            digest: KEY.context_of("k", key.unwrap_or_default(), None, value),
        }
    }

    fn build(rows: Vec<Row>) -> (Built, Vec<String>) {
        let regions = [
            Region::new("a").expect("region"),
            Region::new("b").expect("region"),
        ];
        let tenant = TenantId::new("t").expect("tenant");
        let (pauses, closed) = (Pauses::default(), BTreeSet::new());
        let mut assembly = Assembly::new(&regions, &KEY, &pauses, &closed);
        assembly.expect(tenant.clone());
        assembly.rows(&definition(), &tenant, rows);
        let warnings = assembly.take_warnings();
        (assembly.finish().tenants.remove(0), warnings)
    }

    #[test]
    fn a_tenant_without_rows_gets_an_empty_bundle_in_every_region() {
        let (built, _) = build(vec![]);
        assert!(built.bundles.len() == 2 && built.bundles.iter().all(|b| b.presence().is_none()));
    }

    #[test]
    fn regions_select_null_means_all_and_an_empty_array_none() {
        let rows = vec![
            row(Some("all"), "1", None),
            row(Some("a"), "1", Some(&["a"])),
            row(Some("none"), "1", Some(&[])),
            row(Some("odd"), "1", Some(&["mars", "b"])),
        ];
        let (built, warnings) = build(rows);
        let keys = |i: usize| -> Vec<String> {
            built.bundles[i]
                .bundle
                .contexts
                .iter()
                .map(|c| c.key.to_string())
                .collect()
        };
        assert_eq!(
            (keys(0), keys(1)),
            (
                vec!["a".into(), "all".into()],
                vec!["all".into(), "odd".into()]
            )
        );
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn what_cannot_be_published_is_held_by_name_or_by_kind() {
        let rows = vec![
            row(Some("big"), "12345678901", None),
            row(Some("two"), "1", None),
            row(Some("two"), "2", None),
        ];
        let (built, _) = build(rows);
        let bundle = &built.bundles[0].bundle;
        assert!(bundle.check().is_ok() && bundle.contexts.is_empty() && bundle.held.len() == 2);
        let (built, _) = build(vec![row(Some("x"), "1", None), row(None, "1", None)]);
        let bundle = &built.bundles[0].bundle;
        assert!(
            bundle.check().is_ok() && bundle.contexts.is_empty() && bundle.held_kinds.len() == 1
        );
    }
}
