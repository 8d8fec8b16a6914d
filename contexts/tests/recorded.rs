//! The push protocol as it was recorded: `contexts/fixtures/push-protocol-N.txt` has every message of protocol N, in hex, as a
//! release that spoke it sent them. They are what another release sends.
//!
//! Would catch a field that is added, taken away or moved in a message while the protocol keeps its number: hub and agent of
//! different releases would then read something else than was said. Who changes a message raises [`PROTOCOL`], records the
//! new one (`cargo test -p contexts --test recorded -- --ignored`), and keeps the old types for the file that is there.
//!
//! A message that there was not before changes none, so it needs no new protocol: who does not know it answers that there is no
//! such call. It is recorded in a file of its own beside that of the protocol.

use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::delta::{Change, Delta, PushDelta, PushedDelta};
use contexts::digest::{Buckets, Digest, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::*;
use contexts::version::{Holder, Incarnation, SessionId, StoreId, SyncId, Term, Version};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::path::PathBuf;
use std::sync::Arc;

type Answer<T> = Result<T, Refused>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn file(protocol: u8) -> PathBuf {
    folder().join(format!("push-protocol-{protocol}.txt"))
}

/// The messages that came to a protocol later, by what they are about.
const LATER: [(u8, &str); 1] = [(1, "delta")];

fn later(protocol: u8, about: &str) -> PathBuf {
    folder().join(format!("push-protocol-{protocol}-{about}.txt"))
}

/// What is done with each message.
trait Each {
    fn message<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, message: T);
}

