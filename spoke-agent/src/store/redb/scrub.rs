//! Looks for rot: goes through all records of a store that is at rest, a few at a time, and compares each with its hash.
//!
//! Readers in memory are not touched by rot before a push of its tenant, but a restart would be, and so would a reader of
//! the file. What is found leads to an audit, which makes the bundle differ from what the hub has, so that the next scan
//! brings it again.

use super::StoreError;
use super::db::Db;
use super::rows;
use super::tables::CONTEXTS;
use crate::metrics as names;
use contexts::digest::DigestKey;

/// Records that are looked at in one step. A step is taken about ten times a second, so a million take some minutes.
const RECORDS: usize = 500;
/// Microseconds from the begin of one pass to the next.
const EVERY: u64 = 3_600_000_000;

/// Where a scrub is.
#[derive(Debug, Default)]
pub struct Scrub {
    /// The last record that was looked at, while a pass is under way.
    last: Option<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    next_pass: u64,
}

impl Scrub {
    /// Takes a step at this moment, in microseconds. Returns whether a record was found that disagrees with its hash; the
    /// pass ends there, since the audit that follows looks at all of them.
    ///
    /// # Errors
    /// If redb fails.
    pub fn step(&mut self, db: &Db, key: &DigestKey, now: u64) -> Result<bool, StoreError> {
        if self.last.is_none() && now < self.next_pass {
            return Ok(false);
        }
        let contexts = db.look()?.open_table(CONTEXTS)?;
        let (tenant, kind, name) = self.last.take().unwrap_or_else(|| {
            self.next_pass = now + EVERY;
            Default::default()
        });
        let from: (&[u8], &[u8], &[u8]) = (&tenant, &kind, &name);
        let mut looked = 0;
        for (count, row) in contexts.range(from..)?.enumerate() {
            let (place, record) = row?;
            let (tenant, kind, name) = place.value();
            let texts = std::str::from_utf8(kind)
                .ok()
                .zip(std::str::from_utf8(name).ok());
            let sound = texts.and_then(|(kind, name)| rows::sound(key, kind, name, record.value()));
            if sound.is_none() {
                return Ok(true);
            }
            if count == RECORDS {
                metrics::counter!(names::SCRUBBED).increment(RECORDS as u64);
                self.last = Some((tenant.into(), kind.into(), name.into()));
                return Ok(false);
            }
            looked = count as u64 + 1;
        }
        metrics::counter!(names::SCRUBBED).increment(looked);
        metrics::counter!(names::SCRUBS).increment(1);
        Ok(false)
    }
}
