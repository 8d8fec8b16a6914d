//! The writer's own rows in the schema `hubcast`: the lease, the terms, the *synced* ids, requests and scans. Every
//! write of a writer names its term in the same statement, so one whose term is over changes nothing.

use super::audit::KEPT as ACTS_KEPT;
use super::statement::{Statement, quoted};
use super::{Source, SourceError};
use crate::writer::lease::LeaseRow;
use contexts::push::Seen;
use contexts::version::{Holder, SyncId, Term};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use std::sync::Arc;
use std::time::Instant;

/// The server behind a lease: another start time is another server, perhaps with an older state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server(pub(super) String);

/// A lease that was taken.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The term.
    pub term: Term,
    /// The server that it was taken on.
    pub server: Server,
    /// The counter as left there.
    pub counter: u64,
    /// When it was asked for.
    pub sent: Instant,
    /// A person decided that the stores are to be taken from whoever has them.
    pub is_forced: bool,
}

/// A request of another command.
#[derive(Debug)]
pub struct PendingRequest {
    /// Its id.
    pub id: i64,
    /// What it asks, as JSON.
    pub request: String,
}

/// The row of the lease, with who holds it.
#[derive(Debug, Clone)]
pub struct LeaseInfo {
    /// The row.
    pub row: LeaseRow,
    /// The host name and process of the holder.
    pub host: String,
}

/// Not as a time, whose text depends on the session's settings: a pooler may lend us one that others have changed.
pub(super) const SERVER: &str = "extract(epoch FROM pg_postmaster_start_time())::text";

/// Terms that are remembered. A store that obeys an older one counts as fenced.
const TERMS_KEPT: u32 = 10_000;
/// Part of every statement whose outcome a store is told. A server that was set to forget its last transactions in a
/// crash would come back as one that does not know what its stores obey, and be fenced like a clone.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

fn holder(text: &str) -> Holder {
    Holder(u128::from_str_radix(text, 16).unwrap_or(0))
}

/// A statement of the writer in a term: `$1` and `$2` name it.
fn of_term(sql: impl Into<String>, term: Term) -> Statement {
    Statement::new(sql)
        .bind(term.epoch.cast_signed())
        .bind(term.holder.to_string())
}

