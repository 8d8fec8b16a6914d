//! The outbox of the change triggers, as the writer looks at it and acknowledges it. Decides nothing: which rows are
//! wanted and which are done is for [`crate::writer`] to say.
//!
//! A look and an acknowledgement are one statement each, sent by the simple protocol, so they take one round trip and
//! work through a transaction pooler. Only a look that finds changes of a watch with a `tenants` query is taken again,
//! in a transaction with that query.

use super::definitions::Definitions;
use super::hub::PendingRequest;
use super::hub::{SERVER, Server};
use super::statement::{Statement, quoted, texts, unnamed};
use super::{Source, SourceError, is_passing, message};
use crate::config::Watch;
use crate::writer::{AckRequest, Change, LookRequest, Looked, Retry, Snapshot};
use contexts::name::TenantId;
use contexts::version::Term;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the server waits for something to do, in milliseconds; and while it has to look with every step, since not
/// everybody who drew an id is known to have ended. Soon after an acknowledgement that is known.
const WAIT_MS: u32 = 1_000;
const WAIT_LOOKING_MS: u32 = 150;
/// How long the `tenants` queries of one look may take. Every other change waits for them, so a look with one that takes longer
/// marks every tenant instead.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);
/// Rows that are taken one by one; more are answered by a scan.
const ROWS_MAX: u64 = 20_000;

/// Things that are wrong with the triggers that a status names.
const GAPS_NAMED: usize = 3;

/// What a look brought: changes, and requests of other commands.
#[derive(Debug)]
pub struct Found {
    /// For the writer.
    pub looked: Looked,
    /// For whoever answers requests.
    pub requests: Vec<PendingRequest>,
    /// Half of the room is taken.
    pub is_filling: bool,
    /// For so many microseconds the server looked without a pause.
    pub spun: u64,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is committed, or so old that nobody remembers.
    Committed,
    /// It was rolled back.
    Aborted,
    /// It is still open.
    Open,
    /// This database has not given out such a number yet.
    Unknown,
    /// It ran on another server, or before this one was started.
    OfAnotherServer,
}

/// A row of the outbox.
struct RawRow {
    id: i64,
    xid: u64,
    tenant: Option<String>,
    changed: Option<(String, Value)>,
    mark: Option<String>,
}

impl RawRow {
    fn parse(row: &Value) -> Option<Self> {
        let text = |i: usize| row.get(i)?.as_str().map(ToOwned::to_owned);
        let tenant = text(2);
        // With a tenant they are keys, which only a build of that tenant needs: see `last`.
        let changed = text(3).filter(|_| tenant.is_none());
        Some(Self {
            id: row.get(0)?.as_i64()?,
            xid: text(1)?.parse().ok()?,
            tenant,
            changed: changed.zip(row.get(4).cloned()),
            mark: text(5),
        })
    }
}

/// What a look saw, as the server tells it.
struct Seen {
    snapshot: Snapshot,
    last_id: i64,
    has_room: bool,
    missed: Option<i64>,
    requests: bool,
    is_filling: bool,
    spun: u64,
    is_backlog: bool,
    everyone: Option<String>,
    rows: Vec<RawRow>,
    /// The tenants of rows that name none themselves, by the first row of a transaction and watch.
    resolved: BTreeMap<i64, Resolved>,
}

/// What the changed rows of one transaction and watch concern.
struct Resolved {
    tenants: Vec<TenantId>,
    /// The rows after the first one.
    more: Vec<i64>,
}

