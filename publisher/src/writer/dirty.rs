//! The coalesced set of "tenant T may differ somewhere". Pure, and level-triggered: marking a tenant twice is marking
//! it once, and what is taken out may be marked again at once.
//!
//! Groups and single changes take turns: of the keys that one statement moves, thousands of groups may come.
//!
//! A group waits as a whole for those of its tenants that are parked. What they are parked for may itself wait until the
//! others of the group are counted: so these are taken out to be counted, and the group stays.

use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// How urgent a mark is. Changes go before repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody changed the tenant or asks for it.
    Change,
    /// Somebody changed it together with many others.
    Bulk,
    /// A scan found that it differs.
    Repair,
}

/// How what is built of some tenants reaches a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Each for itself.
    Singly,
    /// In one commit, all or none.
    Together,
    /// Not at all: it is counted, while the group of these tenants waits for others of it.
    Counted,
}

/// Tenants taken out for one build.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The tenants, at most as many as asked for (a group is never split).
    pub tenants: Vec<TenantId>,
    /// How urgent they are.
    pub lane: Lane,
    /// How their bundles reach a store.
    pub sending: Sending,
}

/// The set.
#[derive(Debug, Default)]
pub struct Dirty {
    marks: HashMap<TenantId, Lane>,
    lanes: [VecDeque<TenantId>; 3],
    /// By a number that says which of them is older.
    groups: BTreeMap<u64, BTreeSet<TenantId>>,
    group_of: HashMap<TenantId, u64>,
    next_group: u64,
    /// Whether single changes are next.
    took_group: bool,
    parked: BTreeMap<TenantId, Lane>,
}

impl Dirty {
    /// Marks a tenant.
    pub fn mark(&mut self, tenant: &TenantId, lane: Lane) {
        if let Some(parked) = self.parked.get_mut(tenant) {
            *parked = lane.min(*parked);
            return;
        }
        if self.group_of.contains_key(tenant) {
            return;
        }
        match self.marks.get(tenant) {
            Some(present) if *present <= lane => {}
            _ => {
                self.marks.insert(tenant.clone(), lane);
                self.lanes[lane as usize].push_back(tenant.clone());
            }
        }
    }

    /// Marks a tenant that is not to be built before [`Dirty::unpark`]. Returns how urgent it was marked already.
    pub fn park(&mut self, tenant: &TenantId, lane: Lane) -> Option<Lane> {
        let marked = self.marks.remove(tenant);
        let lane = marked.map_or(lane, |marked| marked.min(lane));
        self.parked.insert(tenant.clone(), lane);
        marked
    }

    /// A tenant that was parked may be marked again; returns how urgent it was.
    pub fn unpark(&mut self, tenant: &TenantId) -> Option<Lane> {
        self.parked.remove(tenant)
    }

    /// How many tenants are parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Marks tenants that have to be built in one snapshot and sent as one commit; joins groups that overlap.
    pub fn mark_together(&mut self, tenants: impl IntoIterator<Item = TenantId>) {
        let mut group: BTreeSet<TenantId> = tenants.into_iter().collect();
        let overlapping = group.iter().filter_map(|t| self.group_of.get(t)).copied();
        for number in overlapping.collect::<BTreeSet<u64>>() {
            group.extend(self.groups.remove(&number).unwrap_or_default());
        }
        self.next_group += 1;
        for tenant in &group {
            self.marks.remove(tenant);
            self.group_of.insert(tenant.clone(), self.next_group);
        }
        self.groups.insert(self.next_group, group);
    }

    /// Takes the most urgent tenants of which none is `busy`: a group, or those of a group that are to be `counted` while
    /// it waits, or up to `max` of one lane; only of the lanes that are `open` (a group counts as a change). After a group
    /// single changes are next.
    pub fn take(
        &mut self,
        max: usize,
        open: impl Fn(Lane) -> bool,
        busy: impl Fn(&TenantId) -> bool,
        counted: impl Fn(&TenantId) -> bool,
    ) -> Option<Taken> {
        if open(Lane::Change) {
            if std::mem::take(&mut self.took_group)
                && let Some(taken) = self.take_lane(Lane::Change, max, &busy)
            {
                return Some(taken);
            }
            let group = self.take_group(&busy).map(|g| (g, Sending::Together));
            let group = group.or_else(|| Some((self.to_count(&busy, &counted)?, Sending::Counted)));
            if let Some((tenants, sending)) = group {
                self.took_group = true;
                return Some(Taken {
                    tenants,
                    lane: Lane::Change,
                    sending,
                });
            }
        }
        let lanes = [Lane::Change, Lane::Bulk, Lane::Repair];
        let mut open = lanes.into_iter().filter(|lane| open(*lane));
        open.find_map(|lane| self.take_lane(lane, max, &busy))
    }

