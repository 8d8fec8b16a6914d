//! Which writer a store listens to. Pure: the store's shell brings the clock, the random ids and the durable state.
//!
//! What must hold:
//! * A claim is granted only to a higher epoch than any granted, or to the same holder again; and, to another holder,
//!   only if the last one released the store or has been silent for [`limits::SILENCE`] *of time in which this
//!   process ran*. A store that was paused, or has just started, cannot know that a writer was silent meanwhile. A
//!   person may force a claim: then nobody waits for silence, and the old session ends.
//! * The store must be as the claimant saw it, so that what the claimant checked in its database still stands.
//! * A grant is durable before it is answered, and opens a session that lives in memory only. Whatever was sent before
//!   (held back by a network, retried, sent before a restart) names an older session and is refused.
//! * Within a session numbers go 1, 2, 3: nothing is applied twice or out of order.

use crate::limits;
use crate::name::Region;
use crate::push::{Claim, Refused, Seen};
use crate::version::{SessionId, Term};
use std::time::Duration;

/// What the gate needs to know of the store's durable state.
#[derive(Debug, Clone)]
pub struct GateState<'a> {
    /// The region that the store serves.
    pub region: &'a Region,
    /// What a claimant has to have seen.
    pub seen: Seen,
    /// Whether the last writer released the store.
    pub released: bool,
    /// Whether the store was filled under another digest key than the claimant's.
    pub other_deployment: bool,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    last_number: u64,
}

/// The memory of a store's process about its writer.
#[derive(Debug, Default)]
pub struct Gate {
    session: Option<Session>,
    silent: Duration,
}

impl Gate {
    /// The process ran and read its sockets for `step`; longer steps count as [`limits::SILENCE_STEP`].
    pub fn ran(&mut self, step: Duration) {
        self.silent += step.min(limits::SILENCE_STEP);
    }

    /// Decides on a claim. The caller makes the grant durable, then calls [`Gate::open`].
    ///
    /// # Errors
    /// [`Refused`] says who has the store, or why the claim cannot stand.
    pub fn claim(&self, claim: &Claim, state: &GateState<'_>) -> Result<Term, Refused> {
        let term = claim.term;
        if claim.region != *state.region {
            return Err(Refused::Region {
                mine: state.region.clone(),
                asked: claim.region.clone(),
            });
        }
        if term.epoch > limits::EPOCH_MAX {
            return Err(Refused::Epoch { epoch: term.epoch });
        }
        if claim.seen != state.seen {
            return Err(Refused::Changed);
        }
        if state.other_deployment {
            return Err(Refused::Deployment);
        }
        match state.seen.granted {
            Some(granted) if granted == term => Ok(term),
            Some(granted) if granted.epoch >= term.epoch => Err(Refused::Fenced { granted }),
            Some(_) if !state.released && !claim.force && self.silent < limits::SILENCE => {
                Err(Refused::Busy {
                    silent_ms: self.silent.as_millis() as u64,
                })
            }
            _ => Ok(term),
        }
    }

    /// Opens the session of a grant that is durable now. Ends the one before.
    pub fn open(&mut self, id: SessionId) {
        self.session = Some(Session { id, last_number: 0 });
        self.silent = Duration::ZERO;
    }

    /// A message of a session arrived.
    ///
    /// # Errors
    /// [`Refused::Session`] if it is not the open one.
    pub fn heard(&mut self, id: SessionId) -> Result<(), Refused> {
        match &self.session {
            Some(session) if session.id == id => {
                self.silent = Duration::ZERO;
                Ok(())
            }
            _ => Err(Refused::Session),
        }
    }

    /// Admits a numbered message, once: whatever becomes of it, its number is used.
    ///
    /// # Errors
    /// [`Refused`] if the session is not the open one or the number not the next.
    pub fn admit(&mut self, id: SessionId, number: u64) -> Result<(), Refused> {
        self.heard(id)?;
        match &mut self.session {
            Some(session) if session.last_number + 1 == number => {
                session.last_number = number;
                Ok(())
            }
            Some(session) => Err(Refused::Number {
                expected: session.last_number + 1,
                got: number,
            }),
            None => Err(Refused::Session),
        }
    }