impl Seen {
    fn looked(mut self) -> Looked {
        let marked = |mark| self.rows.iter().any(|r| r.mark.as_deref() == Some(mark));
        let (beat, all) = (marked("beat"), marked("all"));
        let everyone = all.then(|| "every tenant may have changed".to_owned());
        let with_another: BTreeSet<i64> = self
            .resolved
            .values()
            .flat_map(|r| r.more.clone())
            .collect();
        let change = |row: RawRow| {
            let (tenants, more) = match row.tenant {
                Some(tenant) => (named(&tenant).into_iter().collect(), Vec::new()),
                None => self
                    .resolved
                    .remove(&row.id)
                    .map_or_else(Default::default, |r| (r.tenants, r.more)),
            };
            Change {
                id: row.id,
                more,
                xid: row.xid,
                tenants,
            }
        };
        let rows = self.rows.into_iter();
        let changes = rows
            .filter(|row| !with_another.contains(&row.id))
            .map(change)
            .collect();
        Looked {
            seen: self.snapshot,
            last_id: self.last_id,
            has_room: self.has_room,
            missed: self.missed,
            changes,
            is_backlog: self.is_backlog,
            everyone: self.everyone.or(everyone),
            beat,
        }
    }
}

impl Source {
    /// Waits on the server, at most a second, until there is something to do, and says what. After a failure ask for
    /// the requests `again` that were taken and not answered: the answer that named them may be lost.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn look(
        &self,
        term: Term,
        request: &LookRequest,
        again: bool,
    ) -> Result<Found, SourceError> {
        let doing = "looking for changes";
        // Each of the function's looks needs a snapshot of its own, whatever the role's transactions are by default.
        let wait = match request.drawn < request.from_id {
            true => WAIT_MS,
            false => WAIT_LOOKING_MS,
        };
        let look = look_sql(term, request, wait);
        let statement = Statement::new(format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {look}"
        ));
        let mut seen = self.understand(&self.fetch_one(doing, statement).await?)?;
        if seen.rows.iter().any(|row| row.changed.is_some()) {
            // Whom a changed row concerns is asked in the snapshot in which the row is seen.
            let (mut tx, definitions) = self.snapshot().await?;
            let row = unnamed(look_sql(term, request, 0)).fetch_one(&mut *tx);
            seen = self.understand(&row.await.map_err(|e| self.error(doing, e))?)?;
            self.resolve(&mut tx, &definitions, &mut seen).await?;
        }
        let requests = match seen.requests || again {
            true => self.take_requests(term, again).await?,
            false => Vec::new(),
        };
        let (is_filling, spun) = (seen.is_filling, seen.spun);
        let looked = seen.looked();
        Ok(Found {
            looked,
            requests,
            is_filling,
            spun,
        })
    }

    fn understand(&self, row: &PgRow) -> Result<Seen, SourceError> {
        self.same_server(row.get(8))?;
        let snapshot = Snapshot::parse(row.get(0)).ok_or_else(|| self.unreadable("a snapshot"))?;
        let waiting: i64 = row.get(4);
        let is_backlog = waiting.unsigned_abs() > ROWS_MAX;
        let changes: Option<String> = row.get(5);
        let rows: Vec<Value> = match changes.filter(|_| !is_backlog) {
            Some(json) => serde_json::from_str(&json).map_err(|_| self.unreadable("the outbox"))?,
            None => Vec::new(),
        };
        Ok(Seen {
            snapshot,
            last_id: row.get(1),
            has_room: row.get(2),
            missed: row.get(6),
            requests: row.get(3),
            is_filling: row.get(7),
            spun: u64::from(row.get::<i32, _>(9).unsigned_abs()),
            is_backlog,
            everyone: None,
            rows: rows.iter().filter_map(RawRow::parse).collect(),
            resolved: BTreeMap::new(),
        })
    }

    pub(super) fn unreadable(&self, what: &str) -> SourceError {
        SourceError::Failed {
            what: "looking for changes".into(),
            why: format!("{what} cannot be read; does the schema hubcast belong to this release?"),
        }
    }

    /// Finds the tenants that changed rows of a watch with a `tenants` query concern. The query runs here, after the
    /// commit: in the trigger it would not see what another open transaction is about to commit.
    async fn resolve(
        &self,
        tx: &mut PgConnection,
        definitions: &Definitions,
        seen: &mut Seen,
    ) -> Result<(), SourceError> {
        let mut by_watch: BTreeMap<&str, Vec<(&RawRow, &Value)>> = BTreeMap::new();
        for row in &seen.rows {
            if let Some((watch, value)) = &row.changed {
                by_watch.entry(watch).or_default().push((row, value));
            }
        }
        let watches = || definitions.kinds.iter().flat_map(|d| &d.watch);
        let until = Instant::now() + RESOLVE_WITHIN;
        for (id, changed) in by_watch {
            let Some(watch) = watches().find(|w| w.id() == id) else {
                let why = "a change of a table that was watched once";
                seen.everyone.get_or_insert_with(|| why.into());
                continue;
            };
            let values: Vec<&Value> = changed.iter().map(|(_, value)| *value).collect();
            let within = until.saturating_duration_since(Instant::now());
            match tenants_of(tx, watch, &values, within).await {
                // One row of each transaction stands for all of them.
                Ok(tenants) => {
                    let mut ids: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
                    changed
                        .iter()
                        .for_each(|(r, _)| ids.entry(r.xid).or_default().push(r.id));
                    for mut more in ids.into_values() {
                        more.sort_unstable();
                        let first = more.remove(0);
                        let tenants = tenants.clone();
                        seen.resolved.insert(first, Resolved { tenants, more });
                    }
                }
                Err(e) if is_passing(&e) => {
                    return Err(self.error("asking whom a change concerns", e));
                }
                Err(e) => {
                    let (table, why) = (&watch.table, message(&e));
                    let why = format!("watch: the tenants query on {table}: {why}");
                    tracing::warn!(error = why, "every tenant is scanned instead");
                    seen.everyone = Some(why);
                }
            }
        }
        Ok(())
    }

    /// Acknowledges rows, and marks stores behind in the same transaction. Returns its number.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if somebody else is the writer now.
    pub async fn acknowledge(
        &self,
        term: Term,
        request: &AckRequest,
        urls: &[String],
    ) -> Result<u64, SourceError> {
        if let Some(last_builds) = &self.last_builds {
            // Before they are gone: a build whose snapshot is from after this sees what changed.
            let is_unbuilt = request.all_in.is_some() || request.behind.len() >= urls.len();
            match request.mended {
                Some(_) => last_builds.close(),
                None if is_unbuilt => last_builds.forget(),
                None => {}
            }
        }
        let statement = Statement::new(ack_sql(&self.in_office(term), request, urls));
        let row = self
            .fetch_optional("acknowledging changes", statement)
            .await?;
        let row = row.ok_or(SourceError::TermOver)?;
        let xid: String = row.get(0);
        xid.parse()
            .map_err(|_| self.unreadable("a transaction number"))
    }

    /// Tenants that an earlier writer could not build; the times are from now.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn retries(&self) -> Result<Vec<(TenantId, Retry)>, SourceError> {
        let sql = "SELECT coalesce(json_agg(json_build_array(tenant, attempts, reason, \
                   greatest(0, extract(epoch FROM next_at - now()) * 1000)::bigint)), '[]')::text FROM hubcast.retry";
        let row = self.fetch_one("reading what is tried again", Statement::new(sql));
        let rows: Vec<(String, u32, String, u64)> = serde_json::from_str(row.await?.get(0))
            .map_err(|_| self.unreadable("hubcast.retry"))?;
        let each = rows.into_iter();
        let retries = each.filter_map(|(tenant, attempts, why, at)| {
            Some((named(&tenant)?, Retry { attempts, at, why }))
        });
        Ok(retries.collect())
    }

    /// Commits a beat and returns its number.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if somebody else is the writer now.
    pub async fn beat(&self, term: Term) -> Result<u64, SourceError> {
        let sql = format!(
            "UPDATE hubcast.beat SET n = n + 1 WHERE {} RETURNING n",
            self.in_office(term)
        );
        let row = self
            .fetch_optional("committing a beat", Statement::new(sql))
            .await?;
        let row = row.ok_or(SourceError::TermOver)?;
        Ok(row.get::<i64, _>(0).unsigned_abs())
    }

    /// Looks at the triggers themselves: a word that is another one after anything was done to them, and why changes
    /// may be missed until the next scan, if they may.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn look_at_triggers(&self) -> Result<(String, Option<String>), SourceError> {
        // Whatever is done to a trigger or its function, or undone, leaves a row of another transaction. First, so that what happens
        // between the two statements shows in the next look.
        let sql = "SELECT md5(coalesce(string_agg(format('%s %s %s', t.oid, t.xmin, p.xmin), ',' ORDER BY t.oid), '')) FROM pg_trigger t \
                   JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.pronamespace = 'hubcast'::regnamespace";
        let row = self.fetch_one("looking at the triggers", Statement::new(sql));
        let as_they_are: String = row.await?.get(0);
        let drift = self.drift(&self.definitions().await?).await?;
        let gaps: Vec<String> = drift
            .iter()
            .filter(|d| d.misses_changes())
            .map(ToString::to_string)
            .collect();
        let more = gaps.len().saturating_sub(GAPS_NAMED);
        let mut named: Vec<String> = gaps.into_iter().take(GAPS_NAMED).collect();
        if more > 0 {
            named.push(format!("and {more} more, see `publisher check`"));
        }
        let gap = (!named.is_empty()).then(|| named.join("; "));
        Ok((as_they_are, gap))
    }

    /// What became of a transaction, and on which server: another one may have given the number to another transaction.
    /// `started` is when the server started that gave the token, in microseconds since 1970; one of an earlier release
    /// does not say.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn fate(
        &self,
        xid: u64,
        started: Option<i64>,
    ) -> Result<(Fate, Server), SourceError> {
        let is_other = started.map_or("false".to_owned(), |s| {
            format!("(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint <> {s}")
        });
        let sql = format!(
            "SELECT CASE WHEN {is_other} THEN 'of another server' WHEN '{xid}'::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) \
              AND '{xid}'::xid8 > pg_current_xact_id() THEN 'unknown' ELSE pg_xact_status('{xid}'::xid8) END, {SERVER}"
        );
        let row = self
            .fetch_one("asking for a transaction", Statement::new(sql))
            .await?;
        let fate = match row.get::<Option<String>, _>(0).as_deref() {
            Some("in progress") => Fate::Open,
            Some("aborted") => Fate::Aborted,
            Some("of another server") => Fate::OfAnotherServer,
            Some("unknown") => Fate::Unknown,
            _ => Fate::Committed,
        };
        Ok((fate, Server(row.get(1))))
    }
}