fn kind(text: &str) -> Kind {
    Kind::new(text).expect("a kind")
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn tenant(text: &str) -> TenantId {
    TenantId::new(text).expect("a tenant")
}

fn region() -> Region {
    Region::new("eu-west-1").expect("a region")
}

fn term() -> Term {
    Term {
        epoch: 3,
        holder: Holder(0x0102_0304),
    }
}

fn reading() -> Reading {
    Reading {
        boot: 7 << 70,
        micros: 1_234_567,
    }
}

fn state() -> StoreState {
    StoreState {
        store: StoreId(5),
        incarnation: Incarnation(6),
        region: region(),
        granted: Some(term()),
        released: true,
        last_synced: Some(SyncId(8)),
        synced_kinds: [kind("api_key"), kind("cluster")].into(),
        position: Version { epoch: 3, n: 40 },
        bundles: 2,
        contexts: 300,
        file_bytes: 1 << 20,
        root: Some(Digest([9; 16])),
        reading: reading(),
        age: Some(1.5),
        beat: 11,
        release: "0.1.0".into(),
    }
}

/// A bundle with everything that one can have.
fn bundle() -> Bundle {
    let reasons = [
        HoldReason::TooLarge {
            bytes: 70_000,
            max: 65_536,
        },
        HoldReason::Duplicate,
        HoldReason::KeyTaken {
            owner: tenant("other"),
        },
        HoldReason::CannotBuild {
            why: "division by zero".into(),
        },
        HoldReason::Paused,
        HoldReason::Removed,
        HoldReason::Dropped,
        HoldReason::Undecided,
        HoldReason::BreaksSchema {
            at: "/plan".into(),
            why: "is no string".into(),
        },
        HoldReason::Changed,
        HoldReason::OverBudget { max: 10 },
    ];
    let held = reasons.into_iter().enumerate().map(|(n, why)| Held {
        kind: kind("cluster"),
        key: key(&format!("held-{n:02}")),
        why,
    });
    Bundle {
        tenant: tenant("acme \u{e4}"),
        contexts: vec![
            Context {
                kind: kind("api_key"),
                key: key("0a/6b"),
                value: r#"{"active": true, "n": 1.50}"#.into(),
                expires: None,
            },
            Context {
                kind: kind("api_key"),
                key: key("0c"),
                value: "null".into(),
                expires: Some(-1),
            },
        ],
        held: held.collect(),
        held_kinds: vec![HeldKind {
            kind: kind("flags"),
            why: HoldReason::CannotBuild {
                why: "no such column".into(),
            },
        }],
    }
}

/// Every message and every answer, with every form that it can have.
fn all(each: &mut impl Each) {
    let session = SessionId(0xabcd);
    let number = 4;
    each.message("hello", Hello);
    each.message(
        "claim",
        Claim {
            region: region(),
            term: term(),
            seen: state().seen(),
            digest_key: DigestKey([2; 32]),
            force: false,
            known: true,
        },
    );
    let sent = |n, bundle| Sent {
        version: Version { epoch: 3, n },
        bundle: Arc::new(bundle),
    };
    each.message(
        "push",
        Push {
            region: region(),
            session,
            number,
            bundles: vec![sent(41, bundle()), sent(42, Bundle::empty(tenant("gone")))],
            fresh: Some(reading()),
            beat: Some(12),
        },
    );
    each.message(
        "push: only a beat",
        Push {
            region: region(),
            session,
            number,
            bundles: Vec::new(),
            fresh: None,
            beat: Some(13),
        },
    );
    each.message(
        "synced",
        Synced {
            session,
            number,
            id: SyncId(14),
            kinds: [kind("api_key")].into(),
            unsure: [kind("flags")].into(),
            root: Digest([15; 16]),
            in_flux: vec![tenant("acme")],
            fresh: reading(),
            position: Version { epoch: 3, n: 42 },
            reread: true,
        },
    );
    each.message(
        "heartbeat",
        Heartbeat {
            session,
            position: Some(Version { epoch: 3, n: 42 }),
            fresh: Some(reading()),
        },
    );
    let delta = Delta {
        tenant: tenant("large"),
        version: Version { epoch: 3, n: 43 },
        digest: Digest([17; 16]),
        parts: 16_384,
        replaced: vec![3, 16_000],
        contexts: bundle().contexts,
        held: bundle().held,
        held_kinds: bundle().held_kinds,
    };
    each.message(
        "delta",
        PushDelta {
            region: region(),
            session,
            number,
            changes: vec![
                Change::Delta(delta),
                Change::Whole(sent(44, Bundle::empty(tenant("gone")))),
            ],
            fresh: Some(reading()),
            beat: None,
        },
    );
    each.message("release", Release { session });
    each.message(
        "buckets",
        ListBuckets {
            buckets: vec![0, 17, 1023],
        },
    );
    each.message(
        "read",
        ReadTenant {
            tenants: vec![tenant("acme")],
            owners_of: vec![(kind("api_key"), key("0a/6b"))],
        },
    );
    answers(each);
}

fn answers(each: &mut impl Each) {
    each.message::<Answer<StoreState>>("answer to hello", Ok(state()));
    let nothing = StoreState {
        granted: None,
        last_synced: None,
        root: None,
        age: None,
        ..state()
    };
    each.message::<Answer<StoreState>>("answer to hello: a new store", Ok(nothing));
    let granted = Granted {
        session: SessionId(0xabcd),
        state: state(),
    };
    each.message::<Answer<Granted>>("answer to claim", Ok(granted));
    let verdicts = vec![
        Verdict::Applied,
        Verdict::AlreadyThere,
        Verdict::KeyTaken {
            kind: kind("api_key"),
            key: key("0c"),
            owner: tenant("other"),
        },
        Verdict::Invalid {
            why: "it has a key twice".into(),
        },
    ];
    let pushed = Pushed {
        verdicts,
        reading: reading(),
    };
    each.message::<Answer<Pushed>>("answer to push", Ok(pushed));
    let pushed = PushedDelta::Pushed(Pushed {
        verdicts: vec![Verdict::Applied],
        reading: reading(),
    });
    each.message::<Answer<PushedDelta>>("answer to delta", Ok(pushed));
    let differs = PushedDelta::Differs {
        tenants: vec![tenant("large")],
        reading: reading(),
    };
    each.message::<Answer<PushedDelta>>("answer to delta: differs", Ok(differs));
    let in_step = SyncVerdict::InStep { reading: reading() };
    each.message::<Answer<SyncVerdict>>("answer to synced: in step", Ok(in_step));
    let differs = SyncVerdict::Differs {
        buckets: Buckets::default(),
    };
    each.message::<Answer<SyncVerdict>>("answer to synced: differs", Ok(differs));
    each.message::<Answer<Ack>>(
        "answer to heartbeat, release",
        Ok(Ack { reading: reading() }),
    );
    let listed = Listed {
        tenant: tenant("acme"),
        digest: Digest([16; 16]),
        version: Version { epoch: 3, n: 41 },
    };
    each.message::<Answer<Vec<Listed>>>("answer to buckets", Ok(vec![listed]));
    let read = TenantsRead {
        tenants: vec![TenantState {
            tenant: tenant("acme"),
            version: Some(Version { epoch: 3, n: 41 }),
            contexts: bundle().contexts,
            held: vec![(kind("cluster"), key("held-00"))],
            held_kinds: vec![kind("flags")],
        }],
        owners: vec![Some(tenant("acme")), None],
    };
    each.message::<Answer<TenantsRead>>("answer to read", Ok(read));
    let elsewhere = Region::new("us-east-1").expect("a region");
    for (n, refused) in [
        Refused::Region {
            mine: region(),
            asked: elsewhere,
        },
        Refused::Fenced { granted: term() },
        Refused::Changed,
        Refused::Deployment,
        Refused::Busy { silent_ms: 900 },
        Refused::Session,
        Refused::Number {
            expected: 4,
            got: 5,
        },
        Refused::Epoch { epoch: 1 << 50 },
        Refused::Storage {
            why: "no space left on device".into(),
        },
    ]
    .into_iter()
    .enumerate()
    {
        each.message::<Answer<Ack>>(&format!("refusal {n}"), Err(refused));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// The messages of a protocol by name.
fn recorded(protocol: u8) -> BTreeMap<String, Vec<u8>> {
    let files = LATER.iter().filter(|(of, _)| *of == protocol);
    let files = files.map(|(of, about)| later(*of, about));
    let all = std::iter::once(file(protocol)).chain(files);
    all.flat_map(recorded_in).collect()
}

fn recorded_in(file: PathBuf) -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(file).expect("a file for each protocol that is understood");
    let pair = |line: &str| {
        let (name, hex) = line.split_once(" = ").expect("NAME = HEX");
        (name.to_owned(), bytes(hex))
    };
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .map(pair)
        .collect()
}

#[derive(Default)]
struct Record(String);

impl Each for Record {
    fn message<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, message: T) {
        let body = encode(&message).expect("encodes");
        let _ = writeln!(self.0, "{name} = {}", hex(&body));
    }
}

#[test]
#[ignore = "writes the file of a new protocol; one that is there stays as it was"]
fn record_the_protocol_of_this_release() {
    assert!(
        !file(PROTOCOL).exists(),
        "raise PROTOCOL first: what was sent stays what it was"
    );
    let mut record = Record::default();
    all(&mut record);
    let text = format!(
        "# Push protocol {PROTOCOL}, as a release that spoke it sent it. Never changed: see tests/recorded.rs.\n{}",
        record.0
    );
    std::fs::create_dir_all(folder()).expect("a folder");
    std::fs::write(file(PROTOCOL), text).expect("written");
}

/// Records only what has these words in its name.
struct RecordThose(&'static str, Record);

impl Each for RecordThose {
    fn message<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, message: T) {
        if name.contains(self.0) {
            self.1.message(name, message);
        }
    }
}

#[test]
#[ignore = "writes the files of messages that came later; one that is there stays as it was"]
fn record_what_came_later() {
    for (protocol, about) in LATER.into_iter().filter(|(of, _)| *of == PROTOCOL) {
        let file = later(protocol, about);
        if file.exists() {
            continue;
        }
        let mut record = RecordThose(about, Record::default());
        all(&mut record);
        let text = format!(
            "# Messages that came to push protocol {protocol} later, as the first release that knew them sent them. Never changed: \
             see tests/recorded.rs.\n{}",
            record.1.0
        );
        std::fs::write(file, text).expect("written");
    }
}

/// Compares each message with what was recorded.
struct Compare {
    recorded: BTreeMap<String, Vec<u8>>,
}

impl Each for Compare {
    fn message<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, message: T) {
        let body = self.recorded.remove(name).expect(name);
        let read: T = decode(&body).expect(name);
        assert_eq!(
            format!("{read:?}"),
            format!("{message:?}"),
            "{name} says something else"
        );
        // Compressed bytes may differ from one release of the library to the next; what they say may not.
        if body[1] == 0 {
            let sent = encode(&message).expect("encodes");
            assert_eq!(hex(&sent), hex(&body), "{name} is sent otherwise");
        }
    }
}

