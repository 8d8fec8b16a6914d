//! `GET /v1/watch?after=CURSOR&kind=&tenant=`: what the store holds, and then what changes in it, as server-sent events.
//!
//! | event | data |
//! | --- | --- |
//! | `put` | `{kind, key, tenant, version, value}`, and `expires` (seconds since 1970) where it has one |
//! | `delete` | `{kind, key, tenant, version}` |
//! | `sync` | `{"full":true}`: a full copy ends here; what was not put since the connection began is gone, but for kinds in `incomplete`, where it has such a list |
//! | `error` | `{"error":"too_slow"}`: the last event of a watcher that does not read |
//!
//! `after=now` leaves out the full copy. With `follow=true` a mirror of the store is told more: `copy` before a full copy,
//! `copied` behind one that cannot be called all there is yet, `withheld` `{kind, key, tenant, why}` of keys that exist
//! without a value that could be answered, and each second `state` `{age, position, complete}`, which speaks of a moment of
//! which everything was told before. Its `sync` has the same beside `full`.
//!
//! `id` stands on the last event of a bundle only, so a watcher that goes on from it has each tenant whole. News are
//! gathered and written once for all watchers that are at the same place; who is elsewhere is told what is missing first.

mod audience;
mod news;
mod outlet;

pub use news::Watches;

use super::Serve;
use super::answer::Failure;
use crate::store::feed::{self, Copy, Event, Group};
use crate::store::index::known::State as KnownState;
use crate::store::live::Live;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Cursor;
use crate::store::redb::reader::Snapshot;
use crate::store::view::Views;
use audience::{Audience, Events};
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use outlet::{Ended, Outlet};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a follower is told the state.
const TICK: Duration = Duration::from_secs(1);
/// Seconds without anything else after which a comment shows that the connection lives.
const QUIET_TICKS: u32 = 15;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Reads a snapshot of the file on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    views: &Views,
    read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let db = views.db().clone();
    let reading = tokio::task::spawn_blocking(move || read(&Snapshot::take(&db)?));
    reading.await.map_err(|_| StoreError::Closed)?
}

