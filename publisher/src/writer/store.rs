//! What the writer knows of one store: how far the talk with it got, what waits for it, what it is known to hold.

use super::deltas::Confirmed;
use super::dirty::Lane;
use super::held_back::HeldBack;
use super::push_size::PushSize;
use super::queue::{Queue, Queued};
use super::{Millis, ScanId, Snapshot, StoreIx, Tick};
use contexts::digest::{Buckets, Digest};
use contexts::name::{Region, TenantId};
use contexts::push::{Reading, Sent, StoreState, Verdict};
use contexts::version::{Incarnation, SessionId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A store as `hubcast.stores` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// How messages call it: region and address.
    pub name: String,
    /// Where it is.
    pub region: Region,
}

/// How far the talk with a store got.
#[derive(Debug)]
pub enum Link {
    /// Not talking; ask again at `retry_at`.
    Down {
        /// When to ask.
        retry_at: Millis,
    },
    /// It said who it is: claim it.
    Greeted {
        /// What it said.
        state: Box<StoreState>,
        /// Whether the database knows its writer. If not, a person decided to take it.
        known: bool,
    },
    /// It obeys us.
    Open(Session),
}

/// A store that misses something which nobody remembers one by one: it gets a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Why.
    pub why: String,
    /// Since when. Only a scan that began later ends it.
    pub since: Tick,
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// When the answer with the grant arrived. Only builds that began later may be sent.
    pub opened: Tick,
    /// The last number used.
    pub number: u64,
    /// Heartbeats without an answer, in a row.
    pub missed: u8,
}

/// What was sent last and is not answered yet. One at a time and store.
#[derive(Debug)]
pub enum Outstanding {
    /// Who are you?
    Hello,
    /// A claim.
    Claim,
    /// Bundles.
    Push {
        /// Which.
        bundles: Vec<Queued>,
        /// How many of them as deltas.
        deltas: usize,
        /// The beat that travels with them.
        beat: Option<u64>,
        /// When they were sent.
        sent_at: Millis,
    },
    /// The end of this scan, with the sums that were expected, without the tenants in flux.
    Synced(ScanId, Box<Buckets>),
    /// Which names do you have of these tenants? Asked by the guard.
    Names(Vec<TenantId>),
    /// Which tenants are in these buckets? Asked by this scan.
    Buckets(ScanId, Vec<u16>),
    /// Goodbye.
    Release,
}

/// Builds of a tenant that a store has not acknowledged: other stores may show any of them.
#[derive(Debug)]
struct Owed {
    first: u64,
    last: u64,
}

/// Digests that are remembered per store so that an equal bundle is not sent again.
const KNOWN_MAX: usize = 65_536;
/// Tenants of a broken session that are remembered one by one; beyond, the store is scanned.
const LOST_MAX: usize = 10_000;

