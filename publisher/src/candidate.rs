//! Becoming the writer: watches the lease, and takes it when it is free. Used by the daemon, which waits for ever, and
//! by commands, which would rather ask the writer that there is.

use crate::engine::{EngineView, Parts, TermEnd, run_term};
use crate::source::SourceError;
use crate::source::hub::{Lease, LeaseInfo};
use crate::writer::lease::{Observer, Standing};
use contexts::limits;
use contexts::version::{Holder, Term};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Somebody who could be the writer.
#[derive(Debug)]
pub struct Candidate {
    holder: Holder,
    host: String,
    born: Instant,
    observer: Observer,
    own: Option<Term>,
    stood_by: Option<Instant>,
}

/// How often a publisher that stands by says so.
const SAY_STANDBY_EVERY: Duration = Duration::from_secs(5);

impl Default for Candidate {
    fn default() -> Self {
        Self {
            holder: draw_holder(),
            host: format!("{} (process {})", host(), std::process::id()),
            born: Instant::now(),
            observer: Observer::default(),
            own: None,
            stood_by: None,
        }
    }
}

/// The name of this machine.
pub(crate) fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
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

    /// Takes the lease from whoever has it, in an epoch above every one that a store obeys.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub async fn take_by_force(&mut self, parts: &Parts) -> Result<Lease, SourceError> {
        let states = futures_util::future::join_all(parts.spokes.iter().map(|s| s.hello())).await;
        let granted = states.into_iter().flatten().filter_map(|s| s.granted);
        let epochs = granted.map(|t| t.epoch);
        let highest = epochs.filter(|e| *e < limits::EPOCH_MAX).max();
        let source = &parts.source;
        let lease = source
            .force_lease(highest.unwrap_or(0), self.holder, &self.host)
            .await?;
        self.own = Some(lease.term);
        Ok(lease)
    }

    /// Says to whoever asks for the status that this process stands by.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn stand_by(&mut self, parts: &Parts) -> Result<(), SourceError> {
        let due = self
            .stood_by
            .is_none_or(|at| at.elapsed() >= SAY_STANDBY_EVERY);
        if due {
            parts.source.stand_by(&self.host).await?;
            self.stood_by = Some(Instant::now());
        }
        Ok(())
    }

    /// This process stands by no more.
    pub async fn leave_standby(&mut self, parts: &Parts) {
        if self.stood_by.take().is_some() {
            // The row grows old by itself.
            let _ = parts.source.leave_standby(&self.host).await;
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
