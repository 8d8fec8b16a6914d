//! The primary Postgres. The only place with SQL.
//!
//! | module | is about |
//! | --- | --- |
//! | [`query`] | the text of the queries, made from a definition: pure |
//! | [`definitions`] | what `migrate` put into the database |
//! | [`describe`] | what a query of the configuration returns, and what is wrong with it |
//! | `watched` | what a watch of the configuration names, and what is wrong with it |
//! | [`assemble`] | rows to bundles: pure |
//! | `rows` | the rows of a context query |
//! | [`build`] | tenants and ranges, each in one snapshot |
//! | [`at_once`] | tenants in one statement, where nothing is wrong |
//! | `last` | what was found last of very large tenants: pure |
//! | `since` | what has changed of them since |
//! | [`ranges`] | the bounds of a scan |
//! | [`stability`] | whether a query gives the same however it is run |
//! | [`capture`] | the outbox: looks and acknowledgements |
//! | `connections` | the pool, and connections that are used again at once |
//! | [`statement`] | statements that pass a transaction pooler |
//! | [`pauses`] | the stop button |
//! | [`stopped`] | how much is paused or held by the guard |
//! | [`holds`] | removals that were too many at once |
//! | [`audit`] | who did what |
//! | [`hub`] | the lease, terms, requests and scans in the schema `hubcast` |
//! | [`standby`] | who stands by |
//! | [`triggers`] | the change triggers on watched tables |
//! | [`migrate`] | installs the schema, the triggers and the definitions |
//! | [`uninstall`] | removes all of it |

pub mod assemble;
pub mod at_once;
pub mod audit;
mod budgets;
pub mod build;
pub mod capture;
mod connections;
pub mod decommission;
pub mod definitions;
pub mod describe;
pub mod holds;
pub mod hub;
pub mod inspect;
mod last;
pub mod migrate;
mod parts;
pub mod pauses;
pub mod query;
pub mod ranges;
mod removals;
mod rows;
mod since;
pub mod stability;
pub mod standby;
pub mod statement;
pub mod stopped;
pub mod triggers;
pub mod uninstall;
mod watched;

use at_once::Known;
use connections::{CONNECT_WITHIN, Connections};
use hub::Server;
use last::LastBuilds;
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Row, Transaction};
use statement::Statement;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

const IS_STANDBY: &str = "SELECT pg_is_in_recovery()";

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be reached, or the connection broke. Passes by itself, perhaps.
    #[error("the database at {at} cannot be reached: {why}")]
    Down {
        /// Host, port and name.
        at: String,
        /// What went wrong.
        why: String,
    },
    /// It refuses the user.
    #[error("the database at {at} refuses the connection: {why}; check user and password in {key}")]
    Denied {
        /// Host, port and name.
        at: String,
        /// The key of the configuration that has the address.
        key: &'static str,
        /// What it says.
        why: String,
    },
    /// `migrate` was not run.
    #[error("the database at {at} has no Hubcast schema: run `publisher migrate` first")]
    NotMigrated {
        /// Host, port and name.
        at: String,
    },
    /// It is a standby.
    #[error("the database at {at} is in recovery (a standby): connect to the primary")]
    Standby {
        /// Host, port and name.
        at: String,
    },
    /// It is not the server on which the term began, or was restarted since.
    #[error("the database at {at} was restarted or replaced by another server")]
    Replaced {
        /// Host, port and name.
        at: String,
    },
    /// The writer's term is over.
    #[error("another publisher is the writer now")]
    TermOver,
    /// The role may not do it.
    #[error(
        "{what}: {why}; connect as a role that may, or hand what `publisher migrate --print` writes to one"
    )]
    NotPermitted {
        /// What was being done.
        what: String,
        /// What the database says.
        why: String,
    },
    /// A statement failed.
    #[error("{what}: {why}")]
    Failed {
        /// What was being done.
        what: String,
        /// What the database says.
        why: String,
    },
}

impl SourceError {
    /// Whether waiting may help.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// Whether somebody has to do something first.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NotMigrated { .. } | Self::Denied { .. })
    }
}

/// The database, and what is needed to name it in an error.
#[derive(Debug, Clone)]
pub struct Source {
    connections: Arc<RwLock<Arc<Connections>>>,
    at: String,
    key: &'static str,
    known: Arc<RwLock<Option<Arc<Known>>>>,
    /// That of the term, if this is for one.
    server: Option<Server>,
    /// Those of the term, if this is for one.
    last_builds: Option<Arc<LastBuilds>>,
}

impl Source {
    /// Prepares connections to the database whose address the configuration has as `key`; none is opened yet.
    ///
    /// # Errors
    /// [`SourceError::Failed`] if the address cannot be read.
    pub fn new(key: &'static str, url: &SecretString) -> Result<Self, SourceError> {
        let options: PgConnectOptions =
            url.expose_secret()
                .parse()
                .map_err(|_| SourceError::Failed {
                    what: key.into(),
                    why: "it is not a Postgres address".into(),
                })?;
        // PgBouncer refuses connections that ask for extra_float_digits; builds set it for themselves.
        let options = options
            .application_name("hubcast")
            .statement_cache_capacity(0)
            .extra_float_digits(None)
            .disable_statement_logging();
        let at = format!(
            "{}:{}/{}",
            options.get_host(),
            options.get_port(),
            options.get_database().unwrap_or(options.get_username())
        );
        let connections = Arc::new(Connections::new(options));
        let known = Arc::default();
        Ok(Self {
            connections: Arc::new(RwLock::new(connections)),
            at,
            key,
            known,
            server: None,
            last_builds: None,
        })
    }

