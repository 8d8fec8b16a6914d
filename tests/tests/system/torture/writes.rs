//! An application that writes: transactions that commit at once, late, or not at all.

use super::Counts;
use super::asks::{Desk, Ended};
use super::claims::{Claim, Claims, Subject};
use super::deeds::{Deed, spoil};
use super::stage::TENANTS;
use rand::Rng;
use rand::rngs::SmallRng;
use sqlx::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use system_tests::Result;
use tokio::sync::mpsc;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Commit,
    /// After so many milliseconds.
    Late(u64),
    Rollback,
}

/// One of many.
pub struct Writer {
    pub random: SmallRng,
    pub database: PgConnection,
    pub desk: Desk,
    pub claims: Arc<Claims>,
    pub counts: Arc<Counts>,
    /// Whoever follows transactions; those for which they have no time are not followed.
    pub follow: mpsc::Sender<Ended>,
    /// How often `notices` is to be emptied yet.
    pub truncate: Arc<AtomicUsize>,
}

/// Errors that an application meets when others write what it writes.
fn is_conflict(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<sqlx::Error>();
    let code = error.and_then(|e| e.as_database_error()?.code());
    // Serialization failure, deadlock, lock timeout, duplicate key.
    code.is_some_and(|c| ["40001", "40P01", "55P03", "23505"].contains(&c.as_ref()))
}

impl Writer {
    /// Until it is to stop.
    pub async fn run(mut self) -> Result<()> {
        self.execute("SET lock_timeout = '300ms'").await?;
        while !self.counts.is_over() {
            let deed = match self.takes_truncate() {
                true => Deed::Truncate,
                false => Deed::random(&mut self.random),
            };
            self.deed(deed).await?;
            let pause = self.random.random_range(0..60);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(())
    }

    fn takes_truncate(&self) -> bool {
        let order = Ordering::SeqCst;
        let less = |n: usize| n.checked_sub(1);
        self.truncate.fetch_update(order, order, less).is_ok()
    }

    async fn execute(&mut self, sql: &'static str) -> Result<()> {
        sqlx::query(sql).execute(&mut self.database).await?;
        Ok(())
    }

    /// Does something; what takes two transactions is finished, or not begun.
    async fn deed(&mut self, deed: Deed) -> Result<()> {
        let claims = self.transaction(deed, None).await?;
        match (deed, claims.first()) {
            (Deed::Take { key }, Some(claim)) => {
                let (to, n) = (self.random.random_range(0..TENANTS), claim.n + 1);
                let give = Deed::Give { key, to, n };
                while self
                    .transaction(give, Some(Ending::Commit))
                    .await?
                    .is_empty()
                {}
            }
            (Deed::Move { key, .. }, Some(_)) if self.random.random_bool(0.3) => {
                let to = self.random.random_range(0..TENANTS);
                self.transaction(Deed::Move { key, to }, None).await?;
            }
            (Deed::Truncate, _) => {
                let tenant = self.random.random_range(0..TENANTS);
                self.transaction(Deed::Notice { tenant }, None).await?;
            }
            _ => {}
        }
        Ok(())
    }

    fn ending(&mut self, deed: Deed) -> Ending {
        match self.random.random_range(0..100) {
            0..10 => Ending::Rollback,
            10..14 if !deed.is_in_the_way() => Ending::Late(self.random.random_range(1_000..4_000)),
            14..30 => Ending::Late(self.random.random_range(1..100)),
            _ => Ending::Commit,
        }
    }

    /// One transaction; returns what it claims if it was committed.
    async fn transaction(&mut self, deed: Deed, ending: Option<Ending>) -> Result<Vec<Claim>> {
        let ending = ending.unwrap_or_else(|| self.ending(deed));
        match self.attempt(deed, ending).await {
            Ok(claims) => Ok(claims),
            Err(e) if is_conflict(&*e) => {
                self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                self.execute("ROLLBACK").await?;
                Ok(Vec::new())
            }
            Err(e) => Err(format!("{deed:?}: {e}").into()),
        }
    }

    async fn attempt(&mut self, deed: Deed, ending: Ending) -> Result<Vec<Claim>> {
        let begin = match self.random.random_ratio(1, 10) {
            true => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            false => "BEGIN",
        };
        self.execute(begin).await?;
        // The row of the token may come before those of the changes, or after them.
        let early = match self.random.random_bool(0.5) {
            true => Some(self.token().await?),
            false => None,
        };
        let claims = deed.run(&mut self.database, &self.claims).await?;
        let token = match early {
            Some(token) => token,
            None => self.token().await?,
        };
        match ending {
            Ending::Rollback => {
                spoil(&mut self.database, deed).await?;
                self.execute("ROLLBACK").await?;
                self.counts.rolled_back.fetch_add(1, Ordering::Relaxed);
                let claims = None;
                let _ = self.follow.try_send(Ended { token, claims });
                return Ok(Vec::new());
            }
            Ending::Late(ms) => self.wait(ms, &token).await?,
            Ending::Commit => {}
        }
        self.execute("COMMIT").await?;
        self.claims.committed(&claims);
        self.counts.transactions.fetch_add(1, Ordering::Relaxed);
        if !claims.is_empty() {
            let claims = Some(claims.clone());
            let _ = self.follow.try_send(Ended { token, claims });
        }
        Ok(claims)
    }

    async fn token(&mut self) -> Result<String> {
        let query = sqlx::query_scalar("SELECT hubcast.token()");
        Ok(query.fetch_one(&mut self.database).await?)
    }

    /// Keeps the transaction open, and asks meanwhile whether it is visible.
    async fn wait(&mut self, ms: u64, token: &str) -> Result<()> {
        let pause = tokio::time::sleep(Duration::from_millis(ms));
        if ms > 1_000 {
            let hub = self.random.random_range(0..2);
            self.desk.is_open(hub, token).await?;
        }
        pause.await;
        Ok(())
    }
}

/// One transaction that changes a counter, followed until it is visible everywhere.
pub async fn probe(database: &mut PgConnection, desk: &Desk, within: Duration) -> Result<Duration> {
    let claims = Claims::default();
    sqlx::query("BEGIN").execute(&mut *database).await?;
    let deed = Deed::Count {
        tenant: 0,
        detour: false,
    };
    let changed = deed.run(database, &claims).await?;
    assert_eq!(changed[0].subject, Subject::Counter(0));
    let query = sqlx::query_scalar("SELECT hubcast.token()");
    let token: String = query.fetch_one(&mut *database).await?;
    sqlx::query("COMMIT").execute(database).await?;
    let took = desk.is_everywhere(&token, within).await?;
    took.ok_or_else(|| format!("a change was not visible everywhere within {within:?}").into())
}