/// One store.
#[derive(Debug)]
pub struct Store {
    /// What the database says.
    pub spec: StoreSpec,
    /// How far the talk got.
    pub link: Link,
    /// What is not answered yet.
    pub outstanding: Option<Outstanding>,
    /// What waits.
    pub queue: Queue,
    /// Why it needs a scan, if it does.
    pub behind: Option<Behind>,
    /// Not before this is it scanned for being behind.
    pub scan_after: Millis,
    /// Scans of it in a row that did not end with *synced*.
    pub scans_failed: u32,
    /// What the last failure was, until the next success.
    pub failure: Option<Failure>,
    /// The last state it told.
    pub state: Option<StoreState>,
    /// Its clock, at the last answer.
    pub reading: Option<Reading>,
    /// Whether a scan that may have filled it gave way in this session: it has a part of what it is to have.
    pub is_begun: bool,
    /// Whether a scan ended here with *synced* in this term.
    pub synced: bool,
    /// When that was, on the writer's clock.
    pub synced_at: Option<Millis>,
    /// The last look before that scan began: whatever had ended then is here.
    pub scanned: Option<Snapshot>,
    known: HashMap<TenantId, Digest>,
    /// What it confirmed of large tenants in this session.
    pub confirmed: Confirmed,
    owed: HashMap<TenantId, Owed>,
    /// What of each tenant does not get here.
    pub held_back: HeldBack,
    /// The first version that a fill gave to another store of the region and this one was not compared with since.
    beside: Option<u64>,
    lost: BTreeMap<TenantId, Lane>,
    incarnation: Option<Incarnation>,
    attempts: u32,
    /// Since when there is no session.
    pub down_since: Option<Millis>,
    /// The newest beat that is to travel to it.
    pub beat: Option<u64>,
    /// How long the last beat took from its commit until it was durable there.
    pub lag: Option<Millis>,
    /// How large a push is that carries no urgent change, so that an urgent one never waits long behind it.
    bulk: PushSize,
    /// The same while a scan fills the store.
    fill: PushSize,
    /// Bundles acknowledged in this term.
    pub acked: u64,
    /// Milliseconds of the last push.
    pub last_push_ms: Option<Millis>,
}

/// Why a store cannot be used at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, for a person.
    pub why: String,
    /// What sort of trouble it is.
    pub sort: FailureSort,
}

/// The sorts of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureSort {
    /// It does not answer.
    Unreachable,
    /// It answers and refuses: wrong token, wrong region, another deployment.
    Refused,
    /// The last writer is not known to have stopped; passes within seconds.
    Busy,
    /// The store obeys a writer that this database does not know.
    Fenced,
}

impl Store {
    /// A store that was not talked to yet.
    pub fn new(spec: StoreSpec) -> Self {
        Self {
            spec,
            link: Link::Down { retry_at: 0 },
            outstanding: None,
            queue: Queue::default(),
            behind: Some(Behind {
                why: "not compared since this publisher became the writer".into(),
                since: Tick(0),
            }),
            scan_after: 0,
            scans_failed: 0,
            failure: None,
            state: None,
            reading: None,
            is_begun: false,
            synced: false,
            synced_at: None,
            scanned: None,
            known: HashMap::new(),
            confirmed: Confirmed::default(),
            owed: HashMap::new(),
            held_back: HeldBack::default(),
            beside: None,
            lost: BTreeMap::new(),
            incarnation: None,
            attempts: 0,
            down_since: Some(0),
            beat: None,
            lag: None,
            bulk: PushSize::of_bulk(),
            fill: PushSize::of_fill(),
            acked: 0,
            last_push_ms: None,
        }
    }

    /// The open session.
    pub fn session(&self) -> Option<&Session> {
        match &self.link {
            Link::Open(session) => Some(session),
            _ => None,
        }
    }

    /// Whether the first talk is still under way, so that it is too early to call the store away.
    pub fn is_unresolved(&self) -> bool {
        match &self.failure {
            None => self.session().is_none(),
            Some(failure) => failure.sort == FailureSort::Busy,
        }
    }

    /// The next number of the open session.
    pub fn next_number(&mut self) -> Option<(SessionId, u64)> {
        match &mut self.link {
            Link::Open(session) => {
                session.number += 1;
                Some((session.id, session.number))
            }
            _ => None,
        }
    }

    /// A claim was granted at `now_tick`. Returns the tenants to build again if the store is as this writer left it,
    /// and otherwise marks it for a scan.
    pub fn opened(
        &mut self,
        id: SessionId,
        opened: Tick,
        state: StoreState,
        ours: bool,
    ) -> BTreeMap<TenantId, Lane> {
        self.link = Link::Open(Session {
            id,
            opened,
            number: 0,
            missed: 0,
        });
        let same = ours && self.incarnation == Some(state.incarnation);
        self.incarnation = Some(state.incarnation);
        self.reading = Some(state.reading);
        self.state = Some(state);
        self.is_begun = false;
        self.attempts = 0;
        self.down_since = None;
        self.failure = None;
        let lost = std::mem::take(&mut self.lost);
        if !same {
            self.set_behind("it restarted, or was away".into(), opened);
            self.synced = false;
            self.owed.clear();
        }
        match self.behind.is_some() {
            true => BTreeMap::new(),
            false => lost,
        }
    }

