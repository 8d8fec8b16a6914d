//! One context, or one tenant, as the hub builds it now and as each store holds it. Changes nothing.

use crate::engine::Parts;
use crate::source::SourceError;
use crate::writer::{BatchId, BuildRequest, What};
use contexts::bundle::Context;
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::ReadTenant;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// A context at one place.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// "hub", or region and address of a store.
    pub at: String,
    /// The owner.
    pub tenant: Option<TenantId>,
    /// The version of its bundle; none at the hub.
    pub version: Option<String>,
    /// Seconds since the moment up to which the store has every change.
    pub age_seconds: Option<f64>,
    /// What there is to say instead of a value, or beside it.
    pub note: Option<String>,
    /// The value.
    pub value: Option<Box<RawValue>>,
    /// Whether a person should look: it is held, out of reach, or not what the hub has.
    pub trouble: bool,
}

impl Found {
    fn at(at: String) -> Self {
        Self {
            at,
            tenant: None,
            version: None,
            age_seconds: None,
            note: None,
            value: None,
            trouble: false,
        }
    }

    /// Takes the value away; that there is one stays.
    pub fn conceal(&mut self) {
        conceal(&mut self.value);
    }

    fn with_value(mut self, context: &Context) -> Self {
        self.value = RawValue::from_string(context.value.to_string()).ok();
        self
    }
}

fn conceal(value: &mut Option<Box<RawValue>>) {
    if value.is_some() {
        *value = RawValue::from_string("\"(sensitive)\"".to_owned()).ok();
    }
}

/// Looks for a context everywhere.
///
/// # Errors
/// [`SourceError`] if the database fails.
pub async fn context(parts: &Parts, kind: &Kind, key: &Key) -> Result<Vec<Found>, SourceError> {
    let (mut places, wanted) = match at_hub(parts, kind, key).await {
        Ok(found) => found,
        // When the hub cannot say, what the stores hold is what somebody needs to see.
        Err(e) => {
            let hub = Found {
                note: Some(e.to_string()),
                trouble: true,
                ..Found::at("hub".to_owned())
            };
            (vec![hub], BTreeMap::new())
        }
    };
    let stores = parts.spokes.iter().map(|spoke| async {
        let found = at_store(spoke, kind, key).await;
        let found = found.unwrap_or_else(|why| Found {
            note: Some(why),
            trouble: true,
            ..Found::at(spoke.name())
        });
        let there = found.value.as_ref().map(|v| v.get().to_owned());
        Found {
            trouble: found.trouble || there.as_ref() != wanted.get(&spoke.region),
            ..found
        }
    });
    places.extend(futures_util::future::join_all(stores).await);
    Ok(places)
}

/// What the hub publishes under this key, one entry per tenant that has it; and the value that belongs in each region.
async fn at_hub(
    parts: &Parts,
    kind: &Kind,
    key: &Key,
) -> Result<(Vec<Found>, BTreeMap<Region, String>), SourceError> {
    let tenants = parts.source.tenants_with_key(kind, key).await?;
    let all: BTreeSet<Region> = parts.spokes.iter().map(|s| s.region.clone()).collect();
    let regions: Vec<Region> = all.into_iter().collect();
    let request = BuildRequest::new(BatchId(0), What::Tenants(tenants));
    let batch = parts.source.build(&request, &regions).await?;
    let (mut found, mut wanted, mut clash) = (Vec::new(), BTreeMap::new(), false);
    for built in &batch.tenants {
        let has = |i: &usize| built.bundles[*i].bundle.has(kind, key);
        let here: Vec<usize> = (0..regions.len()).filter(has).collect();
        let hub = || Found {
            tenant: Some(built.tenant.clone()),
            ..Found::at("hub".to_owned())
        };
        if let Some(first) = here.first() {
            let bundle = &built.bundles[*first].bundle;
            let context = bundle
                .contexts
                .iter()
                .find(|c| c.kind == *kind && c.key == *key);
            let names: Vec<&str> = here.iter().map(|i| regions[*i].as_str()).collect();
            let note =
                (here.len() < regions.len()).then(|| format!("only for {}", names.join(", ")));
            if let Some(c) = context {
                for i in &here {
                    let before = wanted.insert(regions[*i].clone(), c.value.to_string());
                    clash |= before.is_some();
                }
                let found_here = hub().with_value(c);
                found.push(Found { note, ..found_here });
            }
            continue;
        }
        let held = built.bundles.iter().find_map(|b| {
            let name = b
                .bundle
                .held
                .iter()
                .find(|h| h.kind == *kind && h.key == *key)
                .map(|h| &h.why);
            name.or_else(|| {
                b.bundle
                    .held_kinds
                    .iter()
                    .find(|h| h.kind == *kind)
                    .map(|h| &h.why)
            })
        });
        let note = held.map_or("for no region".to_owned(), |why| format!("held: {why}"));
        found.push(Found {
            note: Some(note),
            trouble: held.is_some(),
            ..hub()
        });
    }
    // Two tenants have it in one region: it is held for one of them.
    found.iter_mut().for_each(|f| f.trouble |= clash);
    if found.is_empty() {
        found.push(Found {
            note: Some("no such key".to_owned()),
            ..Found::at("hub".to_owned())
        });
    }
    Ok((found, wanted))
}

