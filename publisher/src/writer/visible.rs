//! Where a transaction is visible: asked by its number, answered per store once all that it changed is durable there.

use super::held_back::Holds;
use super::receipts::{HeldReport, RegionFilter};
use super::{Millis, Report, StoreIx, Ticket, Writer};
use contexts::name::{Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One store's part of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibleAt {
    /// The store.
    pub store: String,
    /// Its region.
    pub region: Region,
    /// Whether everything that the transaction changed is durable and readable there, but for what is `held` because of what
    /// it is: of a tenant of which changes stop, whoever stopped them, nothing is said to be there.
    pub visible: bool,
    /// If not, what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is held there of the tenants that it changed: of that the last good value is readable, or none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
    /// Milliseconds since the question.
    pub ms: Millis,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// The question.
    pub ticket: Ticket,
    /// Per store, in their order.
    pub stores: Vec<VisibleAt>,
}

#[derive(Debug)]
struct Question {
    ticket: Ticket,
    xid: u64,
    asked_at: Millis,
    deadline: Millis,
    waiting: BTreeSet<StoreIx>,
    answered: Vec<(StoreIx, VisibleAt)>,
}

/// The questions that wait.
#[derive(Debug, Default)]
pub struct Questions {
    open: Vec<Question>,
    next: u64,
}

impl Writer {
    /// Asks where a transaction is visible. The answer comes as [`Report::Visible`], at the latest `timeout`
    /// milliseconds from now.
    pub fn ask_visible(
        &mut self,
        now: Millis,
        xid: u64,
        regions: &RegionFilter,
        timeout: Millis,
    ) -> Ticket {
        self.questions.next += 1;
        let ticket = Ticket(self.questions.next);
        let asked = self.stores().filter(|(_, s)| regions.has(&s.spec.region));
        let waiting = asked.map(|(ix, _)| ix).collect();
        let deadline = now + timeout;
        self.questions.open.push(Question {
            ticket,
            xid,
            asked_at: now,
            deadline,
            waiting,
            answered: Vec::new(),
        });
        ticket
    }

    /// What a transaction waits for at a store; nothing if it is visible there. A store that is behind may miss any
    /// change from before its scan.
    fn invisible(&self, xid: u64, ix: StoreIx) -> Option<String> {
        let store = self.store(ix);
        if let Some(behind) = &store.behind {
            return Some(format!("the store is to be scanned: {}", behind.why));
        }
        let was_scanned = store.scanned.as_ref().is_some_and(|seen| seen.sees(xid));
        match self.capture.has(xid, ix) {
            None => Some("the transaction has not ended, or was not seen yet".into()),
            Some(false) => Some(match &store.failure {
                Some(failure) => failure.why.clone(),
                None => "it is on its way".into(),
            }),
            Some(true) => self.capture_gap().filter(|_| !was_scanned).map(|gap| {
                format!("the change triggers do not see everything ({gap}): ask again after the next scan")
            }),
        }
    }

    /// What is held at a store of what a transaction changed.
    fn holds(&self, xid: u64, ix: StoreIx) -> Holds {
        let tenants = self.capture.changed_by(xid);
        self.store(ix).held_back.of(tenants.as_deref())
    }

    pub(super) fn settle_questions(&mut self, now: Millis) {
        let mut open = std::mem::take(&mut self.questions.open);
        for question in &mut open {
            let late = now >= question.deadline;
            let waiting: Vec<StoreIx> = question.waiting.iter().copied().collect();
            for ix in waiting {
                let holds = self.holds(question.xid, ix);
                let why = self.invisible(question.xid, ix).or(holds.why);
                if why.is_some() && !late {
                    continue;
                }
                let spec = &self.store(ix).spec;
                let at = VisibleAt {
                    store: spec.name.clone(),
                    region: spec.region.clone(),
                    visible: why.is_none(),
                    why,
                    held: holds.held,
                    ms: now.saturating_sub(question.asked_at),
                };
                question.waiting.remove(&ix);
                question.answered.push((ix, at));
            }
        }
        let (ready, waiting) = open
            .into_iter()
            .partition(|q: &Question| q.waiting.is_empty());
        self.questions.open = waiting;
        let ready: Vec<Question> = ready;
        for mut question in ready {
            question.answered.sort_by_key(|(ix, _)| *ix);
            let stores = question.answered.into_iter().map(|(_, at)| at).collect();
            let ticket = question.ticket;
            self.reports
                .push_back(Report::Visible(Visible { ticket, stores }));
        }
    }
}