impl Source {
    /// For the term of a lease: what is read or written on another server than the lease's is refused. A server that
    /// took its place may have an older state.
    pub fn in_term(&self, lease: &Lease) -> Self {
        Self {
            server: Some(lease.server.clone()),
            last_builds: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// Refuses an answer of another server than that of the term, if this is for a term.
    pub(super) fn same_server(&self, server: &str) -> Result<(), SourceError> {
        match self.server.as_ref().is_none_or(|mine| mine.0 == server) {
            true => Ok(()),
            false => Err(SourceError::Replaced {
                at: self.at.clone(),
            }),
        }
    }

    /// The condition that a writer is still in office, on the server on which it took it.
    pub(super) fn in_office(&self, term: Term) -> String {
        let Term { epoch, holder } = term;
        let server = self
            .server
            .as_ref()
            .map(|mine| format!(" AND {SERVER} = {}", quoted(&mine.0)));
        format!(
            "EXISTS (SELECT FROM hubcast.writer w WHERE w.epoch = {epoch} AND w.holder = '{holder}'{})",
            server.unwrap_or_default()
        )
    }

    /// Reads the lease.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub async fn lease(&self) -> Result<LeaseInfo, SourceError> {
        let sql = "SELECT epoch, holder, counter, released, host FROM hubcast.writer";
        let row = self
            .fetch_one("reading the lease", Statement::new(sql))
            .await?;
        let (epoch, counter): (i64, i64) = (row.get(0), row.get(2));
        let term = Term {
            epoch: epoch.unsigned_abs(),
            holder: holder(row.get(1)),
        };
        let row_ = LeaseRow {
            term,
            counter: counter.unsigned_abs(),
            released: row.get(3),
        };
        Ok(LeaseInfo {
            row: row_,
            host: row.get(4),
        })
    }

    /// Takes the lease if its row is still as seen; the new term is recorded with it.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if somebody was faster.
    pub async fn take_lease(
        &self,
        seen: &LeaseRow,
        me: Holder,
        host: &str,
    ) -> Result<Lease, SourceError> {
        let sent = Instant::now();
        let sql = format!(
            "WITH taken AS (UPDATE hubcast.writer SET epoch = epoch + 1, holder = $1, counter = counter + 1, \
              released = false, host = $2, taken_at = now(), renewed_at = now() \
              WHERE epoch = $3 AND counter = $4 AND NOT pg_is_in_recovery() RETURNING epoch, counter), \
             term AS (INSERT INTO hubcast.terms (epoch, holder) SELECT epoch, $1 FROM taken), \
             old AS (DELETE FROM hubcast.terms USING taken WHERE terms.epoch < taken.epoch - {TERMS_KEPT}), \
             act AS (INSERT INTO hubcast.audit (who, origin, action, what) SELECT 'publisher', $2, 'became the writer', \
              jsonb_build_object('epoch', epoch) FROM taken RETURNING id), \
             forgotten AS (DELETE FROM hubcast.audit USING act WHERE audit.id <= act.id - {ACTS_KEPT}) \
             SELECT epoch, counter, {SERVER}, ({DURABLE}) FROM taken"
        );
        let statement = Statement::new(sql)
            .bind(me.to_string())
            .bind(host)
            .bind(seen.term.epoch.cast_signed())
            .bind(seen.counter.cast_signed());
        let row = self.fetch_optional("taking the lease", statement).await?;
        let row = row.ok_or(SourceError::TermOver)?;
        let (epoch, counter): (i64, i64) = (row.get(0), row.get(1));
        let term = Term {
            epoch: epoch.unsigned_abs(),
            holder: me,
        };
        Ok(Lease {
            term,
            server: Server(row.get(2)),
            counter: counter.unsigned_abs(),
            sent,
            is_forced: false,
        })
    }

    /// Takes the lease from whoever has it, in an epoch above `epoch`, which a store named.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn force_lease(
        &self,
        epoch: u64,
        me: Holder,
        host: &str,
    ) -> Result<Lease, SourceError> {
        loop {
            let mut seen = self.lease().await?.row;
            if seen.term.epoch < epoch {
                let raised =
                    "UPDATE hubcast.writer SET epoch = $1, counter = counter + 1 WHERE epoch < $1";
                let statement = Statement::new(raised).bind(epoch.cast_signed());
                self.execute("raising the epoch", statement).await?;
                seen = self.lease().await?.row;
            }
            match self.take_lease(&seen, me, host).await {
                // It was renewed in between.
                Err(SourceError::TermOver) => {}
                taken => {
                    return taken.map(|lease| Lease {
                        is_forced: true,
                        ..lease
                    });
                }
            }
        }
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if it is somebody else's, or the database is not the one it was taken in.
    pub async fn renew_lease(&self, lease: &mut Lease) -> Result<(), SourceError> {
        let sql = format!(
            "UPDATE hubcast.writer SET counter = counter + 1, renewed_at = now() WHERE epoch = $1 AND holder = $2 AND NOT released \
             RETURNING counter, {SERVER}"
        );
        let statement = of_term(sql, lease.term);
        let row = self.fetch_optional("renewing the lease", statement).await?;
        let row = row.ok_or(SourceError::TermOver)?;
        let counter: i64 = row.get(0);
        let (counter, server) = (counter.unsigned_abs(), Server(row.get(1)));
        // A renewal whose answer was lost raises the counter too; it never goes back on one server.
        if server != lease.server || counter <= lease.counter {
            return Err(SourceError::TermOver);
        }
        lease.counter = counter;
        Ok(())
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn release_lease(&self, term: Term) -> Result<(), SourceError> {
        let sql = "UPDATE hubcast.writer SET released = true WHERE epoch = $1 AND holder = $2";
        self.execute("releasing the lease", of_term(sql, term))
            .await?;
        Ok(())
    }

    /// Whether this database knows the writer and the *synced* that a store names. If not, the store was written from
    /// another database: a clone of this one, or a later state of it.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn knows(&self, seen: &Seen) -> Result<bool, SourceError> {
        let sql = "SELECT ($1::bigint IS NULL OR EXISTS (SELECT FROM hubcast.terms WHERE epoch = $1 AND holder = $2)) \
                   AND ($3::text IS NULL OR EXISTS (SELECT FROM hubcast.syncs WHERE id = $3))";
        let statement = Statement::new(sql)
            .bind(seen.granted.map(|t| t.epoch.cast_signed()))
            .bind(seen.granted.map(|t| t.holder.to_string()))
            .bind(seen.last_synced.map(|id| id.to_string()));
        let row = self.fetch_one("looking up a store's writer", statement);
        Ok(row.await?.get(0))
    }

    /// Records a *synced* before it is sent; or one that another database recorded, before a store that names it is taken
    /// from there by force: what the store has counts as known from then on, also to a later writer.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if the writer's term is over.
    pub async fn record_synced(
        &self,
        term: Term,
        id: SyncId,
        store: &str,
    ) -> Result<(), SourceError> {
        let sql = format!(
            "WITH term AS (SELECT FROM hubcast.writer WHERE epoch = $1 AND holder = $2 FOR SHARE), \
             old AS (DELETE FROM hubcast.syncs USING term WHERE store = $4 AND id IN (SELECT id FROM hubcast.syncs \
              WHERE store = $4 ORDER BY sent_at DESC OFFSET 100)) \
             INSERT INTO hubcast.syncs (id, store) SELECT $3, $4 FROM term WHERE ({DURABLE}) IS DISTINCT FROM '' \
             ON CONFLICT (id) DO UPDATE SET store = excluded.store, sent_at = excluded.sent_at"
        );
        let statement = of_term(sql, term).bind(id.to_string()).bind(store);
        match self
            .execute("recording the end of a scan", statement)
            .await?
        {
            1 => Ok(()),
            _ => Err(SourceError::TermOver),
        }
    }

    /// Leaves a request for the writer.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn leave_request(&self, request: &str) -> Result<i64, SourceError> {
        let sql = "INSERT INTO hubcast.requests (request) VALUES ($1::jsonb) RETURNING id";
        let statement = Statement::new(sql).bind(request);
        let row = self.fetch_one("leaving a request for the writer", statement);
        Ok(row.await?.get(0))
    }

