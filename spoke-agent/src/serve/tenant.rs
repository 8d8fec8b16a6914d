//! `GET /v1/tenants/{tenant}/contexts?kind=`: all contexts of one tenant, from one state of the store.

use super::Serve;
use super::answer::{Failure, Far, NO_STORE, min_version, stamp};
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
use contexts::apply::Head;
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

/// What is asked for.
pub struct Asked {
    /// The tenant, as it was given.
    pub tenant: String,
    /// Only these kinds; all, if none is named.
    pub kinds: Vec<String>,
    /// The least version that the reader accepts.
    pub least: Option<Version>,
}

impl Asked {
    /// Of a request.
    ///
    /// # Errors
    /// [`Failure::BadRequest`] if it cannot be understood.
    pub fn of(
        path: Result<Path<String>, PathRejection>,
        query: Result<Query<Vec<(String, String)>>, QueryRejection>,
        headers: &HeaderMap,
    ) -> Result<Self, Failure> {
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
        let least = min_version(headers)?;
        Ok(Self {
            tenant,
            kinds,
            least,
        })
    }

    fn asks(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|asked| asked == kind)
    }
}

/// Answers all contexts of a tenant.
pub async fn contexts(
    State(my): State<Serve>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asked = Asked::of(path, query, &headers)?;
    // What was published is taken before the snapshot, so that the snapshot has at least that.
    let live = my.live.borrow().clone();
    let (views, before) = (my.views.clone(), live.clone());
    let far = Far::of(&live, my.clock.reading());
    let reading = tokio::task::spawn_blocking(move || {
        let snapshot = Snapshot::take(views.db())?;
        let whole = match TenantId::new(&asked.tenant) {
            Ok(tenant) => snapshot.whole(&tenant)?,
            // Text that is no tenant is one that nobody has.
            Err(_) => None,
        };
        let is_known = match whole {
            Some(_) => true,
            None => knows_absence(&snapshot, &before, &asked.kinds)?,
        };
        // What may have been lost may have been this tenant's.
        match is_known && views.is_checked() && !before.lost {
            true => answer(asked, whole, far),
            false => Err(Failure::NotReady),
        }
    });
    reading.await.map_err(|_| Failure::NotReady)?
}

/// The answer to what was found of a tenant; it is nobody's if nothing was.
///
/// # Errors
/// Why there is none.
pub fn answer(asked: Asked, whole: Option<Whole>, far: Far) -> Result<Response, Failure> {
    let head = match &whole {
        Some(whole) => Some(sound(whole, &asked)?),
        None => None,
    };
    let here = head.map(|head| head.version);
    if far.is_behind(asked.least) && asked.least > here {
        return Err(Failure::Behind);
    }
    let (mut contexts, mut held) = (Vec::new(), Vec::new());
    if let (Some(head), Some(whole)) = (head, &whole) {
        let now = wall_micros();
        let known = whole.contexts.iter();
        for known in known.filter(|known| asked.asks(known.kind()) && !known.is_expired(|| now)) {
            let version = head.version_of(known.kind(), known.key());
            contexts.push(Element::value(known, version)?);
        }
        let names = head.held.iter();
        let names = names.filter(|held| asked.asks(held.kind.as_str()));
        held.extend(names.map(|held| Element::held(held.kind.as_str(), held.key.as_str())));
    }
    let answered = Answered {
        tenant: asked.tenant,
        version: here.map(|version| version.to_string()),
        contexts,
        held,
    };
    let mut response = ([(CACHE_CONTROL, NO_STORE)], Json(answered)).into_response();
    stamp(response.headers_mut(), here.unwrap_or(far.position), far);
    Ok(response)
}

/// The head of a tenant of which all that was asked for is there, and sound.
fn sound<'a>(whole: &'a Whole, asked: &Asked) -> Result<&'a Head, Failure> {
    let head = whole.head.as_ref().ok_or(Failure::NotReady)?;
    let mut missing = head.held_kinds.iter().filter(|kind| kind.kept.is_none());
    let known = whole.contexts.iter();
    let mut damaged = known.filter(|known| known.state() != KnownState::Value);
    match missing.any(|kind| asked.asks(kind.kind.as_str()))
        || damaged.any(|known| asked.asks(known.kind()))
    {
        true => Err(Failure::NotReady),
        false => Ok(head),
    }
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