/// Answers a watcher.
pub async fn watch(
    State(my): State<Serve>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let (audience, after) = Audience::of(query)?;
    // What a browser sends when it connects again is newer than what the page asked for.
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let after = last.map(str::to_owned).or(after);
    let from_now = after.as_deref() == Some("now");
    // A cursor that cannot be read is one of another store.
    let at = after.and_then(|text| text.parse().ok());
    let Some(place) = my.watches.place() else {
        return Err(Failure::TooManyWatchers);
    };
    let (outlet, body) = outlet::open(place);
    tokio::spawn(
        Watcher {
            my,
            audience,
            outlet,
            at,
            from_now,
            owes_sync: false,
            is_copied: false,
            damaged: BTreeSet::new(),
        }
        .run(),
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (NO_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// One watcher.
struct Watcher {
    my: Serve,
    audience: Audience,
    outlet: Outlet,
    /// Up to where it was told everything; none before a full copy.
    at: Option<Cursor>,
    /// It has what is here, or does not care.
    from_now: bool,
    owes_sync: bool,
    /// Whether it was told that a full copy is over which cannot be called all there is.
    is_copied: bool,
    /// Kinds of which the full copy under way left something out.
    damaged: BTreeSet<String>,
}

impl Watcher {
    async fn run(mut self) {
        let mut stopped = self.my.watches.stopped();
        let chunks = self.outlet.chunks();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = chunks.closed() => {}
            // It ends only when the watcher cannot be told any more.
            _ = self.tell() => {}
        }
    }

    async fn tell(&mut self) -> Result<(), Ended> {
        self.outlet.send(Bytes::from_static(b":\n\n")).await?;
        let mut live = self.my.live.clone();
        while !self.my.views.is_checked() {
            match timeout(TICK, live.changed()).await {
                Ok(changed) => changed.map_err(|_| Ended)?,
                Err(_) => self.outlet.send(Bytes::from_static(b":\n\n")).await?,
            }
        }
        // Before the first look, so that nothing falls between.
        let mut news = self.my.watches.hear();
        if self.from_now {
            let end = read(&self.my.views, Snapshot::end).await;
            self.at = Some(end.map_err(cannot_read)?);
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = 0;
        loop {
            let at = self.catch_up().await?;
            self.tell_state(None).await?;
            loop {
                tokio::select! {
                    heard = news.recv() => match heard {
                        Ok(news) if Some(news.batch.from) == self.at => {
                            let chunk = match self.owes_sync {
                                // Who goes on from a cursor is told no *sync* any more.
                                true => self.audience.write(&news.batch.groups, None),
                                false => news.write(&self.audience),
                            };
                            self.outlet.send(chunk).await?;
                            self.at = Some(news.batch.to);
                            self.tell_state(Some(&news.live)).await?;
                            quiet = 0;
                        }
                        _ => break,
                    },
                    _ = ticks.tick() => {
                        // News can be missed, and there may be no others for long.
                        let commit = self.my.live.borrow().commit;
                        if self.at.is_some_and(|at| at.commit != commit) {
                            break;
                        }
                        quiet += 1;
                        self.tell_state(None).await?;
                        if quiet % QUIET_TICKS == 0 {
                            self.show_life(at).await?;
                        }
                    }
                }
            }
        }
    }

    /// Shows that the connection lives, and how far it is where all that happened was filtered out.
    async fn show_life(&self, since: Cursor) -> Result<(), Ended> {
        let chunk = match self.at {
            Some(at) if at != since && !self.owes_sync => format!("id: {at}\n\n"),
            _ => ":\n\n".to_owned(),
        };
        self.outlet.send(chunk.into()).await
    }

    /// Tells what is missing up to now: all, or what changed.
    async fn catch_up(&mut self) -> Result<Cursor, Ended> {
        loop {
            let Some(at) = self.at else {
                self.copy().await?;
                continue;
            };
            let batch = read(&self.my.views, move |snapshot| feed::since(snapshot, at)).await;
            match batch.map_err(cannot_read)? {
                None => self.at = None,
                Some(batch) if batch.to == at => return Ok(at),
                Some(batch) => {
                    let cursor = (!self.owes_sync).then_some(batch.to);
                    let chunk = self.audience.write(&batch.groups, cursor);
                    self.outlet.send(chunk).await?;
                    self.at = Some(batch.to);
                }
            }
        }
    }

    /// Tells all of the store. What changes meanwhile is told behind it, and only then *sync*.
    async fn copy(&mut self) -> Result<(), Ended> {
        let begin = read(&self.my.views, Snapshot::end)
            .await
            .map_err(cannot_read)?;
        self.owes_sync = true;
        self.is_copied = false;
        self.damaged.clear();
        if self.audience.follow {
            let mut text = Events::default();
            text.event("copy", format_args!("{{}}"));
            self.outlet.send(text.end(None)).await?;
        }
        let mut copy = Copy::default();
        loop {
            let db = self.my.views.db().clone();
            let reading = tokio::task::spawn_blocking(move || {
                let part = copy.next(&db);
                (copy, part)
            });
            let part;
            (copy, part) = reading.await.map_err(|_| Ended)?;
            let Some(part) = part.map_err(cannot_read)? else {
                self.at = Some(begin);
                return Ok(());
            };
            self.note_damage(&part);
            self.outlet.send(self.audience.write(&part, None)).await?;
        }
    }

    /// Remembers of which kinds a full copy left something out.
    fn note_damage(&mut self, part: &[Group]) {
        for event in part.iter().flat_map(|group| &group.events) {
            if let Event::Withheld(known) = event
                && known.state() == KnownState::Damaged
            {
                self.damaged.insert(known.kind().to_owned());
            }
        }
    }

    /// The watched kinds of which a full copy may lack something that there is.
    fn incomplete(&self, live: &Live) -> BTreeSet<String> {
        let is_complete = |kind: &str| {
            live.complete
                .iter()
                .any(|complete| complete.as_str() == kind)
        };
        let synced = live.synced_kinds.iter().map(|kind| kind.as_str());
        let unknown = synced.filter(|kind| !is_complete(kind));
        let damaged = self.damaged.iter().map(String::as_str);
        let heard = unknown
            .chain(damaged)
            .filter(|kind| self.audience.hears_of(kind));
        heard.map(str::to_owned).collect()
    }

    /// What a follower is told each second, and everyone once a full copy is over. It speaks of the store as it was
    /// before everything up to here was gathered.
    async fn tell_state(&mut self, live: Option<&Arc<Live>>) -> Result<(), Ended> {
        let now = self.my.live.borrow().clone();
        let live = live.unwrap_or(&now);
        let Some(at) = self.at.filter(|at| live.commit <= at.commit) else {
            return Ok(());
        };
        // A store that was never in step cannot say that what it has is all there is.
        let mut text = Events::default();
        if self.owes_sync && live.is_ready() && !live.lost {
            let mut data = json!({ "full": true });
            let incomplete = self.incomplete(live);
            if self.audience.follow {
                data = self.state(live, data);
            } else if !incomplete.is_empty() {
                data["incomplete"] = json!(incomplete);
            }
            text.event("sync", format_args!("{data}"));
            self.owes_sync = false;
            return self.outlet.send(text.end(Some(at))).await;
        }
        if self.owes_sync && self.audience.follow && !self.is_copied {
            text.event("copied", format_args!("{}", self.state(live, json!({}))));
            self.is_copied = true;
        }
        if self.audience.follow && !self.owes_sync {
            text.event("state", format_args!("{}", self.state(live, json!({}))));
        }
        self.outlet.send(text.end(None)).await
    }

    fn state(&self, live: &Live, mut data: serde_json::Value) -> serde_json::Value {
        data["age"] = json!(live.age(self.my.clock.reading()));
        data["position"] = json!(live.position.to_string());
        // Of some tenants only, nobody can say of a key that no other has it.
        data["complete"] = match self.audience.tenants.is_empty() {
            true => live
                .complete
                .iter()
                .map(|kind| kind.as_str())
                .filter(|kind| self.audience.hears_of(kind))
                .collect(),
            false => json!([]),
        };
        data
    }
}

/// The watcher connects again, and the file may be readable by then.
fn cannot_read(error: StoreError) -> Ended {
    tracing::warn!(%error, "a watcher is dropped, since the store cannot be read");
    Ended
}
