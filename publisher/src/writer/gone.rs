//! What went out, for those who follow it. Noted only while somebody does. Pure.

use super::queue::Queued;
use super::{Millis, Report, StoreIx, Writer};
use contexts::bundle::Bundle;
use contexts::version::Version;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// On whose behalf a bundle went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhyGone {
    /// A committed change.
    Change,
    /// Somebody who waits for a receipt.
    Republish,
    /// A scan that found that it differs, or another repair.
    Scan,
}

impl fmt::Display for WhyGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Change => "change",
            Self::Republish => "republish",
            Self::Scan => "scan",
        })
    }
}

/// A bundle that a store has made durable.
#[derive(Debug, Clone)]
pub struct Gone {
    /// All of the tenant there.
    pub bundle: Arc<Bundle>,
    /// Its version.
    pub version: Version,
    /// On whose behalf.
    pub why: WhyGone,
    /// Milliseconds since the first change in it was noticed.
    pub ms: Option<Millis>,
}

impl Writer {
    /// Whether anybody wants to know what goes out.
    pub fn follow(&mut self, is_followed: bool) {
        self.is_followed = is_followed;
    }

    /// A store has just taken a bundle; to be called before the books forget what it stands for.
    pub(super) fn note_gone(&mut self, now: Millis, ix: StoreIx, queued: &Queued) {
        if !self.is_followed {
            return;
        }
        let tenant = &queued.sent.bundle.tenant;
        let found = self.capture.found_at(ix, tenant, queued.started);
        let why = match found {
            Some(_) => WhyGone::Change,
            None if self.waits.awaits(ix, tenant) => WhyGone::Republish,
            None => WhyGone::Scan,
        };
        let gone = Gone {
            bundle: queued.sent.bundle.clone(),
            version: queued.sent.version,
            why,
            ms: found.map(|at| now.saturating_sub(at)),
        };
        self.reports.push_back(Report::Gone { store: ix, gone });
    }
}
