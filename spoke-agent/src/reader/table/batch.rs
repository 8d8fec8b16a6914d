//! Many keys, of which those of one tenant are of one bundle.
//!
//! A value says of which bundle it is; that a key is absent does not. So where something of a tenant is in the batch, what is
//! absent counts only if it was read within the time in which the tenant's head surely named that bundle; else it is read
//! again, or the head is asked whether it still does. Keys that nobody is known to have had are absent each by itself.

use super::entry::Entry;
use super::load;
use super::named::Named;
use super::seen::Tenant;
use super::{FAILED_FOR, Inner};
use contexts::name::TenantId;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often a set of keys is read until it is of one state.
const TRIES: u32 = 6;

/// What is known of these keys.
pub(super) async fn entries(reader: &Arc<Inner>, names: &[Named]) -> Vec<Arc<Entry>> {
    let reading = names.iter().map(|name| reader.entry(name));
    let mut entries = join_all(reading).await;
    for _ in 0..TRIES {
        let wanting = wanting(reader, &entries).await;
        if wanting.again.is_empty() {
            for (at, why) in wanting.unsure {
                entries[at] = Arc::new(Entry::failed(why, FAILED_FOR));
            }
            return entries;
        }
        let again = wanting.again.iter();
        let reading = again.map(|at| reader.replaced(&names[*at], &entries[*at]));
        let read = join_all(reading).await;
        for (at, entry) in wanting.again.into_iter().zip(read) {
            entries[at] = entry;
        }
    }
    let why = "its tenant changed each time that it was read";
    let failed = |_| Arc::new(Entry::failed(why.into(), FAILED_FOR));
    entries.into_iter().map(failed).collect()
}

/// Where entries stand that may be of another state than others of their tenant.
#[derive(Default)]
struct Wanting {
    /// To be read again.
    again: BTreeSet<usize>,
    /// The table did not say; why.
    unsure: BTreeMap<usize, String>,
}

async fn wanting(reader: &Inner, entries: &[Arc<Entry>]) -> Wanting {
    let which = |is: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
        let all = entries.iter().enumerate();
        all.filter(|(_, entry)| is(entry))
            .map(|(at, _)| at)
            .collect()
    };
    let mut wanting = Wanting::default();
    wanting.again.extend(which(&Entry::is_superseded));
    if !wanting.again.is_empty() || which(&Entry::is_nothing).is_empty() {
        return wanting;
    }
    let tenants = entries.iter().filter_map(|entry| entry.tenant());
    let tenants: BTreeMap<&TenantId, &Arc<Tenant>> = tenants.map(|t| (t.id(), t)).collect();
    for tenant in tenants.into_values() {
        let until = tenant.seen().until;
        let unconfirmed = which(&|entry| entry.is_nothing() && entry.read.answered > until);
        let answered = unconfirmed.iter().map(|at| entries[*at].read.answered);
        if let Some(last) = answered.max()
            && let Err(error) = load::confirm(reader, tenant, last).await
        {
            let why = |at| (at, error.to_string());
            wanting.unsure.extend(unconfirmed.into_iter().map(why));
        }
        let since = tenant.seen().since;
        let is_behind = |entry: &Entry| entry.is_nothing() && entry.read.asked < since;
        wanting.again.extend(which(&is_behind));
    }
    wanting.again.extend(which(&Entry::is_superseded));
    wanting
}
