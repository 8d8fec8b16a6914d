//! The service's own clock, from the `Date` of its answers: the clock of a table.
//!
//! A `Date` has whole seconds, so an answer says only that the service's time was between it and a second later, at
//! some moment between the question and the answer. From all answers this keeps the highest lower bound and the lowest
//! upper one, carried on by this process's monotonic clock. The writer names the lower bound, readers count to the upper
//! one: what is not known makes ages larger, never smaller. No machine's wall clock is used.

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const SECOND: i64 = 1_000_000;
/// Bounds are forgotten slowly, so that a service whose clock is set back is believed in the end: by this part of the time.
const DRIFT: i64 = 2_000;

/// What is known of the service's clock. Clones share it.
#[derive(Debug, Clone)]
pub struct ServiceClock {
    born: Instant,
    bounds: Arc<Mutex<Option<Bounds>>>,
}

/// The difference between the service's clock and this process's, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    low: i64,
    high: i64,
    at: i64,
}

impl Default for ServiceClock {
    fn default() -> Self {
        let (born, bounds) = (Instant::now(), Arc::default());
        Self { born, bounds }
    }
}

impl ServiceClock {
    /// A moment that the service's clock has surely reached, in microseconds since 1970; none before the first answer.
    pub fn reached(&self) -> Option<u64> {
        self.now(|bounds| bounds.low)
    }

    /// A moment that it has surely not passed.
    pub fn not_passed(&self) -> Option<u64> {
        self.now(|bounds| bounds.high)
    }

    fn now(&self, pick: impl FnOnce(Bounds) -> i64) -> Option<u64> {
        let now = self.elapsed(Instant::now());
        let bounds = self.bounds().as_ref().map(|bounds| bounds.at(now))?;
        Some((now + pick(bounds)).max(0) as u64)
    }

    fn bounds(&self) -> std::sync::MutexGuard<'_, Option<Bounds>> {
        // The value is replaced as a whole, so what a panicked thread left is whole.
        self.bounds.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn elapsed(&self, at: Instant) -> i64 {
        at.saturating_duration_since(self.born).as_micros() as i64
    }

    fn learn(&self, date: i64, sent: Instant, received: Instant) {
        let (sent, received) = (self.elapsed(sent), self.elapsed(received));
        let told = Bounds {
            low: date * SECOND - received,
            high: (date + 1) * SECOND - sent,
            at: received,
        };
        let mut bounds = self.bounds();
        *bounds = Some(bounds.map_or(told, |known| known.at(received).and(told)));
    }
}

impl Bounds {
    fn at(self, now: i64) -> Self {
        let wider = (now - self.at).max(0) / DRIFT;
        Self {
            low: self.low - wider,
            high: self.high + wider,
            at: now,
        }
    }

    /// Both at once; if they contradict each other, the clock was set, and the newer one counts.
    fn and(self, newer: Self) -> Self {
        let (low, high) = (self.low.max(newer.low), self.high.min(newer.high));
        let at = newer.at;
        match low <= high {
            true => Self { low, high, at },
            false => newer,
        }
    }
}

#[derive(Debug)]
struct SentAt(Instant);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for ServiceClock {
    fn name(&self) -> &'static str {
        "ServiceClock"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(SentAt(Instant::now()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let (Some(date), Some(SentAt(sent))) = (date, bag.load::<SentAt>()) {
            self.learn(date.secs(), *sent, Instant::now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn learned(dates: &[(i64, u64, u64)]) -> (i64, i64) {
        let clock = ServiceClock::default();
        let at = |ms| clock.born + Duration::from_millis(ms);
        for (date, sent, received) in dates {
            clock.learn(*date, at(*sent), at(*received));
        }
        let bounds = clock.bounds().expect("answers came");
        (bounds.low, bounds.high)
    }

    #[test]
    fn answers_narrow_what_is_known_from_both_sides() {
        // The service is at 100.9 s when this process is at 0.
        assert_eq!(learned(&[(100, 0, 50)]), (99_950_000, 101_000_000));
        let (low, high) = learned(&[(100, 0, 50), (101, 110, 150)]);
        assert!(low > 100_849_000 && high <= 101_000_050, "{low} {high}");
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed() {
        let (low, high) = learned(&[(100, 0, 50), (40, 100, 150)]);
        assert_eq!((low, high), (39_850_000, 40_900_000));
    }
}
