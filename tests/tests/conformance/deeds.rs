//! Random operations. They name no session and no store: each side has its own.

use contexts::apply::Name;
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::{BUCKETS, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::Sent;
use contexts::store::model::Model;
use contexts::version::Version;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;

pub const REGION: &str = "eu-west-1";
pub const KEY: DigestKey = DigestKey([7; 32]);
const KINDS: [&str; 3] = ["a", "b", "c"];
const TENANTS: u32 = 5;

/// How large bundles are.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Keys of a kind that there are.
    pub keys: u32,
    /// How often a value is repeated.
    pub value: usize,
}

pub const SMALL: Size = Size { keys: 6, value: 1 };
pub const LARGE: Size = Size {
    keys: 120,
    value: 40,
};

/// In which way a message of a session is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// It is of a session that ended, or never was.
    Session,
    /// Its number was used already.
    Again,
    /// A number is missing before it.
    Ahead,
    Region,
}

/// In which way a claim is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misclaim {
    Nothing,
    Region,
    Deployment,
    /// It saw the store with another last *synced*.
    Seen,
    /// Its epoch was granted to another holder.
    Holder,
    /// A later epoch was granted.
    Epoch,
}

#[derive(Debug, Clone)]
pub enum Deed {
    Claim {
        epoch: u64,
        /// By a person, while somebody else has the store.
        force: bool,
        /// Whether the writer knows the store's state from its database.
        known: bool,
        wrong: Misclaim,
    },
    Push {
        bundles: Vec<Sent>,
        beat: Option<u64>,
        wrong: Wrong,
    },
    Synced(Scanned, Wrong),
    Heartbeat {
        position: Option<Version>,
        wrong: Wrong,
    },
    Release {
        wrong: Wrong,
    },
    Buckets(Vec<u16>),
    Hello,
}

/// What a scan found.
#[derive(Debug, Clone)]
pub struct Scanned {
    pub id: u128,
    pub kinds: BTreeSet<Kind>,
    pub unsure: BTreeSet<Kind>,
    pub root: contexts::digest::Digest,
    pub in_flux: Vec<TenantId>,
    pub position: Version,
    pub reread: bool,
}

pub fn region() -> Region {
    Region::new(REGION).expect("a region")
}

pub fn kind(kind: &str) -> Kind {
    Kind::new(kind).expect("a kind")
}

pub fn tenants() -> Vec<TenantId> {
    let tenant = |n| TenantId::new(&format!("t{n}")).expect("a tenant");
    (0..TENANTS).map(tenant).collect()
}

/// All keys that there may be.
pub fn names(size: Size) -> Vec<Name> {
    let key = |n| Key::new(&format!("k{n}")).expect("a key");
    let of = |k: &&str| {
        (0..size.keys)
            .map(|n| (kind(k), key(n)))
            .collect::<Vec<_>>()
    };
    KINDS.iter().flat_map(of).collect()
}

/// What makes them.
pub struct Deeds {
    random: StdRng,
    size: Size,
    epoch: u64,
    n: u64,
    ids: u128,
    /// Whether a session is open.
    is_open: bool,
}

impl Deeds {
    pub fn new(random: StdRng, size: Size) -> Self {
        Self {
            random,
            size,
            epoch: 0,
            n: 0,
            ids: 0,
            is_open: false,
        }
    }

    /// The next one. The model says what the right root is.
    pub fn next(&mut self, model: &Model) -> Deed {
        if !self.is_open {
            return self.claim(Misclaim::Nothing);
        }
        match self.random.random_range(0..100) {
            0..55 => self.push(),
            55..65 => self.synced(model),
            65..73 => {
                let position = self.random.random_bool(0.5).then(|| self.version());
                let wrong = self.sometimes(Wrong::Session);
                Deed::Heartbeat { position, wrong }
            }
            73..77 => {
                let wrong = self.sometimes(Wrong::Session);
                self.is_open = wrong != Wrong::Nothing;
                Deed::Release { wrong }
            }
            77..83 => self.claim(Misclaim::Nothing),
            83..90 => {
                use Misclaim::{Deployment, Epoch, Holder, Region, Seen};
                let wrong = [Region, Deployment, Seen, Holder, Epoch];
                let wrong = wrong[self.random.random_range(0..wrong.len())];
                self.claim(wrong)
            }
            90..95 => {
                let some = |random: &mut StdRng| random.random_range(0..BUCKETS as u16);
                let count = self.random.random_range(1..400);
                let some: BTreeSet<u16> = (0..count).map(|_| some(&mut self.random)).collect();
                Deed::Buckets(some.into_iter().collect())
            }
            _ => Deed::Hello,
        }
    }

