//! `GET /v1/tenants/{tenant}/contexts?kind=`: all contexts of one tenant, from one state of the store.

use super::Serve;
use super::answer::{Failure, NO_STORE, min_version, stamp};
use super::element::Element;
use crate::clock::wall_micros;
use crate::store::index::known::State as KnownState;
use crate::store::live::Live;
use crate::store::redb::reader::{Snapshot, Whole};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use contexts::name::TenantId;
use contexts::version::Version;
use serde::Serialize;

#[derive(Serialize)]
struct Answered {
    tenant: String,
    /// None for a tenant that is not there.
    version: Option<String>,
    contexts: Vec<Element>,
    /// Names that the hub holds; those with a last good value are among the contexts too.
    held: Vec<Element>,
}

/// Answers all contexts of a tenant.
pub async fn contexts(
    State(my): State<Serve>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let bad = |why: &str| Failure::BadRequest(why.to_owned());
    let Path(tenant) = path.map_err(|_| bad("the tenant must be percent-encoded UTF-8"))?;
    let Query(query) = query.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let kinds = query.into_iter().map(|(name, value)| match name.as_str() {
        "kind" => Ok(value),
        _ => Err(bad(
            "the only parameter is kind, which may stand more than once",
        )),
    });
    let mut kinds: Vec<String> = kinds.collect::<Result<_, _>>()?;
    kinds.retain(|kind| !kind.is_empty());
    let least = min_version(&headers)?;
    // What was published is taken before the snapshot, so that the snapshot has at least that.
    let live = my.live.borrow().clone();
    let (views, before) = (my.views.clone(), live.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let snapshot = Snapshot::take(views.db())?;
        answer(
            &snapshot,
            &before,
            views.is_checked(),
            tenant,
            &kinds,
            least,
        )
    });
    let (version, answered) = reading.await.map_err(|_| Failure::NotReady)??;
    let mut response = ([(CACHE_CONTROL, NO_STORE)], Json(answered)).into_response();
    let now = my.clock.reading();
    stamp(
        response.headers_mut(),
        version.unwrap_or(live.position),
        &live,
        now,
    );
    Ok(response)
}

fn answer(
    snapshot: &Snapshot,
    live: &Live,
    is_checked: bool,
    tenant: String,
    kinds: &[String],
    least: Option<Version>,
) -> Result<(Option<Version>, Answered), Failure> {
    let asked = |kind: &str| kinds.is_empty() || kinds.iter().any(|asked| asked == kind);
    let whole = match TenantId::new(&tenant) {
        Ok(tenant) => snapshot.whole(&tenant)?,
        // Text that is no tenant is one that nobody has.
        Err(_) => None,
    };
    let here = whole
        .as_ref()
        .and_then(|whole| whole.head.as_ref())
        .map(|head| head.version);
    let knows = match &whole {
        Some(whole) => knows_all(whole, &asked),
        None => knows_absence(snapshot, live, kinds)?,
    };
    // What may have been lost may have been this tenant's.
    if !knows || !is_checked || live.lost {
        return Err(Failure::NotReady);
    }
    if least.is_some_and(|least| least > here.unwrap_or_default().max(live.position)) {
        return Err(Failure::Behind);
    }
    let (mut contexts, mut held) = (Vec::new(), Vec::new());
    if let Some(Whole {
        head: Some(head),
        contexts: known,
        ..
    }) = &whole
    {
        let now = wall_micros();
        for known in known
            .iter()
            .filter(|known| asked(known.kind()) && !known.is_expired(now))
        {
            contexts.push(Element::value(
                known,
                head.version_of(known.kind(), known.key()),
            )?);
        }
        let names = head.held.iter().filter(|held| asked(held.kind.as_str()));
        held.extend(names.map(|held| Element::held(held.kind.as_str(), held.key.as_str())));
    }
    let version = here.map(|version| version.to_string());
    Ok((
        here,
        Answered {
            tenant,
            version,
            contexts,
            held,
        },
    ))
}

/// Whether what the store has of the tenant is all of it, and sound.
fn knows_all(whole: &Whole, asked: &impl Fn(&str) -> bool) -> bool {
    let Some(head) = &whole.head else {
        return false;
    };
    let missing = head.held_kinds.iter().filter(|kind| kind.kept.is_none());
    let mut damaged = whole
        .contexts
        .iter()
        .filter(|known| known.state() != KnownState::Value);
    !missing.into_iter().any(|kind| asked(kind.kind.as_str()))
        && !damaged.any(|known| asked(known.kind()))
}

/// Whether a tenant of which the store has nothing has nothing of these kinds, or at all.
fn knows_absence(snapshot: &Snapshot, live: &Live, kinds: &[String]) -> Result<bool, Failure> {
    if kinds.is_empty() {
        return Ok(live.is_ready() && !snapshot.is_blind_somewhere()?);
    }
    for kind in kinds {
        if !snapshot.is_complete(kind)? {
            return Ok(false);
        }
    }
    Ok(true)
}