/// The tenants that the query of a watch returns for changed rows. A query that fails, or takes longer, leaves the transaction
/// as it was.
async fn tenants_of(
    tx: &mut PgConnection,
    watch: &Watch,
    changed: &[&Value],
    within: Duration,
) -> sqlx::Result<Vec<TenantId>> {
    let (table, query) = (&watch.table, watch.tenants.as_deref().unwrap_or_default());
    let json = serde_json::to_string(changed).unwrap_or_default();
    let sql = format!(
        "WITH changed AS (SELECT r.* FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb) AS r) \
         SELECT DISTINCT q.tenant::text FROM (\n{query}\n) AS q(tenant) WHERE q.tenant IS NOT NULL"
    );
    let mut savepoint = tx.begin().await?;
    // Zero would be no limit.
    let limit = within.as_millis().max(1);
    let limit = unnamed(format!("SET LOCAL statement_timeout = {limit}"));
    limit.execute(&mut *savepoint).await?;
    let found = unnamed(sql).bind(json).fetch_all(&mut *savepoint).await?;
    savepoint.rollback().await?;
    Ok(found.iter().filter_map(|row| named(row.get(0))).collect())
}

fn named(tenant: &str) -> Option<TenantId> {
    TenantId::new(tenant)
        .inspect_err(
            |e| tracing::warn!(error = %e, "a change names no possible tenant; nobody gets it"),
        )
        .ok()
}

