//! `GET /v1/watch?after=CURSOR&kind=&tenant=`: what the store holds, and then what changes in it, as server-sent events.
//!
//! | event | data |
//! | --- | --- |
//! | `put` | `{kind, key, tenant, version, value}`, and `expires` (seconds since 1970) where it has one |
//! | `delete` | `{kind, key, tenant, version}` |
//! | `sync` | `{"full":true}`: a full copy ends here; what was not put since the connection began is gone |
//! | `error` | `{"error":"too_slow"}`: the last event of a watcher that does not read |
//!
//! `after=now` leaves out the full copy. With `follow=true` a mirror of the store is told more: `copy` before a full copy, `withheld` `{kind, key, tenant, why}` of keys that exist without
//! a value that could be answered, and each second `state` `{age, position, complete}`, which speaks of a moment of which
//! everything was told before. Its `sync` has the same beside `full`.
//!
//! `id` stands on the last event of a bundle only, so a watcher that goes on from it has each tenant whole. News are
//! gathered and written once for all watchers that are at the same place; who is elsewhere is told what is missing first.

use super::Serve;
use super::answer::Failure;
use crate::metrics as names;
use crate::reader::{Changed, Changes};
use crate::store::feed::{self, Batch, Copy, Event, Group};
use crate::store::index::known::{Known, State as KnownState};
use crate::store::live::Live;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Cursor;
use crate::store::redb::reader::Snapshot;
use crate::store::view::Views;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use contexts::version::Version;
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Watchers at once.
const MOST: usize = 4_096;
/// News that a watcher may be behind before it is told by itself what is missing.
const NEWS: usize = 64;
/// Names that a reader in this process may be behind before it is told that any may have changed.
const CHANGED: usize = 4_096;
/// Chunks that wait for a watcher to read.
const CHUNKS: usize = 2;
/// How long a chunk waits before the watcher is dropped.
const SLOW: Duration = Duration::from_secs(10);
/// How often a follower is told the state.
const TICK: Duration = Duration::from_secs(1);
/// Seconds without anything else after which a comment shows that the connection lives.
const QUIET_TICKS: u32 = 15;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// All watchers of this agent.
#[derive(Clone)]
pub struct Watches {
    news: broadcast::Sender<Arc<News>>,
    /// The same as names, for readers in this process.
    changed: broadcast::Sender<Changed>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

/// What changed, for all who are at the place where it begins.
struct News {
    batch: Batch,
    /// As of before the batch was gathered.
    live: Arc<Live>,
    plain: OnceLock<Bytes>,
    follow: OnceLock<Bytes>,
}

/// Who watches what.
#[derive(Debug, Default)]
struct Audience {
    kinds: Vec<String>,
    tenants: Vec<String>,
    follow: bool,
}

impl Watches {
    /// Without a watcher yet. They end when the agent stops.
    pub fn new(stopped: watch::Receiver<bool>) -> Self {
        Self {
            news: broadcast::channel(NEWS).0,
            changed: broadcast::channel(CHANGED).0,
            places: Arc::new(Semaphore::new(MOST)),
            stopped,
        }
    }

    /// Gathers what changes, as long as somebody watches, until the agent stops.
    pub async fn gather(self, views: Views, mut live: watch::Receiver<Arc<Live>>) {
        let mut stopped = self.stopped.clone();
        let mut at = None;
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                changed = live.changed() => if changed.is_err() { return },
            }
            let now = live.borrow_and_update().clone();
            // Where nobody listens only the place is kept, so that the next one is told what comes from here on.
            let listeners = self.news.receiver_count() + self.changed.receiver_count();
            let from = at.filter(|_| listeners > 0);
            let batch = match read(&views, move |snapshot| next_batch(snapshot, from)).await {
                Ok(batch) => batch,
                // The watchers see for themselves.
                Err(_) => continue,
            };
            if listeners == 0 {
                at = Some(batch.to);
                continue;
            }
            let is_new = at != Some(batch.to);
            let is_whole_story = at == Some(batch.from);
            at = Some(batch.to);
            if is_new {
                self.tell_readers(&batch, is_whole_story);
                // Nobody may be left to hear it.
                let _ = self.news.send(Arc::new(News {
                    batch,
                    live: now,
                    plain: OnceLock::new(),
                    follow: OnceLock::new(),
                }));
            }
        }
    }
}

impl Watches {
    /// Tells of changes from now on.
    pub fn changes(&self) -> Changes {
        Changes::new(self.changed.subscribe())
    }