fn now_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

async fn at_store(spoke: &crate::spoke::Spoke, kind: &Kind, key: &Key) -> Result<Found, String> {
    let age_seconds = spoke.hello().await?.age;
    let place = Found {
        age_seconds,
        ..Found::at(spoke.name())
    };
    let ask = ReadTenant {
        tenants: Vec::new(),
        owners_of: vec![(kind.clone(), key.clone())],
    };
    let Some(owner) = spoke.read(&ask).await?.owners.into_iter().next().flatten() else {
        return Ok(Found {
            note: Some("no such key".to_owned()),
            ..place
        });
    };
    let read = spoke
        .read(&ReadTenant {
            tenants: vec![owner.clone()],
            owners_of: Vec::new(),
        })
        .await?;
    let Some(state) = read.tenants.into_iter().next() else {
        return Ok(Found {
            note: Some("it moved while it was looked at".to_owned()),
            ..place
        });
    };
    let held =
        state.held.iter().any(|(k, x)| k == kind && x == key) || state.held_kinds.contains(kind);
    let context = state
        .contexts
        .iter()
        .find(|c| c.kind == *kind && c.key == *key);
    let expired = context.is_some_and(|c| c.expires.is_some_and(|at| at <= now_micros()));
    let note = match (held, expired) {
        (true, _) => Some("held: the last good value".to_owned()),
        (false, true) => Some("expired: gateways are answered 404".to_owned()),
        (false, false) => None,
    };
    let version = state.version.map(|v| v.to_string());
    let found = Found {
        tenant: Some(owner),
        version,
        note,
        trouble: held,
        ..place
    };
    Ok(match context {
        Some(context) => found.with_value(context),
        None => Found {
            note: Some("held: there is no good value".to_owned()),
            ..found
        },
    })
}

/// A tenant at every store.
#[derive(Debug, Serialize)]
pub struct TenantEverywhere {
    /// The tenant.
    pub tenant: TenantId,
    /// The stores.
    pub stores: Vec<TenantAt>,
}

/// What a store holds of a tenant.
#[derive(Debug, Serialize)]
pub struct TenantAt {
    /// Region and address.
    pub store: String,
    /// Why it does not answer, if it does not.
    pub unreachable: Option<String>,
    /// The version of the bundle.
    pub version: Option<String>,
    /// The contexts.
    pub contexts: Vec<ContextAt>,
    /// The names that are held.
    pub held: Vec<(Kind, Key)>,
    /// The kinds that are held.
    pub held_kinds: Vec<Kind>,
}

/// One of its contexts.
#[derive(Debug, Serialize)]
pub struct ContextAt {
    /// The kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Option<Box<RawValue>>,
}

impl ContextAt {
    /// Takes the value away; that there is one stays.
    pub fn conceal(&mut self) {
        conceal(&mut self.value);
    }
}

/// What every store holds of a tenant.
pub async fn tenant(parts: &Parts, tenant: &TenantId) -> Vec<TenantAt> {
    let stores = parts.spokes.iter().map(|spoke| async {
        let mut at = TenantAt {
            store: spoke.name(),
            unreachable: None,
            version: None,
            contexts: Vec::new(),
            held: Vec::new(),
            held_kinds: Vec::new(),
        };
        match spoke
            .read(&ReadTenant {
                tenants: vec![tenant.clone()],
                owners_of: Vec::new(),
            })
            .await
        {
            Err(why) => at.unreachable = Some(why),
            Ok(read) => {
                for state in read.tenants {
                    at.version = state.version.map(|v| v.to_string());
                    at.contexts
                        .extend(state.contexts.into_iter().map(|c| ContextAt {
                            kind: c.kind,
                            key: c.key,
                            value: RawValue::from_string(c.value.to_string()).ok(),
                        }));
                    (at.held, at.held_kinds) = (state.held, state.held_kinds);
                }
            }
        }
        at
    });
    futures_util::future::join_all(stores).await
}
