//! The state of everything, for `publisher status` and `GET /v1/status`: what the writer knows, and what each store
//! says of itself right now.

use crate::engine::{EngineView, Parts, StoreView};
use crate::source::pauses::Paused;
use crate::source::standby::Standby;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use crate::writer::ScanSummary;
use contexts::limits;
use contexts::name::{Kind, Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Who may write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriterStatus {
    /// The last term.
    pub epoch: u64,
    /// Host and process of its holder.
    pub host: String,
    /// Whether it gave the lease back, so that there is no writer now.
    pub released: bool,
    /// When it renewed the lease last.
    #[serde(default)]
    pub renewed_seconds_ago: f64,
    /// Who would become the writer if the lease were free.
    #[serde(default)]
    pub standbys: Vec<Standby>,
}

impl WriterStatus {
    /// Whether it holds the lease and renews it.
    pub fn is_alive(&self) -> bool {
        !self.released && self.renewed_seconds_ago < limits::SILENCE.as_secs_f64()
    }
}

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Region and address.
    pub store: String,
    /// Its region.
    pub region: Region,
    /// Why it does not answer, if it does not.
    pub unreachable: Option<String>,
    /// Seconds since the moment up to which it has every change.
    pub age_seconds: Option<f64>,
    /// The writer's epoch that it obeys.
    pub epoch: Option<u64>,
    /// Its position.
    pub position: Option<String>,
    /// Tenants in it.
    pub tenants: Option<u64>,
    /// Contexts in it.
    pub contexts: Option<u64>,
    /// The kinds for which it answers "no such key".
    pub synced_kinds: BTreeSet<Kind>,
    /// Its release.
    pub release: Option<String>,
    /// What the writer knows of it; none if there is no writer to ask.
    pub writer_view: Option<StoreView>,
}

/// The last scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastScan {
    /// When it ended.
    pub seconds_ago: f64,
    /// How it went.
    pub summary: ScanSummary,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who may write; none if the database cannot be asked.
    pub writer: Option<WriterStatus>,
    /// Why the database cannot be asked.
    pub database: Option<String>,
    /// What the writer of this process knows.
    pub engine: Option<EngineView>,
    /// The stores.
    pub stores: Vec<StoreReport>,
    /// The last scan.
    pub last_scan: Option<LastScan>,
    /// What is paused, by whom and why.
    #[serde(default)]
    pub pauses: Vec<Paused>,
    /// Tenants that are published although they are paused.
    #[serde(default)]
    pub pause_exceptions: Vec<TenantId>,
    /// Where the configuration of this process differs from what `migrate` stored.
    pub differences: Vec<String>,
}

impl Status {
    /// Replaces what the writer knew when the stores were asked by what it knows now.
    pub fn see(&mut self, engine: Option<EngineView>) {
        for report in &mut self.stores {
            report.writer_view = writer_view(engine.as_ref(), &report.store);
        }
        self.engine = engine;
    }

    /// Whether a person should look.
    pub fn is_well(&self) -> bool {
        let store = |s: &StoreReport| {
            s.unreachable.is_none()
                && !s.synced_kinds.is_empty()
                && s.writer_view
                    .as_ref()
                    .is_none_or(|v| v.behind.is_none() && v.failure.is_none())
        };
        let scanned = self.last_scan.as_ref().is_some_and(|s| {
            s.summary.problems.is_empty() && s.summary.stores.iter().all(|x| x.in_step)
        });
        // The writer knows what is held now; without one, the last scan knew.
        let held = match (&self.engine, &self.last_scan) {
            (Some(engine), _) => engine.held_tenants,
            (None, scan) => scan.as_ref().map_or(0, |s| s.summary.held_tenants),
        };
        self.database.is_none()
            && self.writer.as_ref().is_some_and(WriterStatus::is_alive)
            && self.differences.is_empty()
            && self.pauses.is_empty()
            && self.stores.iter().all(store)
            && scanned
            && held == 0
    }
}

/// How long the database may take to answer; whoever asks for a status has no patience.
const DATABASE_WITHIN: Duration = Duration::from_secs(3);
/// After so long without an answer it is asked why there is none.
const DATABASE_LATE: Duration = Duration::from_millis(300);

/// Asks everybody.
pub async fn collect(
    parts: &Parts,
    config: &crate::config::Config,
    engine: Option<EngineView>,
) -> Status {
    let stores = parts
        .spokes
        .iter()
        .map(|spoke| report(spoke.clone(), &engine));
    let stores = futures_util::future::join_all(stores);
    let database = async {
        tokio::select! {
            answered = parts.source.require_primary() => answered?,
            Err(why) = unanswered(&parts.source) => return Err(why),
        }
        let lease = parts.source.lease().await?;
        let standbys = parts.source.standbys().await?;
        let last = parts.source.last_scan().await?;
        let differences = parts.source.definitions().await?.differences(config);
        let paused = parts.source.paused().await?;
        Ok::<_, SourceError>((lease, standbys, last, paused, differences))
    };
    let (stores, database) = tokio::join!(stores, tokio::time::timeout(DATABASE_WITHIN, database));
    let mut status = Status {
        writer: None,
        database: None,
        engine,
        stores,
        last_scan: None,
        pauses: Vec::new(),
        pause_exceptions: Vec::new(),
        differences: Vec::new(),
    };
    match database.unwrap_or_else(|_| Err(parts.source.silent(DATABASE_WITHIN))) {
        Ok((lease, (standbys, renewed_seconds_ago), last, paused, differences)) => {
            let (epoch, released) = (lease.row.term.epoch, lease.row.released);
            status.writer = Some(WriterStatus {
                epoch,
                host: lease.host,
                released,
                renewed_seconds_ago,
                standbys,
            });
            status.last_scan = last.and_then(|(seconds_ago, json)| {
                Some(LastScan {
                    seconds_ago,
                    summary: serde_json::from_str(&json).ok()?,
                })
            });
            (status.pauses, status.pause_exceptions) = paused;
            status.differences = differences;
        }
        Err(e) => status.database = Some(e.to_string()),
    }
    status
}

/// Why a database does not answer, where its pool would only say that it waited. It takes a connection of its own, so it
/// is tried only once the answer is late.
async fn unanswered(source: &Source) -> Result<(), SourceError> {
    tokio::time::sleep(DATABASE_LATE).await;
    source.ping().await
}

/// What the writer knows of a store.
fn writer_view(engine: Option<&EngineView>, store: &str) -> Option<StoreView> {
    let stores = &engine?.stores;
    stores.iter().find(|s| s.store == store).cloned()
}

async fn report(spoke: Arc<Spoke>, engine: &Option<EngineView>) -> StoreReport {
    let (store, region) = (spoke.name(), spoke.region.clone());
    let writer_view = writer_view(engine.as_ref(), &store);
    let unknown = StoreReport {
        store,
        region,
        unreachable: None,
        age_seconds: None,
        epoch: None,
        position: None,
        tenants: None,
        contexts: None,
        synced_kinds: BTreeSet::new(),
        release: None,
        writer_view,
    };
    match spoke.hello().await {
        Err(why) => StoreReport {
            unreachable: Some(why),
            ..unknown
        },
        Ok(state) => StoreReport {
            age_seconds: state.age,
            epoch: state.granted.map(|t| t.epoch),
            position: Some(state.position.to_string()),
            tenants: Some(state.bundles),
            contexts: Some(state.contexts),
            synced_kinds: state.synced_kinds,
            release: Some(state.release),
            ..unknown
        },
    }
}