    /// The session is over, or could not be opened: what waited is remembered, or the store needs a scan.
    pub fn closed(&mut self, ix: StoreIx, now: Millis, failure: Option<Failure>) {
        if let Some(Outstanding::Push { bundles, .. }) = self.outstanding.take() {
            self.lose(bundles.iter().map(of_queued));
        }
        let waiting = self.queue.clear();
        self.lose(waiting.iter().map(of_queued));
        self.known.clear();
        self.confirmed = Confirmed::default();
        self.beat = None;
        self.down_since.get_or_insert(now);
        let busy = matches!(
            &failure,
            Some(Failure {
                sort: FailureSort::Busy,
                ..
            })
        );
        if failure.is_some() && !busy {
            self.attempts += 1;
        }
        self.link = Link::Down {
            retry_at: now
                + if busy {
                    250
                } else {
                    backoff(ix, self.attempts)
                },
        };
        if failure.is_some() {
            self.failure = failure;
        }
    }

    /// Remembers tenants of which this store may miss a build, and how urgent they were, unless it gets a scan anyway.
    pub fn lose<'a>(&mut self, tenants: impl IntoIterator<Item = (&'a TenantId, Lane)>) {
        if self.behind.is_some() {
            return;
        }
        for (tenant, lane) in tenants {
            let lost = self.lost.entry(tenant.clone()).or_insert(lane);
            *lost = lane.min(*lost);
        }
    }

    /// Whether more is missing than is remembered one by one.
    pub fn has_lost_much(&self) -> bool {
        self.lost.len() > LOST_MAX
    }

    /// The store needs a scan that begins after this moment. The first reason stays.
    pub fn set_behind(&mut self, why: String, since: Tick) {
        let why = self.behind.take().map_or(why, |behind| behind.why);
        self.behind = Some(Behind { why, since });
    }

    /// Gives up on single tenants: the store gets a scan.
    pub fn fall_behind(&mut self, why: String, since: Tick) {
        self.set_behind(why, since);
        self.lost.clear();
        self.owed.clear();
        self.queue.clear();
        self.known.clear();
    }

    /// Whether it is to get everything there is, instead of what differs. What it holds is what it said when it was
    /// claimed: one that was in step since then holds what it should, and what leaves it is counted.
    pub fn is_to_be_filled(&self) -> bool {
        let is_empty = self.state.as_ref().is_some_and(|state| state.bundles == 0);
        is_empty && !self.is_begun && !self.synced && self.behind.is_some()
    }

    /// How large a push is that carries no urgent change.
    pub fn push_size(&mut self, is_filled: bool) -> &mut PushSize {
        match is_filled {
            true => &mut self.fill,
            false => &mut self.bulk,
        }
    }

    /// Whether the store is known to hold exactly this and nothing of the tenant is under way.
    pub fn holds(&self, tenant: &TenantId, digest: &Digest) -> bool {
        self.known.get(tenant) == Some(digest)
            && !self.queue.contains(tenant)
            && !self.in_flight(tenant)
    }

    /// The bundles that were sent last and are not answered, whole, whatever they were sent as.
    pub fn under_way(&self) -> impl Iterator<Item = &Sent> {
        let bundles = match &self.outstanding {
            Some(Outstanding::Push { bundles, .. }) => bundles.as_slice(),
            _ => &[],
        };
        bundles.iter().map(|queued| &queued.sent)
    }

    /// Whether a bundle of the tenant was sent and is not answered.
    pub fn in_flight(&self, tenant: &TenantId) -> bool {
        self.under_way().any(|sent| sent.bundle.tenant == *tenant)
    }

    /// Remembers what the store holds of a tenant.
    fn learn(&mut self, tenant: TenantId, digest: Digest) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(tenant, digest);
    }

    /// The store answered to a bundle: remembers what it holds now, if it says so.
    pub fn confirm(&mut self, queued: &Queued, verdict: &Verdict) {
        let tenant = &queued.sent.bundle.tenant;
        match verdict {
            Verdict::Applied | Verdict::AlreadyThere => {
                self.learn(tenant.clone(), queued.digest);
                let sums = queued.parts.as_ref().map(|parts| &parts.sums);
                self.confirmed.learn(tenant, queued.digest, sums);
            }
            Verdict::KeyTaken { .. } | Verdict::Invalid { .. } => self.confirmed.forget(tenant),
        }
    }

    /// Forgets what the store holds of a tenant, so that its next build is sent whatever it is.
    pub fn forget(&mut self, tenant: &TenantId) {
        self.known.remove(tenant);
    }

    /// The store does not have this build of a tenant yet.
    pub fn owe(&mut self, tenant: &TenantId, n: u64) {
        match self.owed.get_mut(tenant) {
            Some(owed) => (owed.first, owed.last) = (owed.first.min(n), owed.last.max(n)),
            None => {
                self.owed.insert(tenant.clone(), Owed { first: n, last: n });
            }
        }
    }

    /// The store has this build of a tenant, and with it what every earlier one was for.
    pub fn paid(&mut self, tenant: &TenantId, n: u64) {
        if let Some(owed) = self.owed.get_mut(tenant) {
            owed.first = owed.first.max(n + 1);
            if owed.first > owed.last {
                self.owed.remove(tenant);
            }
        }
    }

    /// Another store of the region was filled with versions from `n` on.
    pub fn filled_beside(&mut self, n: u64) {
        self.beside.get_or_insert(n);
    }

    /// The store was found to hold what the hub has of every tenant but those in flux.
    pub fn compared(&mut self, in_flux: &HashSet<TenantId>) {
        self.owed.retain(|tenant, _| in_flux.contains(tenant));
        if let Some(n) = self.beside.take() {
            in_flux.iter().for_each(|tenant| self.owe(tenant, n));
        }
    }

    /// The lowest version that another store may show and this one may not have.
    pub fn lowest_owed(&self) -> Option<u64> {
        let owed = self.owed.values().map(|owed| owed.first);
        owed.chain(self.beside).min()
    }
}

