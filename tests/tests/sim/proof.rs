//! The invariants of change capture.
//!
//! | id | what is checked |
//! | --- | --- |
//! | CAP1 | a row is removed only if every store shows its change, or is recorded as behind in the same transaction |
//! | CAP2 | no change is missed: in peace everything comes in step, without a scan on schedule ([`crate::heal`]) |
//! | CAP3 | the outbox does not grow beyond its cap, and no row stays for ever ([`crate::heal`]) |
//! | CAP4 | the lower bound of a look hides no row that is to be told ([`crate::capture`]) |
//! | VIS | what is said to be visible at a store is shown there |
//! | BEAT | a beat whose lag is reported was committed before and is on the store's disk |
//!
//! A store whose disk was replaced, and that was not scanned since, is left out: nobody can know.

use crate::outbox::{Line, Note};
use crate::publisher::Question;
use crate::store::Origin;
use crate::world::{Checked, World, violated};
use contexts::name::TenantId;
use publisher::writer::{StoreIx, Visible};

impl World {
    /// CAP1.
    ///
    /// # Errors
    /// If a store needs a row that was removed.
    pub fn check_ack(&self, db: usize, gone: &[Line]) -> Checked {
        for s in (0..self.agents.len()).filter(|s| !self.dbs[db].behind.contains(s)) {
            for line in gone {
                let commit = line.commit;
                let missing = self.concerned(db, line).into_iter();
                let missing = missing.filter(|t| !self.has(s, t, Origin { db, commit }));
                // Who was taken away from a changed row before anybody looked has a row for that.
                let stays = |t: &TenantId| {
                    let mut rows = self.dbs[db].outbox.rows.values();
                    rows.any(|l| l.commit > commit && l.note == Note::Tenant(t.clone()))
                };
                let is_query = matches!(line.note, Note::Changed(_));
                let mut missing = missing.filter(|t| !(is_query && stays(t)));
                if let Some(tenant) = missing.next() {
                    let (note, xid) = (&line.note, line.xid);
                    let what = format!(
                        "{note:?} of {xid}, commit {commit}, is removed; store {s} has not got {tenant}"
                    );
                    return violated("CAP1 what is removed has arrived", what);
                }
            }
        }
        Ok(())
    }

    /// Whom a row of the outbox concerns.
    fn concerned(&self, db: usize, line: &Line) -> Vec<TenantId> {
        let state = &self.dbs[db].commits[line.commit].state;
        match &line.note {
            Note::Tenant(tenant) => vec![tenant.clone()],
            Note::Changed(plan) => state.tenants_on(*plan),
            Note::All => self.dbs[db].touches.keys().cloned().collect(),
            Note::Token | Note::Beat => Vec::new(),
        }
    }

    /// Whether a store shows a commit of a tenant, or something newer, as far as its writer can know.
    fn has(&self, s: usize, tenant: &TenantId, since: Origin) -> bool {
        let (agent, d) = (&self.agents[s], &self.agents[s].durable);
        let known = d.scanned_line == Some(agent.line) && self.owes(s, since);
        if !known || d.edited.contains(tenant) {
            return true;
        }
        let touches = self.dbs[since.db].touches.get(tenant).into_iter().flatten();
        let until = touches.rev().find(|touch| touch.commit <= since.commit);
        let due = Origin {
            commit: until.map_or(0, |touch| touch.commit),
            ..since
        };
        let first = Origin { commit: 0, ..since };
        let shown = d.origins.get(tenant).copied().unwrap_or(first);
        match self.commit_in(shown, since.db) {
            Some(commit) => commit >= due.commit || self.still_true(s, tenant, shown, due),
            None => true,
        }
    }

    /// CAP3: rows that were written when nothing was acknowledged past them are no more than may wait; one statement may
    /// go beyond.
    ///
    /// # Errors
    /// If there are more.
    pub fn check_room(&self, db: usize) -> Checked {
        let outbox = &self.dbs[db].outbox;
        let waiting = outbox.rows.range(outbox.passed + 1..).count();
        let open = self.dbs[db].open.values().flat_map(|t| &t.rows);
        let open = open.filter(|(id, _)| *id > outbox.passed).count();
        let most = outbox.cap as usize + self.weather.largest_statement();
        if waiting + open > most {
            let what = format!("db{db} has {waiting} rows and {open} in open transactions");
            return violated("CAP3 the outbox is bounded", what);
        }
        Ok(())
    }

    /// VIS.
    ///
    /// # Errors
    /// If a store does not show the transaction.
    pub fn check_visible(&self, question: &Question, visible: &Visible) -> Checked {
        let since = Origin {
            db: question.db,
            commit: question.commit,
        };
        let touches = self.dbs[since.db].touches.iter();
        let changed = |t: &&TenantId| {
            let mut touches = self.dbs[since.db].touches[*t].iter();
            touches.any(|touch| touch.commit == since.commit)
        };
        let tenants: Vec<&TenantId> = touches.map(|(t, _)| t).filter(changed).collect();
        for (s, at) in visible.stores.iter().enumerate().filter(|(_, v)| v.visible) {
            if let Some(tenant) = tenants.iter().find(|t| !self.has(s, t, since)) {
                let store = &at.store;
                let what = format!(
                    "{store} is said to show commit {} of {tenant}",
                    since.commit
                );
                return violated("VIS visible is visible", what);
            }
        }
        Ok(())
    }

    /// BEAT.
    ///
    /// # Errors
    /// If the store does not have it.
    pub fn check_beat(&self, p: usize, store: StoreIx, ms: u64) -> Checked {
        let Some(office) = &self.publishers[p].office else {
            return Ok(());
        };
        let heard = self.shown(p) - ms;
        let Some((n, committed)) = office.beats.get(&heard) else {
            let what = format!("p{p} heard of no beat {ms} ms ago");
            return violated("BEAT a lag is measured", what);
        };
        let (agent, d) = (&self.agents[store.0], &self.agents[store.0].durable);
        let known = d.scanned_line == Some(agent.line);
        if known && d.beat < *n || self.publishers[p].clock.millis(*committed) > heard {
            let what = format!(
                "beat {n} of {committed} is said to be at store {}, which has {}",
                store.0, d.beat
            );
            return violated("BEAT a lag is measured", what);
        }
        Ok(())
    }
}
