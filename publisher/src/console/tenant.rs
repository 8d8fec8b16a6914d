//! One tenant at the hub and in every store, side by side, so that "is it gone everywhere?" has an answer. Values of
//! sensitive kinds are compared here and leave the publisher as the mark that they are there.

use super::records::{unavailable, within};
use crate::api::{Api, problem};
use crate::compare::{Difference, differences};
use crate::spoke::Spoke;
use crate::writer::{BatchId, BuildRequest, BuiltBatch, What};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use contexts::bundle::{Bundle, Context};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{ReadTenant, TenantState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the database may take.
const WITHIN: Duration = Duration::from_secs(10);
/// Contexts that are shown at once.
const SHOWN: usize = 200;

type Name = (Kind, Key);

/// A tenant everywhere.
#[derive(Debug, Serialize)]
struct Everywhere {
    tenant: TenantId,
    /// Why the hub cannot say what it publishes of it.
    hub_failure: Option<String>,
    stores: Vec<Place>,
    contexts: Vec<Row>,
    /// Contexts that there are; not all need be shown.
    count: usize,
}

#[derive(Debug, Serialize)]
struct Place {
    store: String,
    region: Region,
    unreachable: Option<String>,
    version: Option<String>,
    age_seconds: Option<f64>,
    differing: usize,
}

/// One context everywhere.
#[derive(Debug, Serialize)]
struct Row {
    kind: Kind,
    key: Key,
    is_sensitive: bool,
    /// What the hub publishes; none if it does not.
    hub: Option<Box<RawValue>>,
    /// Regions to which it goes.
    regions: Vec<Region>,
    /// Why the hub holds it.
    held: Option<String>,
    /// In the order of the stores.
    stores: Vec<Cell>,
}

/// One context in one store.
#[derive(Debug, Serialize)]
struct Cell {
    /// `same`, `absent` (as it should be), `unknown` (the store, or the hub, does not answer), or how it differs; `kept` is as
    /// a person decided.
    is: &'static str,
    /// The value, where it is not that of the hub.
    value: Option<Box<RawValue>>,
}

/// Which contexts are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    skip: usize,
}

impl Part {
    fn has(&self, name: &Name) -> bool {
        let has_kind = self.kind.as_ref().is_none_or(|kind| *kind == name.0);
        has_kind && self.key.as_ref().is_none_or(|key| name.1.as_str() == key)
    }
}