fn look_sql(term: Term, request: &LookRequest, wait_ms: u32) -> String {
    let after = match &request.after {
        Some(snapshot) => format!("'{}'::pg_snapshot", snapshot.as_str()),
        None => "NULL".to_owned(),
    };
    let LookRequest {
        from_id,
        drawn,
        step,
        spin,
        ..
    } = request;
    let epoch = term.epoch;
    format!(
        "SELECT seen::text, last_id, has_room, requests, waiting, changes, missed, \
          2 * (last_id - (SELECT last_value FROM hubcast.outbox_acked)) >= (SELECT last_value FROM hubcast.outbox_cap), \
          {SERVER}, spun_us FROM hubcast.wait({wait_ms}, {step}, {spin}, {epoch}, {drawn}, {after}, {from_id}, {ROWS_MAX})"
    )
}

/// One statement, so that its parts succeed or fail together. Its loss in a crash of the server does no harm: the rows
/// are found again.
fn ack_sql(writer: &str, request: &AckRequest, urls: &[String]) -> String {
    let ids: Vec<String> = request.ids.iter().map(ToString::to_string).collect();
    let mut sql = format!(
        "WITH gone AS (DELETE FROM hubcast.outbox WHERE id = ANY('{{{}}}'::bigint[]) AND {writer})",
        ids.join(",")
    );
    let mut add = |text: String| sql.push_str(&text);
    if let Some(all) = &request.all_in {
        let seen = format!("pg_visible_in_snapshot(xid, '{}')", all.as_str());
        add(format!(
            ", all_gone AS (DELETE FROM hubcast.outbox WHERE {seen} AND {writer})"
        ));
    }
    let behind = request.behind.iter().filter_map(|ix| urls.get(ix.0));
    let is_behind = format!("url = ANY({})", texts(behind.map(String::as_str)));
    add(format!(
        ", behind AS (UPDATE hubcast.stores SET behind_since = CASE WHEN {is_behind} THEN now() END \
         WHERE (behind_since IS NOT NULL) <> ({is_behind}) AND {writer})"
    ));
    let (kept, gone): (Vec<_>, Vec<_>) = request.retries.iter().partition(|(_, r)| r.is_some());
    if !gone.is_empty() {
        let list = texts(gone.iter().map(|(t, _)| t.as_str()));
        add(format!(
            ", built AS (DELETE FROM hubcast.retry WHERE tenant = ANY({list}) AND {writer})"
        ));
    }
    if !kept.is_empty() {
        let row = |(tenant, retry): &&(TenantId, Option<crate::writer::Retry>)| {
            let retry = retry.as_ref()?;
            Some(format!(
                "({}, {}, {})",
                quoted(tenant.as_str()),
                retry.attempts,
                quoted(&retry.why)
            ))
        };
        let rows: Vec<String> = kept.iter().filter_map(row).collect();
        add(format!(
            ", unbuilt AS (INSERT INTO hubcast.retry (tenant, attempts, reason, next_at) SELECT v.*, \
             now() + least(interval '10 minutes', interval '5 seconds' * 2 ^ least(v.attempts - 1, 7)) \
             FROM (VALUES {}) AS v(tenant, attempts, reason) WHERE {writer} ON CONFLICT (tenant) DO UPDATE \
             SET attempts = excluded.attempts, reason = excluded.reason, next_at = excluded.next_at)",
            rows.join(",")
        ));
    }
    let done_to = match request.make_room {
        true => "(SELECT last_value FROM hubcast.outbox_ids)".to_owned(),
        false => request.done_to.to_string(),
    };
    let mended = match request.mended {
        Some(missed) => format!("setval('hubcast.outbox_mended', {missed}), "),
        None => String::new(),
    };
    add(format!(
        " SELECT pg_current_xact_id()::text, setval('hubcast.outbox_acked', {done_to}), {mended}\
         set_config('synchronous_commit', 'off', true) WHERE {writer}"
    ));
    sql
}