    fn connections(&self) -> Arc<Connections> {
        let connections = self.connections.read();
        connections.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pool(&self) -> PgPool {
        self.connections().pool.clone()
    }

    /// Begins a transaction. Whoever waits for this may go away at any time, and sqlx knows of a transaction only after
    /// the answer: given up before, it would stay open on a connection that others get. So it is begun to the end, and
    /// rolled back if nobody wants it any more.
    async fn begin(&self, sql: impl Into<String>) -> sqlx::Result<Transaction<'static, Postgres>> {
        let (pool, sql) = (self.pool(), AssertSqlSafe(sql.into()));
        let begun = tokio::spawn(async move { pool.begin_with(sql).await });
        begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    /// Leaves every connection and begins anew. A server that vanished without a word answers on none of the old ones,
    /// and the system takes a quarter of an hour to say so.
    fn reconnect(&self) {
        let options = (*self.pool().connect_options()).clone();
        let fresh = Arc::new(Connections::new(options));
        let connections = self.connections.write();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *connections, fresh).close();
    }

    /// Bounds the wait for an answer; without one the connections are given up.
    ///
    /// # Errors
    /// As `asking`; [`SourceError::Down`] if it took longer.
    pub async fn within<T>(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                self.reconnect();
                Err(self.silent(limit))
            }
        }
    }

    /// Gives up when the connections are left that are in use now. For what may take long: whether it is still being
    /// worked on shows in the short statements beside it.
    ///
    /// # Errors
    /// As `asking`; [`SourceError::Down`] if it was given up.
    async fn while_connected<T>(
        &self,
        asking: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let left = self.pool().close_event();
        tokio::select! {
            answer = asking => answer,
            () = left => Err(self.error("waiting", sqlx::Error::PoolClosed)),
        }
    }

    /// What is said of a database that did not answer in time.
    pub fn silent(&self, limit: Duration) -> SourceError {
        let (at, why) = (
            self.at.clone(),
            format!("no answer within {} s", limit.as_secs()),
        );
        SourceError::Down { at, why }
    }

    /// Host, port and name of the database.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Opens a connection and asks the simplest of questions.
    ///
    /// # Errors
    /// [`SourceError`] says whether it is down, refuses, or is a standby.
    pub async fn ping(&self) -> Result<(), SourceError> {
        // Past the pool, which tries again until its time is up and then does not say why.
        let options = self.pool().connect_options();
        let connecting = PgConnection::connect_with(&options);
        let mut connection = match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(connected) => connected.map_err(|e| self.error("connecting", e))?,
            Err(_) => return Err(self.error("connecting", sqlx::Error::PoolTimedOut)),
        };
        let row = sqlx::raw_sql(IS_STANDBY)
            .fetch_one(&mut connection)
            .await
            .map_err(|e| self.error("connecting", e))?;
        // An error here changes nothing about the answer.
        let _ = connection.close().await;
        self.is_primary(&row)
    }

    /// Makes sure that the database is not a standby, by a connection of the pool.
    ///
    /// # Errors
    /// [`SourceError::Standby`], or that it does not answer.
    pub async fn require_primary(&self) -> Result<(), SourceError> {
        let row = self.fetch_one("asking for the primary", Statement::new(IS_STANDBY));
        self.is_primary(&row.await?)
    }

    fn is_primary(&self, row: &PgRow) -> Result<(), SourceError> {
        match row.get(0) {
            true => Err(SourceError::Standby {
                at: self.at.clone(),
            }),
            false => Ok(()),
        }
    }

    fn error(&self, what: &str, error: sqlx::Error) -> SourceError {
        let (at, key) = (self.at.clone(), self.key);
        let code = error
            .as_database_error()
            .and_then(|e| e.code())
            .unwrap_or_default()
            .into_owned();
        let why = message(&error);
        match code.get(..2) {
            Some("28") => SourceError::Denied { at, key, why },
            _ if code == "3D000" => SourceError::Denied { at, key, why },
            _ if is_passing(&error) => SourceError::Down { at, why },
            _ if (code == "3F000" || code == "42P01" || code == "42883")
                && why.contains("hubcast") =>
            {
                SourceError::NotMigrated { at }
            }
            _ => SourceError::Failed {
                what: what.to_owned(),
                why,
            },
        }
    }
}

/// Whether the same statement may succeed later although nothing about it changes.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(e) => {
            // Connection trouble, resources, operator intervention, serialisation and locks. A statement that took too
            // long (57014) is the query's own trouble: for fewer tenants it may be fast enough.
            let code = e.code().unwrap_or_default();
            let passing = ["08", "53", "57", "40", "55"]
                .iter()
                .any(|class| code.starts_with(class));
            passing && code != "57014"
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// What the database says, on one line, with its hint.
fn message(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(e) => e.message().to_owned(),
        sqlx::Error::PoolTimedOut => {
            format!("no connection within {} s", CONNECT_WITHIN.as_secs())
        }
        sqlx::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    };
    text.replace('\n', " ")
}