    fn tell_readers(&self, batch: &Batch, is_whole_story: bool) {
        if self.changed.receiver_count() == 0 {
            return;
        }
        // Nobody may be left to hear it.
        if !is_whole_story {
            let _ = self.changed.send(Changed::Everything);
        }
        for event in batch.groups.iter().flat_map(|group| &group.events) {
            let (kind, key) = match event {
                Event::Put(known, _) | Event::Withheld(known) => (known.kind(), known.key()),
                Event::Delete((kind, key), _) => (kind.as_str(), key.as_str()),
            };
            let _ = self.changed.send(Changed::Name {
                kind: kind.to_owned(),
                key: key.to_owned(),
            });
        }
    }
}

/// What changed since then; where nobody can say, a batch of nothing, which makes watchers look for themselves.
fn next_batch(snapshot: &Snapshot, at: Option<Cursor>) -> Result<Batch, StoreError> {
    let batch = match at {
        Some(at) => feed::since(snapshot, at)?,
        None => None,
    };
    match batch {
        Some(batch) => Ok(batch),
        None => {
            let end = snapshot.end()?;
            Ok(Batch {
                from: end,
                to: end,
                groups: Vec::new(),
            })
        }
    }
}

/// Reads a snapshot of the file on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    views: &Views,
    read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let db = views.db().clone();
    let reading = tokio::task::spawn_blocking(move || read(&Snapshot::take(&db)?));
    reading.await.map_err(|_| StoreError::Closed)?
}

impl Audience {
    fn of(query: Vec<(String, String)>) -> Result<(Self, Option<String>), Failure> {
        let (mut audience, mut after) = (Self::default(), None);
        for (name, value) in query {
            match (name.as_str(), value.as_str()) {
                ("kind" | "tenant", "") => {}
                ("kind", _) => audience.kinds.push(value),
                ("tenant", _) => audience.tenants.push(value),
                ("after", _) => after = Some(value),
                ("follow", "true" | "false") => audience.follow = value == "true",
                ("follow", _) => {
                    return Err(Failure::BadRequest("follow is true or false".into()));
                }
                _ => {
                    let known = "after, kind, tenant and follow";
                    let why = format!("there is no parameter {name:?}; there are {known}");
                    return Err(Failure::BadRequest(why));
                }
            }
        }
        Ok((audience, after))
    }

    fn is_everyone(&self) -> bool {
        self.kinds.is_empty() && self.tenants.is_empty()
    }

    fn hears_of(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|heard| heard == kind)
    }

    fn watches(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|watched| watched == tenant)
    }

    /// These groups as events, the last one with the cursor.
    fn write(&self, groups: &[Group], cursor: Option<Cursor>) -> Bytes {
        let mut text = Events::default();
        for group in groups
            .iter()
            .filter(|group| self.watches(group.tenant.as_str()))
        {
            for event in &group.events {
                self.write_one(&mut text, group, event);
            }
        }
        text.end(cursor)
    }

    fn write_one(&self, text: &mut Events, group: &Group, event: &Event) {
        let tenant = group.tenant.as_str();
        match event {
            Event::Put(known, version) if self.hears_of(known.kind()) => {
                text.put(known, *version);
            }
            Event::Delete((kind, key), moved_to) if self.hears_of(kind.as_str()) => {
                // Where the new owner is watched too, it is told there.
                let is_told_there = moved_to.as_deref().is_some_and(|owner| self.watches(owner));
                if !is_told_there {
                    text.delete(kind.as_str(), key.as_str(), tenant, group.version);
                }
            }
            Event::Withheld(known) if self.hears_of(known.kind()) => {
                let is_damaged = known.state() == KnownState::Damaged;
                match (self.follow, is_damaged) {
                    (true, _) => text.withheld(known, tenant, is_damaged),
                    (false, false) => {
                        text.delete(known.kind(), known.key(), tenant, group.version);
                    }
                    // What it was told before is the last good value.
                    (false, true) => {}
                }
            }
            _ => {}
        }
    }
}

impl News {
    fn write(&self, audience: &Audience) -> Bytes {
        let write = || audience.write(&self.batch.groups, Some(self.batch.to));
        match (audience.is_everyone(), audience.follow) {
            (true, true) => self.follow.get_or_init(write).clone(),
            (true, false) => self.plain.get_or_init(write).clone(),
            (false, _) => write(),
        }
    }
}

/// Server-sent events, the last of which is not ended yet.
#[derive(Default)]
struct Events(String);

