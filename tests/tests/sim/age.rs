//! I5: a store shows what it claims to have, or something newer, at every moment.
//!
//! What was changed while the triggers were disabled by hand is asked for only once a scan has begun after it: no hub
//! can know of such a change before.

use crate::database::Touch;
use crate::state::State;
use crate::store::Origin;
use crate::world::{Checked, World, violated};

impl World {
    /// The age of a store, and what it calls absent.
    ///
    /// # Errors
    /// If it shows less than it claims.
    pub fn check_age(&self, s: usize) -> Checked {
        let d = &self.agents[s].durable;
        let Some(fresh) = d.fresh else { return Ok(()) };
        let db = d.fresh_db;
        // Of a database that the store does not obey any more, what it has in common with the present one.
        let common = d.owner.map_or(usize::MAX, |owner| self.shared(db, owner));
        let then = self.dbs[db].index_at(fresh).min(common.saturating_sub(1));
        let scanned = d.scanned.filter(|(of, _)| *of == db);
        let scanned = scanned.map_or(0, |(_, at)| self.dbs[db].index_at(at));
        for (tenant, touches) in &self.dbs[db].touches {
            let due = touches
                .iter()
                .rev()
                .find(|touch| touch.commit <= then && (touch.captured || touch.commit <= scanned));
            let Some(due) = due else { continue };
            let shown = d.origins.get(tenant).copied();
            let shown = shown.unwrap_or(Origin { db, commit: 0 });
            let Some(commit) = self.commit_in(shown, db) else {
                continue;
            };
            if commit >= due.commit || d.edited.contains(tenant) {
                continue;
            }
            let commit_due = due.commit;
            let due = Origin {
                db,
                commit: commit_due,
            };
            if !self.still_true(s, tenant, shown, due) {
                let what = format!(
                    "store {s} shows {tenant} of commit {commit} and claims to be as new as {commit_due}, to {fresh}"
                );
                return violated("I5 the age is honest", what);
            }
        }
        self.check_absent(s, Origin { db, commit: then }, scanned)
    }

    /// A key that one tenant had in the region from the moment of the age until now has an answer other than absent.
    fn check_absent(&self, s: usize, mut then: Origin, scanned: usize) -> Checked {
        let (d, region) = (&self.agents[s].durable, &self.agents[s].region);
        let touches = self.dbs[then.db].touches.values().flatten();
        let hidden = |t: &&Touch| !t.captured && (scanned + 1..=then.commit).contains(&t.commit);
        if touches.clone().any(|t| hidden(&t)) {
            then.commit = scanned;
        }
        let commits = &self.dbs[then.db].commits[then.commit..];
        for (tenant, rows) in &self.state(then).rows {
            let shown = d.origins.get(tenant);
            if shown.is_some_and(|o| self.commit_in(*o, then.db).is_none()) {
                continue;
            }
            for name in rows.keys() {
                let has = |state: &State| {
                    let row = state.rows.get(tenant).and_then(|rows| rows.get(name));
                    row.is_some_and(|row| row.is_in(region))
                };
                let known = d.kinds.contains(&name.0) && !d.blind.iter().any(|b| b.0 == name.0);
                let absent = known && !d.owners.contains_key(name);
                // Of a kind that could not be built, the store knows what it last knew.
                let broken = |state: &State| {
                    let broken = (tenant.clone(), name.0.clone());
                    state.broken.contains(&broken)
                };
                if absent
                    && !commits.iter().any(|c| broken(&c.state))
                    && commits.iter().all(|c| has(&c.state))
                {
                    let what = format!("store {s} says that {name:?} of {tenant} does not exist");
                    return violated("I5 absent is known", what);
                }
            }
        }
        Ok(())
    }
}