/// Whose bundle it is, and how urgent.
pub(super) fn of_queued(queued: &Queued) -> (&TenantId, Lane) {
    let lane = match queued.is_urgent {
        true => Lane::Change,
        false => Lane::Bulk,
    };
    (&queued.sent.bundle.tenant, lane)
}

/// 200 ms doubled up to 5 s, spread by a quarter so that stores do not retry in step.
fn backoff(ix: StoreIx, attempts: u32) -> Millis {
    let base = (200_u64 << attempts.min(6)).min(5_000);
    let spread = (ix.0 as u64)
        .wrapping_mul(7_919)
        .wrapping_add(u64::from(attempts).wrapping_mul(104_729))
        % 256;
    base * 3 / 4 + base * spread / 1024
}

impl Store {
    /// One word for the state of the store.
    pub fn standing(&self) -> &'static str {
        let trouble = self.failure.as_ref().map(|f| f.sort);
        match (&self.link, trouble, &self.behind) {
            (_, Some(FailureSort::Fenced), _) => "fenced",
            (_, Some(FailureSort::Refused), _) => "refused",
            (_, Some(FailureSort::Busy), _) => "busy",
            (_, Some(FailureSort::Unreachable), _) => "unreachable",
            (Link::Open(_), None, None) => "in step",
            (Link::Open(_), None, Some(_)) => "behind",
            _ => "connecting",
        }
    }
}