    fn take_group(&mut self, busy: &impl Fn(&TenantId) -> bool) -> Option<Vec<TenantId>> {
        let number = self.ready_group(busy)?;
        let tenants = self.groups.remove(&number)?;
        tenants.iter().for_each(|t| _ = self.group_of.remove(t));
        Some(tenants.into_iter().collect())
    }

    /// Of a group that waits for parked tenants: the others that are to be counted.
    fn to_count(
        &self,
        busy: &impl Fn(&TenantId) -> bool,
        counted: &impl Fn(&TenantId) -> bool,
    ) -> Option<Vec<TenantId>> {
        let wanted = |t: &&TenantId| !self.parked.contains_key(*t) && counted(t) && !busy(t);
        let of = |group: &BTreeSet<TenantId>| group.iter().filter(wanted).cloned().collect();
        let is_parked =
            |group: &&BTreeSet<TenantId>| group.iter().any(|t| self.parked.contains_key(t));
        let mut waiting = self.groups.values().filter(is_parked).map(of);
        waiting.find(|tenants: &Vec<TenantId>| !tenants.is_empty())
    }

    fn ready_group(&self, busy: &impl Fn(&TenantId) -> bool) -> Option<u64> {
        let waits = |t: &TenantId| busy(t) || self.parked.contains_key(t);
        let mut groups = self.groups.iter();
        groups.find_map(|(number, g)| (!g.iter().any(waits)).then_some(*number))
    }

    /// Whether a group could be taken.
    pub fn has_group(&self) -> bool {
        self.ready_group(&|_| false).is_some()
    }

    /// Whether a change waits that is not one of many, and not in a group.
    pub fn has_change(&self) -> bool {
        !self.lanes[Lane::Change as usize].is_empty()
    }

    fn take_lane(
        &mut self,
        lane: Lane,
        max: usize,
        busy: &impl Fn(&TenantId) -> bool,
    ) -> Option<Taken> {
        let (mut tenants, mut waiting) = (Vec::new(), VecDeque::new());
        let queue = &mut self.lanes[lane as usize];
        while tenants.len() < max {
            let Some(tenant) = queue.pop_front() else {
                break;
            };
            if self.marks.get(&tenant) != Some(&lane) {
                continue;
            }
            match busy(&tenant) {
                true => waiting.push_back(tenant),
                false => {
                    self.marks.remove(&tenant);
                    tenants.push(tenant);
                }
            }
        }
        waiting.append(queue);
        *queue = waiting;
        (!tenants.is_empty()).then_some(Taken {
            tenants,
            lane,
            sending: Sending::Singly,
        })
    }

    /// Whether a tenant is marked.
    pub fn contains(&self, tenant: &TenantId) -> bool {
        self.marks.contains_key(tenant)
            || self.parked.contains_key(tenant)
            || self.group_of.contains_key(tenant)
    }

    /// Every marked tenant.
    pub fn iter(&self) -> impl Iterator<Item = &TenantId> {
        let parked = self.parked.keys();
        let grouped = self.groups.values().flatten();
        self.marks.keys().chain(parked).chain(grouped)
    }