    fn sometimes(&mut self, wrong: Wrong) -> Wrong {
        match self.random.random_ratio(1, 5) {
            true => wrong,
            false => Wrong::Nothing,
        }
    }

    fn version(&self) -> Version {
        Version {
            epoch: self.epoch,
            n: self.n,
        }
    }

    /// A claim by the next writer where the last one released the store or is to be ended, else by the one that has it.
    fn claim(&mut self, wrong: Misclaim) -> Deed {
        let force = self.random.random_ratio(1, 4);
        if wrong == Misclaim::Nothing && (force || !self.is_open) {
            self.epoch += 1;
            self.is_open = true;
        }
        let epoch = match wrong {
            Misclaim::Epoch => self.epoch.saturating_sub(1),
            _ => self.epoch,
        };
        Deed::Claim {
            epoch,
            force,
            known: self.random.random_ratio(3, 4),
            wrong,
        }
    }

    fn push(&mut self) -> Deed {
        self.n += 1;
        let all = [Wrong::Session, Wrong::Again, Wrong::Ahead, Wrong::Region];
        let one = all[self.random.random_range(0..all.len())];
        let wrong = match self.random.random_ratio(1, 12) {
            true => one,
            false => Wrong::Nothing,
        };
        let count = self.random.random_range(0..=3);
        let all = tenants();
        let version = self.version();
        let mut bundles: Vec<Sent> = Vec::new();
        for _ in 0..count {
            let tenant = &all[self.random.random_range(0..all.len())];
            if bundles.iter().all(|sent| sent.bundle.tenant != *tenant) {
                let bundle = Arc::new(self.bundle(tenant.clone()));
                bundles.push(Sent { version, bundle });
            }
        }
        Deed::Push {
            beat: self.random.random_ratio(1, 4).then_some(self.n),
            bundles,
            wrong,
        }
    }

    fn bundle(&mut self, tenant: TenantId) -> Bundle {
        if self.random.random_ratio(1, 8) {
            return Bundle::empty(tenant);
        }
        let mut held_kinds = Vec::new();
        for k in KINDS {
            if self.random.random_ratio(1, 12) {
                held_kinds.push(HeldKind {
                    kind: kind(k),
                    why: HoldReason::Duplicate,
                });
            }
        }
        let (mut contexts, mut held) = (Vec::new(), Vec::new());
        for (kind, key) in names(self.size) {
            let whole = held_kinds.iter().any(|held| held.kind == kind);
            match self.random.random_range(0..10) {
                0..=2 if !whole => {
                    let value = self.random.random_range(0..3_u32).to_string();
                    contexts.push(Context {
                        kind,
                        key,
                        value: value.repeat(self.size.value).into(),
                        expires: self.random.random_ratio(1, 4).then_some(7),
                    });
                }
                3 => {
                    // A held kind keeps all its names; only what belongs to others may stand beside it.
                    let yields = whole || self.random.random_ratio(1, 3);
                    let owner = tenants()[0].clone();
                    let why = match yields {
                        true => HoldReason::KeyTaken { owner },
                        false => HoldReason::Duplicate,
                    };
                    held.push(Held { kind, key, why });
                }
                _ => {}
            }
        }
        Bundle::new(tenant, contexts, held, held_kinds).expect("a bundle")
    }

    fn synced(&mut self, model: &Model) -> Deed {
        self.ids += 1;
        let mut in_flux = tenants();
        in_flux.retain(|_| self.random.random_ratio(1, 10));
        let mut root = model.root(&in_flux);
        if self.random.random_ratio(1, 4) {
            root.0[0] ^= 1;
        }
        let mut some = |share: u32| -> BTreeSet<Kind> {
            let all = KINDS.iter().map(|k| kind(k));
            all.filter(|_| self.random.random_ratio(share, 4)).collect()
        };
        let (kinds, unsure) = (some(3), some(1));
        let wrong = self.sometimes(Wrong::Again);
        let scanned = Scanned {
            id: self.ids,
            unsure: unsure.difference(&kinds).cloned().collect(),
            kinds,
            root,
            in_flux,
            position: self.version(),
            reread: self.random.random_ratio(1, 4),
        };
        Deed::Synced(scanned, wrong)
    }
}