/// `GET /console/tenants/{tenant}?kind=&key=&skip=`
pub(super) async fn side_by_side(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(part): Query<Part>,
) -> Response {
    let parts = api.parts();
    let source = &parts.source;
    let checked = within(
        source,
        WITHIN,
        source.check_tenants(std::slice::from_ref(&name)),
    );
    let tenant = match checked.await {
        Ok(tenants) => tenants.into_iter().next().ok_or_else(String::new),
        // What the stores hold can be seen without the hub.
        Err(error) if error.is_down() => TenantId::new(&name).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match tenant {
        Ok(tenant) => Json(Box::pin(everywhere(&api, tenant, &part)).await).into_response(),
        Err(why) => problem(StatusCode::BAD_REQUEST, "bad_request", &why),
    }
}

async fn everywhere(api: &Api, tenant: TenantId, part: &Part) -> Everywhere {
    let parts = api.parts();
    let (source, spokes) = (&parts.source, &parts.spokes);
    let regions: BTreeSet<Region> = spokes.iter().map(|s| s.region.clone()).collect();
    let regions: Vec<Region> = regions.into_iter().collect();
    let request = BuildRequest::new(BatchId(0), What::Tenants(vec![tenant.clone()]));
    let building = within(source, WITHIN, source.build(&request, &regions));
    let reading = spokes.iter().map(|spoke| read(spoke, &tenant));
    let (built, states) = tokio::join!(building, futures_util::future::join_all(reading));
    let (hub, hub_failure) = match built {
        Ok(batch) => (bundles(batch, regions.len()), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let bundle_of = |region: &Region| {
        let at = regions.iter().position(|r| r == region)?;
        hub.get(at).map(|bundle| &**bundle)
    };
    let seen: Vec<Seen<'_>> = spokes
        .iter()
        .zip(&states)
        .map(|(spoke, state)| Seen::new(bundle_of(&spoke.region), state.as_ref().ok()))
        .collect();
    let mut names: BTreeSet<Name> = BTreeSet::new();
    for bundle in &hub {
        names.extend(
            bundle
                .contexts
                .iter()
                .map(|c| (c.kind.clone(), c.key.clone())),
        );
        names.extend(bundle.held.iter().map(|h| (h.kind.clone(), h.key.clone())));
    }
    for seen in &seen {
        names.extend(
            seen.values
                .keys()
                .map(|(k, x)| ((*k).clone(), (*x).clone())),
        );
        names.extend(seen.differing.keys().cloned());
    }
    names.retain(|name| part.has(name));
    let config = api.config();
    let sensitive: BTreeSet<&Kind> = config.sensitive().collect();
    let row = |name: &Name| {
        let shows = !sensitive.contains(&name.0);
        row(name, &regions, &hub, &seen, shows)
    };
    let places = spokes.iter().zip(states.iter().zip(&seen));
    Everywhere {
        tenant,
        hub_failure,
        stores: places
            .map(|(spoke, (state, seen))| Place {
                store: spoke.name(),
                region: spoke.region.clone(),
                unreachable: state.as_ref().err().cloned(),
                version: state
                    .as_ref()
                    .ok()
                    .and_then(|s| s.0.as_ref()?.version)
                    .map(|v| v.to_string()),
                age_seconds: state.as_ref().ok().and_then(|s| s.1),
                differing: seen
                    .differing
                    .values()
                    .filter(|is| **is != Difference::Kept)
                    .count(),
            })
            .collect(),
        contexts: names.iter().skip(part.skip).take(SHOWN).map(row).collect(),
        count: names.len(),
    }
}

/// The tenant's bundles, one per region; none if the build has nothing of it.
fn bundles(batch: BuiltBatch, regions: usize) -> Vec<Arc<Bundle>> {
    let built = batch.tenants.into_iter().next();
    let bundles: Vec<_> = built
        .into_iter()
        .flat_map(|built| built.bundles)
        .map(|bundle| bundle.bundle.clone())
        .collect();
    debug_assert!(bundles.is_empty() || bundles.len() == regions);
    bundles
}

/// What a store has of a tenant, and its age.
async fn read(
    spoke: &Spoke,
    tenant: &TenantId,
) -> Result<(Option<TenantState>, Option<f64>), String> {
    let ask = ReadTenant {
        tenants: vec![tenant.clone()],
        owners_of: Vec::new(),
    };
    let (state, read) = tokio::try_join!(spoke.hello(), spoke.read(&ask))?;
    Ok((read.tenants.into_iter().next(), state.age))
}

/// One store's side.
struct Seen<'a> {
    is_known: bool,
    values: BTreeMap<(&'a Kind, &'a Key), &'a Context>,
    differing: BTreeMap<Name, Difference>,
}

impl<'a> Seen<'a> {
    fn new(bundle: Option<&Bundle>, state: Option<&'a (Option<TenantState>, Option<f64>)>) -> Self {
        let state = state.and_then(|(state, _)| state.as_ref());
        let (Some(bundle), Some(there)) = (bundle, state) else {
            let values = state.map(values).unwrap_or_default();
            return Self {
                is_known: false,
                values,
                differing: BTreeMap::new(),
            };
        };
        let differing = differences(bundle, there)
            .into_iter()
            .filter_map(|d| Some(((d.kind, d.key?), d.difference)));
        Self {
            is_known: true,
            values: values(there),
            differing: differing.collect(),
        }
    }
}

fn values(state: &TenantState) -> BTreeMap<(&Kind, &Key), &Context> {
    state.contexts.iter().map(|c| (c.name(), c)).collect()
}

fn row(
    name: &Name,
    regions: &[Region],
    hub: &[Arc<Bundle>],
    seen: &[Seen<'_>],
    shows: bool,
) -> Row {
    let find = |bundle: &Arc<Bundle>| {
        let mut all = bundle.contexts.iter();
        all.find(|c| c.kind == name.0 && c.key == name.1).cloned()
    };
    let at_hub: Vec<Option<Context>> = hub.iter().map(find).collect();
    let published = at_hub.iter().flatten().next();
    let held = hub.iter().find_map(|bundle| {
        let mut held = bundle.held.iter();
        let why = held
            .find(|h| h.kind == name.0 && h.key == name.1)
            .map(|h| &h.why);
        let mut kinds = bundle.held_kinds.iter();
        why.or_else(|| kinds.find(|h| h.kind == name.0).map(|h| &h.why))
    });
    let value = |context: &Context| {
        let value = RawValue::from_string(context.value.to_string());
        value.ok().filter(|_| shows)
    };
    let cell = |seen: &Seen<'_>| {
        let there = seen.values.get(&(&name.0, &name.1));
        let is = match (seen.is_known, seen.differing.get(name)) {
            (false, _) => "unknown",
            (true, Some(Difference::Changed)) => "changed",
            (true, Some(Difference::Missing)) => "missing",
            (true, Some(Difference::Extra)) => "extra",
            (true, Some(Difference::Held)) => "held",
            (true, Some(Difference::Kept)) => "kept",
            (true, None) if there.is_some() => "same",
            (true, None) => "absent",
        };
        let is_news = is != "same";
        Cell {
            is,
            value: there.filter(|_| is_news).and_then(|context| value(context)),
        }
    };
    Row {
        kind: name.0.clone(),
        key: name.1.clone(),
        is_sensitive: !shows,
        hub: published.and_then(value),
        regions: regions
            .iter()
            .zip(&at_hub)
            .filter_map(|(region, there)| there.as_ref().map(|_| region.clone()))
            .collect(),
        held: held.map(|why| why.to_string()),
        stores: seen.iter().map(cell).collect(),
    }
}

/// A key that is looked for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    kind: Kind,
    key: Key,
}

/// `GET /console/find?kind=&key=`: the tenants that have a key, at the hub or in a store.
pub(super) async fn find(State(api): State<Arc<Api>>, Query(wanted): Query<Wanted>) -> Response {
    let parts = api.parts();
    let (source, spokes) = (&parts.source, &parts.spokes);
    let at_hub = within(
        source,
        WITHIN,
        source.tenants_with_key(&wanted.kind, &wanted.key),
    );
    let ask = ReadTenant {
        tenants: Vec::new(),
        owners_of: vec![(wanted.kind.clone(), wanted.key.clone())],
    };
    let at_stores = futures_util::future::join_all(spokes.iter().map(|spoke| spoke.read(&ask)));
    let (at_hub, at_stores) = tokio::join!(at_hub, at_stores);
    let owners = at_stores.into_iter().flatten().flat_map(|read| read.owners);
    let mut tenants: BTreeSet<TenantId> = owners.flatten().collect();
    match at_hub {
        Ok(found) => tenants.extend(found),
        // The stores may know it.
        Err(error) if tenants.is_empty() => return unavailable(&error),
        Err(_) => {}
    }
    Json(serde_json::json!({ "tenants": tenants })).into_response()
}