    /// The receipt of a request, once there is one; the request is then removed.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn fetch_receipt(&self, id: i64) -> Result<Option<String>, SourceError> {
        let sql = "DELETE FROM hubcast.requests WHERE id = $1 AND receipt IS NOT NULL RETURNING receipt::text";
        let statement = Statement::new(sql).bind(id);
        let row = self.fetch_optional("waiting for a receipt", statement);
        Ok(row.await?.map(|r| r.get(0)))
    }

    /// Whether a request still waits.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn has_request(&self, id: i64) -> Result<bool, SourceError> {
        let sql = "SELECT EXISTS (SELECT FROM hubcast.requests WHERE id = $1)";
        let row = self.fetch_one("waiting for a receipt", Statement::new(sql).bind(id));
        Ok(row.await?.get(0))
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn withdraw_request(&self, id: i64) -> Result<(), SourceError> {
        let statement = Statement::new("DELETE FROM hubcast.requests WHERE id = $1").bind(id);
        self.execute("withdrawing a request", statement).await?;
        Ok(())
    }

    /// Takes the new requests; `again` also those that were taken and not answered. Receipts that nobody fetched for an
    /// hour are removed on the way.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub(super) async fn take_requests(
        &self,
        term: Term,
        again: bool,
    ) -> Result<Vec<PendingRequest>, SourceError> {
        let doing = "taking requests";
        let sql = "WITH term AS (SELECT FROM hubcast.writer WHERE epoch = $1 AND holder = $2 FOR SHARE), \
                   old AS (DELETE FROM hubcast.requests r USING term WHERE r.asked_at < now() - interval '1 hour' \
                    AND (r.receipt IS NOT NULL OR r.taken_by IS DISTINCT FROM $1)) \
                   UPDATE hubcast.requests r SET taken_by = $1 FROM term \
                   WHERE r.receipt IS NULL AND (r.taken_by IS DISTINCT FROM $1 OR $3) \
                    AND r.asked_at >= now() - interval '1 hour' RETURNING r.id, r.request::text";
        let taking = of_term(sql, term).bind(again);
        let rows = self.fetch_all(doing, taking).await?;
        let request = |r: &sqlx::postgres::PgRow| PendingRequest {
            id: r.get(0),
            request: r.get(1),
        };
        Ok(rows.iter().map(request).collect())
    }

    /// Writes the receipt of a request.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn write_receipt(
        &self,
        term: Term,
        id: i64,
        receipt: &str,
    ) -> Result<(), SourceError> {
        let sql = "UPDATE hubcast.requests SET receipt = $3::jsonb WHERE id = $4 AND EXISTS \
                   (SELECT FROM hubcast.writer WHERE epoch = $1 AND holder = $2)";
        let statement = of_term(sql, term).bind(receipt).bind(id);
        self.execute("writing a receipt", statement).await?;
        Ok(())
    }

    /// Records how a scan ended; the last hundred are kept.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn record_scan(&self, term: Term, summary: &str) -> Result<(), SourceError> {
        let sql = "WITH term AS (SELECT FROM hubcast.writer WHERE epoch = $1 AND holder = $2 FOR SHARE), \
                   old AS (DELETE FROM hubcast.scans USING term WHERE ended_at IN \
                    (SELECT ended_at FROM hubcast.scans ORDER BY ended_at DESC OFFSET 100)) \
                   INSERT INTO hubcast.scans (epoch, summary) SELECT $1, $3::jsonb FROM term";
        let statement = of_term(sql, term).bind(summary);
        self.execute("recording a scan", statement).await?;
        Ok(())
    }

    /// The scans that are remembered, newest first: when each ended (seconds ago), and its summary.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn scans(&self) -> Result<Vec<(f64, serde_json::Value)>, SourceError> {
        let sql = "SELECT extract(epoch FROM clock_timestamp() - ended_at)::float8, summary FROM hubcast.scans \
                   ORDER BY ended_at DESC";
        let rows = self.fetch_all("reading the scans", Statement::new(sql));
        Ok(rows.await?.iter().map(|r| (r.get(0), r.get(1))).collect())
    }

    /// When the last scan ended (seconds ago), and its summary as JSON.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn last_scan(&self) -> Result<Option<(f64, String)>, SourceError> {
        let sql = "SELECT extract(epoch FROM clock_timestamp() - ended_at)::float8, summary::text FROM hubcast.scans \
                   ORDER BY ended_at DESC LIMIT 1";
        let row = self.fetch_optional("reading the last scan", Statement::new(sql));
        Ok(row.await?.map(|r| (r.get(0), r.get(1))))
    }
}
