//! `GET /v1/diff?tenant=&region=`, `/v1/contexts/{kind}/{key}` and `/v1/tenants/{tenant}`: looking, without changing anything. Values of
//! kinds that are `sensitive` never leave here.

use super::auth::Caller;
use super::{Api, known, problem, stops};
use crate::config::Role;
use crate::writer::RegionFilter;
use crate::{compare, lookup};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use contexts::name::{Key, Kind, Region, TenantId};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is to be compared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    region: Option<Region>,
}

fn wrong(message: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, "bad_request", message)
}

pub(super) async fn diff(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Query(Asked { tenant, region }) = match asked {
        Ok(asked) => asked,
        Err(e) => return wrong(&e.body_text()),
    };
    let only = region.map(|region| [region].into());
    if let Err(message) = known(&api.config(), None, only.as_ref()) {
        return wrong(&message);
    }
    // Everything costs the primary what a scan does.
    if tenant.is_none()
        && let Err(refusal) = caller.require(Role::Republish)
    {
        return refusal;
    }
    let parts = api.parts();
    let tenant = match tenant {
        None => None,
        Some(name) => match parts.source.check_tenants(&[name]).await {
            Ok(checked) => checked.into_iter().next(),
            Err(e) if e.is_down() => return stops::refused(&e),
            Err(e) => return wrong(&e.to_string()),
        },
    };
    let regions = only.map_or(RegionFilter::All, RegionFilter::Only);
    match compare::compare(&parts, tenant, &regions, |_, _| {}).await {
        Ok(comparison) => Json(comparison).into_response(),
        Err(e) => stops::refused(&e),
    }
}

pub(super) async fn context(
    State(api): State<Arc<Api>>,
    Path((kind, key)): Path<(String, String)>,
) -> Response {
    let (kind, key) = match (Kind::new(&kind), Key::new(&key)) {
        (Ok(kind), Ok(key)) => (kind, key),
        (Err(e), _) => return wrong(&e.to_string()),
        (_, Err(e)) => return wrong(&e.to_string()),
    };
    let config = api.config();
    if let Err(message) = known(&config, Some(std::slice::from_ref(&kind)), None) {
        return wrong(&message);
    }
    let is_sensitive = config.sensitive().any(|sensitive| *sensitive == kind);
    match lookup::context(&api.parts(), &kind, &key).await {
        Ok(mut found) => {
            if is_sensitive {
                found.iter_mut().for_each(lookup::Found::conceal);
            }
            Json(found).into_response()
        }
        Err(e) => stops::refused(&e),
    }
}

pub(super) async fn tenant(State(api): State<Arc<Api>>, Path(tenant): Path<String>) -> Response {
    let tenant = match TenantId::new(&tenant) {
        Ok(tenant) => tenant,
        Err(e) => return wrong(&e.to_string()),
    };
    let mut stores = lookup::tenant(&api.parts(), &tenant).await;
    let config = api.config();
    let sensitive: BTreeSet<&Kind> = config.sensitive().collect();
    let contexts = stores.iter_mut().flat_map(|store| &mut store.contexts);
    contexts
        .filter(|context| sensitive.contains(&context.kind))
        .for_each(lookup::ContextAt::conceal);
    Json(lookup::TenantEverywhere { tenant, stores }).into_response()
}
