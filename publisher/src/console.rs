//! The console: a page for the operator's browser, at `/`, that shows every region and lets a signed-in person act.
//!
//! | module | is about |
//! | --- | --- |
//! | `assets` | the page itself, which loads nothing from elsewhere |
//! | `session` | who is signed in |
//! | `pane` | what every region looks like now and looked like in the last hour, told as it changes |
//! | `tenant` | one tenant at the hub and in every store, side by side |
//! | `records` | scans and definitions, as the database has them |
//!
//! The console decides nothing and changes nothing by itself: what it asks for is a request to the API like any other.
//! It must never show a value of a kind that is `sensitive`, and must work with every region down.

mod assets;
pub mod pane;
mod records;
pub mod session;
mod tenant;

use crate::api::Api;
use axum::Router;
use axum::routing::{get, post};
use std::sync::Arc;

/// The routes that only somebody who is signed in may use.
pub fn guarded() -> Router<Arc<Api>> {
    Router::new()
        .route("/console/events", get(pane::events))
        .route("/console/tenants/{tenant}", get(tenant::side_by_side))
        .route("/console/find", get(tenant::find))
        .route("/console/scans", get(records::scans))
        .route("/console/definitions", get(records::definitions))
}

/// The routes that anybody may use: the page, and the way in and out.
pub fn open() -> Router<Arc<Api>> {
    Router::new()
        .route("/", get(assets::page))
        .route("/console/console.js", get(assets::script))
        .route("/console/console.css", get(assets::style))
        .route("/console/session", get(session::session))
        .route("/console/sign-in", post(session::sign_in))
        .route("/console/sign-out", post(session::sign_out))
}
