//! The invariants of change capture: what an acknowledgement removes, what a beat proves, what "visible" means.

use crate::outbox::Line;
use crate::publisher::Question;
use crate::world::{Checked, World};
use publisher::writer::{StoreIx, Visible};

impl World {
    pub fn check_ack(&self, _db: usize, _gone: &[Line]) -> Checked {
        Ok(())
    }
    pub fn check_beat(&self, _p: usize, _store: StoreIx, _ms: u64) -> Checked {
        Ok(())
    }
    pub fn check_visible(&self, _p: usize, _q: &Question, _v: &Visible) -> Checked {
        Ok(())
    }
}
