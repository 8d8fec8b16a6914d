//! Becoming the writer: watches the lease, and takes it when it is free. Used by the daemon, which waits for ever, and
//! by commands, which would rather ask the writer that there is.

use crate::engine::{EngineView, Parts, TermEnd, run_term};
use crate::source::SourceError;
use crate::source::hub::{Lease, LeaseInfo};
use crate::writer::lease::{Observer, Standing};
use contexts::version::{Holder, Term};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// Somebody who could be the writer.
#[derive(Debug)]
pub struct Candidate {
    holder: Holder,
    host: String,
    born: Instant,
    observer: Observer,
    own: Option<Term>,
}

impl Default for Candidate {
    fn default() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            holder: draw_holder(),
            host: format!("{} (process {})", host.trim(), std::process::id()),
            born: Instant::now(),
            observer: Observer::default(),
            own: None,
        }
    }
}

fn draw_holder() -> Holder {
    let mut bytes = [0; 16];
    // Without the operating system's randomness nothing is safe to go on.
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    Holder(u128::from_le_bytes(bytes))
}

/// What a look at the lease gave.
#[derive(Debug)]
pub enum Look {
    /// It was free, and is ours now.
    Taken(Lease),
    /// Somebody has it.
    Held(LeaseInfo),
}

impl Candidate {
    /// Looks at the lease and takes it if it is free, or was this candidate's own in a term that is over.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub async fn look(&mut self, parts: &Parts) -> Result<Look, SourceError> {
        let info = parts.source.lease().await?;
        let standing = self.observer.observe(info.row, self.born.elapsed());
        if standing == Standing::Held && self.own != Some(info.row.term) {
            return Ok(Look::Held(info));
        }
        // A holder stands for one term: stores remember it.
        self.holder = draw_holder();
        match parts
            .source
            .take_lease(&info.row, self.holder, &self.host)
            .await
        {
            Ok(lease) => {
                self.own = Some(lease.term);
                Ok(Look::Taken(lease))
            }
            Err(SourceError::TermOver) => Ok(Look::Held(info)),
            Err(e) => Err(e),
        }
    }

    /// Is the writer in the term of a lease, as [`run_term`] says.
    ///
    /// # Errors
    /// As [`run_term`].
    pub async fn serve(
        &mut self,
        parts: &Parts,
        lease: Lease,
        orders: &mut mpsc::Receiver<crate::ask::Order>,
        view: &watch::Sender<Option<EngineView>>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<TermEnd, SourceError> {
        let term = lease.term;
        let end = run_term(parts, lease, orders, view, stop).await;
        if end.is_err() {
            // Nothing was claimed yet; do not make others wait for it.
            let _ = parts.source.release_lease(term).await;
        }
        end
    }
}
