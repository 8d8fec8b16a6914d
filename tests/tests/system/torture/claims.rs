//! What an agent, or the table, must show: what it has shown, what the hub says is visible there, and what was committed before the
//! moment from which an answer counts its age.

use super::stage::{CACHE_INDEX, EVERYWHERE, REGIONS, Regions, is_steady, region_of};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use system_tests::Result;

/// Something with a number that only rises; the numbers name tenants, keys and plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Counter(u16),
    Account(u16),
    Notice(u16),
    Key(u16),
    /// The number of a plan as the account of one tenant shows it.
    Plan {
        plan: u16,
        of: u16,
    },
    /// The version of a tenant's bundle.
    Version(u16),
}

/// A committed transaction gave a subject this number.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub subject: Subject,
    pub n: i64,
    /// Where it is since then.
    pub here: Regions,
    /// What is visible does not show it, only an age does: the tenant may have come to the plan by another transaction.
    pub by_age_only: bool,
}

impl Claim {
    /// A number that shows wherever the subject is.
    pub fn new(subject: Subject, n: i64, here: Regions) -> Self {
        Self {
            subject,
            n,
            here,
            by_age_only: false,
        }
    }

    /// What it says about one agent.
    pub fn at(&self, agent: usize) -> Floor {
        Floor {
            n: self.n,
            here: self.here & region_of(agent) != 0,
        }
    }
}

/// A subject shows this number or a higher one; a higher one only, if it was not here with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    pub n: i64,
    pub here: bool,
}

/// What one agent must show.
pub type Floors = BTreeMap<Subject, Floor>;

/// Commits that are remembered per subject; an older one says nothing that a newer does not, but for large ages.
const COMMITS_MAX: usize = 512;

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Claims {
    floors: [Mutex<Floors>; CACHE_INDEX + 1],
    committed: Mutex<BTreeMap<Subject, VecDeque<(Instant, Claim)>>>,
    /// Per subject and region the last number with which somebody tried to take it away.
    taken: Mutex<BTreeMap<(Subject, usize), i64>>,
    /// Answers without a key that only ever moved, seen between its two tenants.
    pub gaps: AtomicU64,
}

impl Claims {
    /// A transaction is about to commit that takes a subject out of these regions, or to another tenant.
    pub fn taking(&self, subject: Subject, n: i64, from: Regions) {
        let mut taken = self.taken.lock().expect("lock");
        for region in (0..REGIONS.len()).filter(|r| from & (1 << r) != 0) {
            let last = taken.entry((subject, region)).or_insert(n);
            *last = n.max(*last);
        }
    }

    /// A transaction was committed before now.
    pub fn committed(&self, claims: &[Claim]) {
        let now = Instant::now();
        let mut committed = self.committed.lock().expect("lock");
        for claim in claims {
            let all = committed.entry(claim.subject).or_default();
            all.push_back((now, *claim));
            if all.len() > COMMITS_MAX {
                all.pop_front();
            }
        }
    }

    /// A transaction is visible at an agent.
    pub fn visible(&self, agent: usize, claims: &[Claim]) {
        for claim in claims.iter().filter(|c| !c.by_age_only) {
            self.raise(agent, claim.subject, claim.at(agent));
        }
    }

    /// What an agent must show in every answer to a question that is sent after this.
    pub fn floors(&self, agent: usize) -> Floors {
        self.floors[agent].lock().expect("lock").clone()
    }

    /// Judges what an answer shows of a subject (nothing, if it is absent), and remembers it. `floors` were taken before
    /// the question was sent, and every change from before `fresh` must be in the answer.
    pub fn judge(
        &self,
        agent: usize,
        subject: Subject,
        shown: Option<i64>,
        floors: &Floors,
        fresh: Option<Instant>,
    ) -> Result<()> {
        let reasons = [
            ("it was so before", floors.get(&subject).copied()),
            (
                "its age says so",
                fresh.and_then(|m| self.by(agent, subject, m)),
            ),
        ];
        for (why, floor) in reasons {
            let Some(floor) = floor else { continue };
            let good = match shown {
                Some(n) => n > floor.n || (n == floor.n && floor.here),
                None => !floor.here || self.may_be_absent(agent, subject, floor.n),
            };
            if !good {
                let line =
                    format!("agent {agent} shows {subject:?} at {shown:?}, not {floor:?}: {why}");
                return Err(line.into());
            }
        }
        if shown.is_none() && matches!(subject, Subject::Key(key) if is_steady(key)) {
            self.gaps.fetch_add(1, Ordering::Relaxed);
        }
        let (n, here) = match shown {
            Some(n) => (n, true),
            // With the number that was seen last it must not come back.
            None => (floors.get(&subject).map_or(0, |f| f.n), false),
        };
        self.raise(agent, subject, Floor { n, here });
        Ok(())
    }

    fn raise(&self, agent: usize, subject: Subject, to: Floor) {
        let mut floors = self.floors[agent].lock().expect("lock");
        let floor = floors.entry(subject).or_insert(to);
        // At one number a subject is first here, then gone.
        if to.n > floor.n || (to.n == floor.n && !to.here) {
            *floor = to;
        }
    }

    /// The highest number that was committed before a moment.
    fn by(&self, agent: usize, subject: Subject, moment: Instant) -> Option<Floor> {
        let committed = self.committed.lock().expect("lock");
        let all = committed.get(&subject)?.iter();
        all.filter(|(at, _)| *at < moment)
            .map(|(_, claim)| claim.at(agent))
            .max_by_key(|floor| floor.n)
    }

    fn may_be_absent(&self, agent: usize, subject: Subject, n: i64) -> bool {
        match subject {
            // TRUNCATE takes notices away, and an account shows only the plan that it has.
            Subject::Notice(_) | Subject::Plan { .. } => true,
            Subject::Version(_) => false,
            Subject::Account(_) | Subject::Counter(_) | Subject::Key(_) => {
                let taken = self.taken.lock().expect("lock");
                let region = (0..REGIONS.len()).find(|r| region_of(agent) == 1 << r);
                region
                    .and_then(|r| taken.get(&(subject, r)))
                    .is_some_and(|last| *last > n)
            }
        }
    }
}

/// Everywhere but in these.
pub fn elsewhere(regions: Regions) -> Regions {
    EVERYWHERE & !regions
}

#[test]
fn what_was_seen_does_not_come_back_lower_or_from_the_dead() {
    let claims = Claims::default();
    let key = Subject::Key(1);
    let judge = |shown| {
        let floors = claims.floors(0);
        claims.judge(0, key, shown, &floors, None).is_ok()
    };
    assert!(judge(Some(4)) && judge(Some(4)) && !judge(Some(3)));
    assert!(!judge(None), "nobody took it away");
    claims.taking(key, 5, EVERYWHERE);
    assert!(judge(None) && !judge(Some(4)) && judge(Some(6)));
    claims.visible(0, &[Claim::new(key, 7, 0)]);
    assert!(!judge(Some(7)) && judge(None) && judge(Some(8)));
}

#[test]
fn an_age_tells_which_commits_an_answer_has() {
    let claims = Claims::default();
    let key = Subject::Key(1);
    let before = Instant::now();
    claims.committed(&[Claim::new(key, 4, EVERYWHERE)]);
    let judge = |shown, fresh| {
        let floors = Floors::new();
        claims.judge(0, key, shown, &floors, Some(fresh)).is_ok()
    };
    assert!(judge(Some(3), before));
    std::thread::yield_now();
    let after = Instant::now() + std::time::Duration::from_millis(1);
    assert!(!judge(Some(3), after) && !judge(None, after) && judge(Some(4), after));
}
