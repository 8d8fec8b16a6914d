//! What an item has no room for: such a bundle is refused whole, with a reason, before anything is read.

use crate::layout::{Build, ITEM_BYTES, SETTLED, StoredContext, weight};
use contexts::apply::{Owner, Record};
use contexts::digest::Digest;
use contexts::push::{Sent, Verdict};
use std::collections::BTreeSet;

/// The bundles that have room, and the verdicts on the others, each with its place in the push.
pub(crate) fn split(bundles: &[Sent]) -> (Vec<Sent>, Vec<(usize, Verdict)>) {
    let (mut sound, mut invalid) = (Vec::with_capacity(bundles.len()), Vec::new());
    for (at, sent) in bundles.iter().enumerate() {
        match too_large(sent) {
            None => sound.push(sent.clone()),
            Some(why) => invalid.push((at, Verdict::Invalid { why })),
        }
    }
    (sound, invalid)
}

/// The verdicts of all bundles, in the order of the push.
pub(crate) fn join(sound: Vec<Verdict>, invalid: Vec<(usize, Verdict)>) -> Vec<Verdict> {
    let mut verdicts = sound;
    for (at, verdict) in invalid {
        verdicts.insert(at.min(verdicts.len()), verdict);
    }
    verdicts
}

fn too_large(sent: &Sent) -> Option<String> {
    // Only what is large by itself is counted to the byte.
    let candidates = sent
        .bundle
        .contexts
        .iter()
        .filter(|c| c.value.len() > ITEM_BYTES / 2);
    for context in candidates {
        let name = (context.kind.clone(), context.key.clone());
        let stored = StoredContext {
            build: Build(0),
            version: sent.version,
            owner: Owner {
                tenant: sent.bundle.tenant.clone(),
                has_value: true,
                waiting: BTreeSet::new(),
            },
            record: Some(Record {
                context: context.clone(),
                hash: Digest([0; 16]),
            }),
        };
        // A staged item names a tenant more.
        let bytes = weight(&stored.to_item(&name, SETTLED)) + contexts::limits::TENANT_BYTES;
        if bytes > ITEM_BYTES {
            let (kind, key) = context.name();
            return Some(format!(
                "{kind} {key:?} has {} bytes, and an item of DynamoDB has room for 400 KB with its names: set \
                 max_value_bytes of the kind so that the hub holds such values",
                context.value.len()
            ));
        }
    }
    None
}