    /// Ends the session, because its writer released the store or because the store failed.
    pub fn end(&mut self) {
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestKey;
    use crate::version::{Holder, StoreId};

    fn term(epoch: u64, holder: u128) -> Term {
        Term {
            epoch,
            holder: Holder(holder),
        }
    }

    fn seen(granted: Option<Term>) -> Seen {
        Seen {
            store: StoreId(1),
            granted,
            last_synced: None,
        }
    }

    fn region() -> Region {
        Region::new("r").expect("region")
    }

    fn claim(t: Term, granted: Option<Term>) -> Claim {
        Claim {
            region: region(),
            term: t,
            seen: seen(granted),
            digest_key: DigestKey([0; 32]),
            force: false,
            known: true,
        }
    }

    fn decide(
        gate: &Gate,
        t: Term,
        granted: Option<Term>,
        released: bool,
    ) -> Result<Term, Refused> {
        let region = region();
        let state = GateState {
            region: &region,
            seen: seen(granted),
            released,
            other_deployment: false,
        };
        gate.claim(&claim(t, granted), &state)
    }

    fn silent_for(ms: u64) -> Gate {
        let mut gate = Gate::default();
        (0..ms / 250).for_each(|_| gate.ran(Duration::from_millis(250)));
        gate
    }

    #[test]
    fn a_new_store_and_a_released_one_are_granted_at_once() {
        assert!(decide(&Gate::default(), term(1, 1), None, false).is_ok());
        assert!(decide(&Gate::default(), term(2, 2), Some(term(1, 1)), true).is_ok());
    }

    #[test]
    fn another_holder_waits_for_silence_in_which_the_store_ran() {
        let granted = Some(term(1, 1));
        assert!(matches!(
            decide(&silent_for(4750), term(2, 2), granted, false),
            Err(Refused::Busy { .. })
        ));
        assert!(decide(&silent_for(5000), term(2, 2), granted, false).is_ok());
        let mut paused = Gate::default();
        paused.ran(Duration::from_secs(3600));
        assert!(matches!(
            decide(&paused, term(2, 2), granted, false),
            Err(Refused::Busy { .. })
        ));
    }

    #[test]
    fn the_same_holder_never_waits_and_an_older_or_equal_epoch_never_passes() {
        let granted = Some(term(3, 1));
        assert!(decide(&Gate::default(), term(3, 1), granted, false).is_ok());
        for t in [term(2, 2), term(3, 2), term(2, 1)] {
            assert!(matches!(
                decide(&silent_for(60_000), t, granted, true),
                Err(Refused::Fenced { .. })
            ));
        }
    }

    #[test]
    fn a_store_that_changed_since_it_was_asked_is_not_granted() {
        let region = region();
        let state = GateState {
            region: &region,
            seen: seen(Some(term(4, 4))),
            released: true,
            other_deployment: false,
        };
        let stale = claim(term(5, 5), Some(term(3, 3)));
        assert_eq!(Gate::default().claim(&stale, &state), Err(Refused::Changed));
    }

    #[test]
    fn numbers_go_one_by_one_and_a_new_claim_ends_the_session() {
        let mut gate = Gate::default();
        gate.open(SessionId(1));
        assert!(gate.admit(SessionId(1), 1).is_ok());
        assert_eq!(
            gate.admit(SessionId(1), 1),
            Err(Refused::Number {
                expected: 2,
                got: 1
            })
        );
        assert_eq!(
            gate.admit(SessionId(1), 3),
            Err(Refused::Number {
                expected: 2,
                got: 3
            })
        );
        gate.open(SessionId(2));
        assert_eq!(gate.admit(SessionId(1), 2), Err(Refused::Session));
        assert!(gate.admit(SessionId(2), 1).is_ok());
    }
}