#[test]
fn what_was_recorded_says_the_same_and_is_sent_the_same() {
    let mut compare = Compare {
        recorded: recorded(PROTOCOL),
    };
    all(&mut compare);
    assert!(
        compare.recorded.is_empty(),
        "nobody sends {:?}",
        compare.recorded.keys()
    );
}

#[test]
fn there_is_a_record_of_every_protocol_that_is_understood() {
    for protocol in PROTOCOL_OLDEST..=PROTOCOL {
        for (name, body) in recorded(protocol) {
            assert_eq!(body[0], protocol, "{name}");
        }
    }
}

/// Reads what was recorded after something was done to it.
struct Damaged;

impl Each for Damaged {
    fn message<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, message: T) {
        let body = encode(&message).expect("encodes");
        let refused = |body: &[u8]| decode::<T>(body).expect_err(name);
        // Of another protocol: said, with both numbers, whatever follows.
        for other in [PROTOCOL_OLDEST - 1, PROTOCOL + 1] {
            let mut of_other = body.clone();
            of_other[0] = other;
            assert_eq!(
                refused(&of_other),
                BadBody::Protocol { theirs: other },
                "{name}"
            );
        }
        // One more field, under the same number: never read as if it were not there.
        for more in [&[0][..], &[1, 2, 3]] {
            let longer = match body[1] {
                0 => [&body, more].concat(),
                _ => continue,
            };
            assert!(matches!(refused(&longer), BadBody::Malformed(_)), "{name}");
        }
        // One field less.
        let is_empty = body.len() == 2;
        assert!(
            is_empty || matches!(refused(&body[..body.len() - 1]), BadBody::Malformed(_)),
            "{name}"
        );
    }
}

#[test]
fn another_protocol_and_other_fields_are_refused_and_never_read_as_something_else() {
    all(&mut Damaged);
}

#[test]
fn a_word_that_only_a_newer_release_knows_is_refused() {
    // The refusals of this release have the numbers 0 to 8, behind a 1 for `Err`.
    let newer = [PROTOCOL, 0, 1, 9];
    assert!(matches!(
        decode::<Answer<Ack>>(&newer),
        Err(BadBody::Malformed(_))
    ));
    // And so with verdicts: 0 for `Ok`, one verdict, number 4.
    let newer = [PROTOCOL, 0, 0, 1, 4];
    assert!(matches!(
        decode::<Answer<Pushed>>(&newer),
        Err(BadBody::Malformed(_))
    ));
}
