//! What every region looks like, now and in the last hour, told to all who watch.
//!
//! The past is written down each second from what the writer knows anyway, so it is there when somebody opens the page.
//! The stores themselves are asked only while somebody watches, and a store that does not answer delays nobody: what the
//! writer knows is told each second, with what the stores said last.

use crate::api::Api;
use crate::engine::EngineView;
use crate::status::{self, Status};
use crate::writer::Millis;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_secs(1);
/// How long the stores are left alone after they were asked.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Minutes that are remembered.
const MINUTES: usize = 60;
/// Upper bounds of the classes of lag, in milliseconds; one more class is above them.
pub const CLASSES: [Millis; 11] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000];

/// One minute of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Minute {
    /// The longest lag; none if the store was never heard of.
    worst: Option<Millis>,
    /// How many beats took how long.
    classes: [u32; CLASSES.len() + 1],
}

impl Minute {
    fn add(&mut self, lag: Millis) {
        self.worst = self.worst.max(Some(lag));
        let class = CLASSES.iter().position(|bound| lag <= *bound);
        self.classes[class.unwrap_or(CLASSES.len())] += 1;
    }
}

/// The last hour of one store, oldest minute first.
#[derive(Debug, Default)]
struct Hour(VecDeque<Minute>);

/// The last hour of all stores.
#[derive(Debug, Default)]
struct History {
    stores: BTreeMap<String, Hour>,
    minute: u64,
}

impl History {
    /// Notes what the writer sees at this second since the start.
    fn note(&mut self, second: u64, view: &EngineView) {
        let minute = second / 60;
        let passed = (minute - self.minute).min(MINUTES as u64);
        self.minute = minute;
        for hour in self.stores.values_mut() {
            for _ in 0..passed {
                hour.0.push_back(Minute::default());
            }
            while hour.0.len() > MINUTES {
                hour.0.pop_front();
            }
        }
        self.stores
            .retain(|store, _| view.stores.iter().any(|s| s.store == *store));
        for store in &view.stores {
            let hour = self.stores.entry(store.store.clone()).or_default();
            if hour.0.is_empty() {
                hour.0.push_back(Minute::default());
            }
            let is_heard_of = store.failure.is_none();
            if let (true, Some(lag), Some(now)) = (is_heard_of, store.lag_ms, hour.0.back_mut()) {
                now.add(lag);
            }
        }
    }

    fn told(&self) -> BTreeMap<&str, Past> {
        let past = |hour: &Hour| {
            let mut classes = [0; CLASSES.len() + 1];
            for minute in &hour.0 {
                for (sum, count) in classes.iter_mut().zip(minute.classes) {
                    *sum += count;
                }
            }
            Past {
                worst_ms: hour.0.iter().map(|minute| minute.worst).collect(),
                classes,
            }
        };
        let stores = self.stores.iter();
        stores.map(|(name, hour)| (&**name, past(hour))).collect()
    }
}

/// The last hour of a store, as it is told.
#[derive(Debug, Serialize)]
struct Past {
    /// The longest lag of each minute, oldest first.
    worst_ms: Vec<Option<Millis>>,
    /// How many beats took how long, by [`CLASSES`].
    classes: [u32; CLASSES.len() + 1],
}

/// All that is told.
#[derive(Debug, Serialize)]
struct Told<'a> {
    status: &'a Status,
    history: BTreeMap<&'a str, Past>,
    classes_ms: [Millis; CLASSES.len()],
    release: &'a str,
    is_well: bool,
}

/// What is told last, as JSON; empty before the first time.
#[derive(Debug)]
pub struct Pane {
    told: watch::Sender<Arc<str>>,
}

impl Default for Pane {
    fn default() -> Self {
        let (told, _) = watch::channel("".into());
        Self { told }
    }
}

impl Pane {
    fn is_watched(&self) -> bool {
        self.told.receiver_count() > 0
    }
}

/// Writes down what happens and tells it, until `stop`; those who watch are let go then.
pub async fn keep(api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    let (asked, answered) = watch::channel(None);
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = ask(&api, &asked) => {}
        () = tell(&api, answered) => {}
    }
}