    /// How many tenants are marked.
    pub fn len(&self) -> usize {
        let grouped = self.groups.values().map(BTreeSet::len);
        self.marks.len() + self.parked.len() + grouped.sum::<usize>()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(name: &str) -> TenantId {
        TenantId::new(name).expect("tenant")
    }

    fn take(dirty: &mut Dirty, max: usize, busy: &[&str]) -> Vec<String> {
        let taken = dirty.take(max, |_| true, |x| busy.contains(&x.as_str()), |_| false);
        taken
            .map(|t| t.tenants.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_tenant_marked_often_is_taken_once_and_changes_go_first() {
        let mut dirty = Dirty::default();
        dirty.mark(&t("r"), Lane::Repair);
        (0..3).for_each(|_| dirty.mark(&t("c"), Lane::Change));
        assert_eq!(take(&mut dirty, 9, &[]), ["c"]);
        assert_eq!(take(&mut dirty, 9, &[]), ["r"]);
        assert!(dirty.is_empty());
    }

    #[test]
    fn a_repair_that_becomes_urgent_is_taken_with_the_changes() {
        let mut dirty = Dirty::default();
        dirty.mark(&t("a"), Lane::Repair);
        dirty.mark(&t("a"), Lane::Change);
        assert_eq!(take(&mut dirty, 9, &[]), ["a"]);
        assert!(take(&mut dirty, 9, &[]).is_empty());
    }

    #[test]
    fn repairs_wait_for_room_and_changes_do_not() {
        let mut dirty = Dirty::default();
        dirty.mark(&t("r"), Lane::Repair);
        dirty.mark(&t("c"), Lane::Change);
        let taken = dirty
            .take(9, |lane| lane != Lane::Repair, |_| false, |_| false)
            .expect("a change");
        assert_eq!((taken.lane, taken.tenants), (Lane::Change, vec![t("c")]));
        assert!(
            dirty
                .take(9, |lane| lane != Lane::Repair, |_| false, |_| false)
                .is_none()
        );
        assert_eq!(take(&mut dirty, 9, &[]), ["r"]);
    }

    #[test]
    fn what_is_being_built_waits_and_keeps_its_place() {
        let mut dirty = Dirty::default();
        ["a", "b", "c"]
            .iter()
            .for_each(|n| dirty.mark(&t(n), Lane::Change));
        assert_eq!(take(&mut dirty, 1, &["a"]), ["b"]);
        assert_eq!(take(&mut dirty, 2, &[]), ["a", "c"]);
    }

    #[test]
    fn a_group_that_waits_for_a_parked_tenant_lets_the_others_be_counted() {
        let mut dirty = Dirty::default();
        dirty.mark_together([t("a"), t("b"), t("c")]);
        dirty.park(&t("a"), Lane::Change);
        let take = |dirty: &mut Dirty, busy: &[&str], counted: &[&str]| {
            dirty.take(
                9,
                |_| true,
                |x| busy.contains(&x.as_str()),
                |x| counted.contains(&x.as_str()),
            )
        };
        assert_eq!(take(&mut dirty, &[], &["a"]), None);
        assert_eq!(take(&mut dirty, &["b"], &["b"]), None);
        let counted = take(&mut dirty, &[], &["a", "b"]).expect("b is to be counted");
        assert_eq!(
            (counted.tenants, counted.sending),
            (vec![t("b")], Sending::Counted)
        );
        dirty.unpark(&t("a"));
        let whole = take(&mut dirty, &[], &["a", "b"]).expect("the group is there yet");
        assert_eq!(
            (whole.tenants, whole.sending),
            (vec![t("a"), t("b"), t("c")], Sending::Together)
        );
        assert!(dirty.is_empty());
    }

    #[test]
    fn thousands_of_groups_let_single_changes_through() {
        let mut dirty = Dirty::default();
        for n in 0..9 {
            dirty.mark_together([t(&format!("from{n}")), t(&format!("to{n}"))]);
        }
        assert_eq!(take(&mut dirty, 9, &[]), ["from0", "to0"], "the oldest");
        dirty.mark(&t("revoked"), Lane::Change);
        dirty.mark(&t("many"), Lane::Bulk);
        assert_eq!(take(&mut dirty, 9, &[]), ["revoked"]);
        for n in 1..9 {
            let group = [format!("from{n}"), format!("to{n}")];
            assert_eq!(take(&mut dirty, 9, &[]), group);
        }
        assert_eq!(take(&mut dirty, 9, &[]), ["many"]);
        assert!(dirty.is_empty());
    }

    #[test]
    fn groups_that_overlap_become_one_and_wait_for_all_their_tenants() {
        let mut dirty = Dirty::default();
        dirty.mark(&t("a"), Lane::Change);
        dirty.mark_together([t("a"), t("b")]);
        dirty.mark_together([t("b"), t("c")]);
        dirty.mark(&t("c"), Lane::Change);
        assert_eq!(dirty.len(), 3);
        assert!(take(&mut dirty, 9, &["c"]).is_empty());
        assert_eq!(take(&mut dirty, 1, &[]), ["a", "b", "c"]);
    }
}
