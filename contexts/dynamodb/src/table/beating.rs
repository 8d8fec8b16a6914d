//! The pulse of a session: that it lives, and how far the table is. It never goes back.

use super::{Answered, Open, Said, Table};
use crate::client::TableError;
use crate::pulse::{self, Counts};
use contexts::push::{Ack, Heartbeat, Reading, Refused};
use contexts::version::SessionId;

impl Table {
    /// Keeps the session alive and moves the position.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answered<Ack> {
        let heard = {
            let mut state = self.state();
            let heard = state.gate.heard(heartbeat.session);
            heard.and_then(|()| state.open.clone().ok_or(Refused::Session))
        };
        let open = match heard {
            Ok(open) => open,
            Err(refused) => return Ok(Err(refused)),
        };
        let fresh = self.named(&open, heartbeat.fresh);
        let said = (heartbeat.position, fresh, None);
        match self.beat(open.session, said, None).await {
            Ok(()) => Ok(Ok(self.ack(&open))),
            Err(TableError::Fenced) => self.failed(open.session, TableError::Fenced),
            Err(error) => Err(error),
        }
    }

    /// Moves the pulse; `counted` is how many tenants and contexts there are, if that is known.
    pub(super) async fn beat(
        &self,
        session: SessionId,
        (position, fresh, beat): Said,
        counted: Option<(u64, u64)>,
    ) -> Result<(), TableError> {
        let _turn = self.pulse_turn.lock().await;
        let (progress, counts) = {
            let mut state = self.state();
            let open = state.open.as_mut().filter(|open| open.session == session);
            let open = open.ok_or(TableError::Fenced)?;
            open.progress.advance(position, fresh, beat);
            open.is_ahead = false;
            let (bundles, contexts) = std::mem::take(&mut open.uncounted);
            let by = Counts::By(bundles, contexts);
            let counts = counted.map_or(by, |(bundles, contexts)| Counts::Are(bundles, contexts));
            (open.progress, counts)
        };
        pulse::beat(&self.db, session, &progress, counts).await
    }

    /// A moment that the hub names, if it is one of this table's clock.
    pub(super) fn named(&self, open: &Open, reading: Option<Reading>) -> Option<u64> {
        let reading = reading.filter(|reading| reading.boot == open.facts.store.0)?;
        self.db.clock.reached().map(|now| reading.micros.min(now))
    }

    pub(super) fn ack(&self, open: &Open) -> Ack {
        Ack {
            reading: self.reading(open.facts.store),
        }
    }
}
