//! What everybody but the writer can ask of it, and what it answers. The same words are used in process, over the
//! API and through `hubcast.requests`.

use crate::source::hub::Server;
use crate::writer::{HeldReport, Millis, Receipt, RegionFilter, ScanSummary, VisibleAt};
use contexts::name::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the receipts of a republish may take.
pub const RECEIPTS_WITHIN: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Rebuild and push tenants, whatever the stores are believed to hold.
    Republish {
        /// Which.
        tenants: Vec<TenantId>,
        /// Whose receipts are waited for.
        regions: RegionFilter,
    },
    /// Compare everything and repair what differs.
    Scan {
        /// Why, for the summary.
        cause: String,
        /// Which stores.
        regions: RegionFilter,
        /// Compare what is on the stores' disks, read again.
        reread: bool,
        /// A person approved whatever the scan finds removed.
        #[serde(default)]
        allow_mass_delete: bool,
    },
    /// Call back what was built before now: something that shapes content was changed in the database.
    Recall,
    /// Where a transaction is visible.
    Visible {
        /// Its number.
        xid: u64,
        /// The server that knows it.
        server: Server,
        /// Which stores are asked about.
        regions: RegionFilter,
        /// Milliseconds that the answer may take.
        within: Millis,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Ask::Republish`].
    Republished(Receipts),
    /// To [`Ask::Scan`].
    Scanned(Box<ScanSummary>),
    /// To [`Ask::Recall`]: nothing is under way any more that was built before.
    Recalled,
    /// To [`Ask::Visible`].
    Visible(Vec<VisibleAt>),
    /// It cannot be done.
    Failed(String),
}

/// What became of a republish, per tenant and store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipts {
    /// One per tenant and store.
    pub receipts: Vec<Receipt>,
    /// What is held of the tenants.
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
}

/// A request on its way to the writer of this process.
#[derive(Debug)]
pub struct Order {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes; dropped without one when the writer's term ends first.
    pub reply: oneshot::Sender<Reply>,
}

/// The way to the writer of this process.
#[derive(Debug, Clone)]
pub struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// A way to a writer, and its other end.
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(256);
        (Self(sender), receiver)
    }

    /// Asks, and waits for the answer; none if the writer's term ended before it came.
    pub async fn ask(&self, ask: Ask) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order { ask, reply }).await.ok()?;
        answer.await.ok()
    }
}