/// Asks the stores and the database while somebody watches.
async fn ask(api: &Api, answered: &watch::Sender<Option<Status>>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while !api.pane.is_watched() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let view = api.view.borrow().clone();
        answered.send_replace(Some(
            status::collect(&api.parts(), &api.config(), view).await,
        ));
    }
}

async fn tell(api: &Api, mut answered: watch::Receiver<Option<Status>>) {
    let begin = Instant::now();
    let mut history = History::default();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            changed = answered.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
        };
        let view = api.view.borrow().clone();
        if let (true, Some(view)) = (is_tick, &view) {
            history.note(begin.elapsed().as_secs(), view);
        }
        let status = answered.borrow_and_update().clone();
        let Some(mut status) = status.filter(|_| api.pane.is_watched()) else {
            continue;
        };
        status.see(view);
        let told = Told {
            is_well: status.is_well(),
            status: &status,
            history: history.told(),
            classes_ms: CLASSES,
            release: env!("CARGO_PKG_VERSION"),
        };
        if let Ok(json) = serde_json::to_string(&told) {
            api.pane.told.send_replace(json.into());
        }
    }
}

/// `GET /console/events`: server-sent events, each with all that there is to see.
pub(super) async fn events(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let mut told = api.pane.told.subscribe();
    told.mark_changed();
    let stopped = api.stopped.clone();
    let events = stream::unfold((told, stopped), async |(mut told, mut stopped)| {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return None,
                changed = told.changed() => changed.ok()?,
            }
            let json = told.borrow_and_update().clone();
            if !json.is_empty() {
                let event = Event::default().event("pane").data(&*json);
                return Some((Ok::<_, Infallible>(event), (told, stopped)));
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(lags: &[(&str, Option<Millis>, bool)]) -> EngineView {
        let stores: Vec<_> = lags
            .iter()
            .map(|(store, lag, fails)| {
                serde_json::json!({
                    "store": store, "region": "eu", "standing": "in step", "behind": null,
                    "failure": fails.then_some("cut off"), "queued": 0, "acked": 0,
                    "last_push_ms": null, "lag_ms": lag, "synced_seconds_ago": null,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "epoch": 1, "suspended": false, "dirty": 0, "clashes": 0, "stores": stores, "scan": null,
            "held": {}, "held_tenants": 0, "refusals": [],
        }))
        .expect("a view")
    }

    #[test]
    fn a_minute_has_the_worst_lag_and_an_hour_its_classes() {
        let mut history = History::default();
        for second in 0..59 {
            history.note(second, &view(&[("a", Some(second), false)]));
        }
        let told = history.told();
        assert_eq!(told["a"].worst_ms, [Some(58)]);
        assert_eq!(told["a"].classes, [2, 1, 3, 5, 15, 25, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_store_that_does_not_answer_leaves_a_gap() {
        let mut history = History::default();
        history.note(0, &view(&[("a", Some(3), false)]));
        history.note(60, &view(&[("a", Some(3), true)]));
        history.note(180, &view(&[("a", Some(9_999), false)]));
        let told = history.told();
        assert_eq!(told["a"].worst_ms, [Some(3), None, None, Some(9_999)]);
        assert_eq!(told["a"].classes[CLASSES.len()], 1);
    }

    #[test]
    fn an_hour_is_an_hour_and_a_store_that_is_gone_is_forgotten() {
        let mut history = History::default();
        history.note(0, &view(&[("a", Some(1), false), ("b", Some(1), false)]));
        for minute in 1..100 {
            history.note(minute * 60, &view(&[("a", Some(1), false)]));
        }
        let told = history.told();
        assert_eq!(told["a"].worst_ms.len(), MINUTES);
        assert!(!told.contains_key("b"));
        // Whoever was not the writer for days saw nothing then.
        history.note(1_000_000, &view(&[("a", Some(1), false)]));
        let worst = history.told()["a"].worst_ms.clone();
        assert_eq!((worst.len(), worst[0], worst[59]), (60, None, Some(1)));
    }
}