/// Text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Events {
    fn event(&mut self, name: &str, data: fmt::Arguments<'_>) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "event: {name}\ndata: {data}");
    }

    fn put(&mut self, known: &Known, version: Version) {
        let (kind, key) = (quoted(known.kind()), quoted(known.key()));
        let tenant = quoted(known.tenant());
        let value = String::from_utf8_lossy(known.bytes());
        let expires = match known.expires() {
            None => String::new(),
            Some(micros) => {
                let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
                format!("\"expires\":{seconds}.{rest:06},")
            }
        };
        let named = format!("\"kind\":{kind},\"key\":{key},\"tenant\":{tenant}");
        self.event(
            "put",
            format_args!("{{{named},\"version\":\"{version}\",{expires}\"value\":{value}}}"),
        );
    }

    fn delete(&mut self, kind: &str, key: &str, tenant: &str, version: Version) {
        let data = json!({
            "kind": kind, "key": key, "tenant": tenant, "version": version.to_string()
        });
        self.event("delete", format_args!("{data}"));
    }

    fn withheld(&mut self, known: &Known, tenant: &str, is_damaged: bool) {
        let why = if is_damaged { "damaged" } else { "held" };
        let data = json!({
            "kind": known.kind(), "key": known.key(), "tenant": tenant, "why": why
        });
        self.event("withheld", format_args!("{data}"));
    }

    fn end(mut self, cursor: Option<Cursor>) -> Bytes {
        if self.0.is_empty() {
            return Bytes::new();
        }
        if let Some(cursor) = cursor {
            let _ = writeln!(self.0, "id: {cursor}");
        }
        self.0.push('\n');
        self.0.into()
    }
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
    let Ok(place) = my.watches.places.clone().try_acquire_owned() else {
        return Err(Failure::TooManyWatchers);
    };
    let (outlet, body) = outlet(place);
    tokio::spawn(
        Watcher {
            my,
            audience,
            outlet,
            at,
            from_now,
            owes_sync: false,
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

/// Where a watcher's chunks go.
struct Outlet {
    chunks: mpsc::Sender<Bytes>,
    last: Arc<Mutex<Bytes>>,
    _place: OwnedSemaphorePermit,
}

/// The watcher is gone, does not read, or cannot be told.
struct Ended;

fn outlet(place: OwnedSemaphorePermit) -> (Outlet, Body) {
    let (chunks, queue) = mpsc::channel::<Bytes>(CHUNKS);
    let last = Arc::new(Mutex::new(Bytes::new()));
    let outlet = Outlet {
        chunks,
        last: last.clone(),
        _place: place,
    };
    let chunks = stream::unfold((queue, last), |(mut queue, last)| async move {
        let chunk = match queue.recv().await {
            Some(chunk) => chunk,
            None => std::mem::take(&mut *last.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        (!chunk.is_empty()).then_some((Ok::<_, Infallible>(chunk), (queue, last)))
    });
    (outlet, Body::from_stream(chunks))
}

impl Outlet {
    async fn send(&self, chunk: Bytes) -> Result<(), Ended> {
        if chunk.is_empty() {
            return Ok(());
        }
        match timeout(SLOW, self.chunks.send(chunk)).await {
            Ok(sent) => sent.map_err(|_| Ended),
            Err(_) => {
                metrics::counter!(names::WATCHERS_DROPPED).increment(1);
                tracing::warn!("a watcher does not read and is dropped");
                let mut text = Events::default();
                text.event("error", format_args!("{{\"error\":\"too_slow\"}}"));
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = text.end(None);
                Err(Ended)
            }
        }
    }
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
}

impl Watcher {
    async fn run(mut self) {
        let mut stopped = self.my.watches.stopped.clone();
        let chunks = self.outlet.chunks.clone();
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
            live.changed().await.map_err(|_| Ended)?;
        }
        // Before the first look, so that nothing falls between.
        let mut news = self.my.watches.news.subscribe();
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
                            self.outlet.send(news.write(&self.audience)).await?;
                            self.at = Some(news.batch.to);
                            self.tell_state(Some(&news.live)).await?;
                            quiet = 0;
                        }
                        _ => break,
                    },
                    _ = ticks.tick() => {
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
            self.outlet.send(self.audience.write(&part, None)).await?;
        }
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
        if self.owes_sync && live.is_ready() {
            let data = match self.audience.follow {
                true => self.state(live, json!({ "full": true })),
                false => json!({ "full": true }),
            };
            text.event("sync", format_args!("{data}"));
            self.owes_sync = false;
            return self.outlet.send(text.end(Some(at))).await;
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
