//! The Postgres of a test: a running one that `HUBCAST_TEST_POSTGRES` names, or one of the test's own.

use crate::postgres::{self, Postgres};
use crate::{Result, until};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// A server.
#[derive(Debug)]
pub struct Server {
    own: Option<Postgres>,
    url: String,
}

/// A database of the test's own, gone with its handle.
#[derive(Debug)]
pub struct Database {
    /// Its address.
    pub url: String,
    /// The address of the server, if the server outlives the test.
    shared: Option<String>,
}

impl Server {
    /// The server that `HUBCAST_TEST_POSTGRES` names, else a throw-away one.
    ///
    /// # Errors
    /// If none can be started.
    pub async fn any() -> Result<Self> {
        match std::env::var("HUBCAST_TEST_POSTGRES") {
            Ok(url) if !url.is_empty() => Ok(Self { own: None, url }),
            _ => Self::own().await,
        }
    }

    /// A throw-away one: for tests that kill it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn own() -> Result<Self> {
        let own = Postgres::start(&postgres::find_bin()?, false).await?;
        let url = own.url("postgres");
        Ok(Self {
            own: Some(own),
            url,
        })
    }

    /// The throw-away server, to kill and start again.
    ///
    /// # Errors
    /// If it is somebody else's.
    pub fn process(&mut self) -> Result<&mut Postgres> {
        self.own
            .as_mut()
            .ok_or_else(|| "the server is not the test's own".into())
    }

    /// A new, empty database.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn database(&self) -> Result<Database> {
        let url = postgres::create_database(&self.url).await?;
        Ok(self.handle(url))
    }

    /// A standby that follows this server, which has to be the test's own.
    ///
    /// # Errors
    /// If one of the two does not start.
    pub async fn standby(&mut self) -> Result<Self> {
        let own = self.process()?.standby().await?;
        let url = own.url("postgres");
        Ok(Self {
            own: Some(own),
            url,
        })
    }

    /// The database of the same name on this server, which follows, or followed, the one that it is on.
    ///
    /// # Errors
    /// If the address of the server has no database.
    pub fn twin(&self, of: &Database) -> Result<Database> {
        let (base, _) = self
            .url
            .rsplit_once('/')
            .ok_or("the address has no database")?;
        Ok(Database::at(&format!("{base}/{}", of.name())))
    }

    /// A copy of a database that nobody is connected to.
    ///
    /// # Errors
    /// If somebody stays connected, or the server fails.
    pub async fn copy(&self, of: &Database) -> Result<Database> {
        let name = format!("{}_copy", of.name());
        let sql = format!("CREATE DATABASE {name} TEMPLATE {}", of.name());
        // A connection that was closed a moment ago may still be ending at the server.
        until(
            "the database to be copied",
            Duration::from_secs(20),
            || async { postgres::execute(&self.url, &sql).await.ok() },
        )
        .await?;
        let (base, _) = self
            .url
            .rsplit_once('/')
            .ok_or("the address has no database")?;
        Ok(self.handle(format!("{base}/{name}")))
    }

    /// Drops a database, whoever is connected.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn remove(&self, database: &Database) -> Result<()> {
        let gone = format!("DROP DATABASE {} WITH (FORCE)", database.name());
        postgres::execute(&self.url, &gone).await
    }

    /// Puts a copy in the place of a database, as one restores a backup: under the same name, whoever is connected.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn restore(&self, database: &Database, copy: &Database) -> Result<()> {
        self.remove(database).await?;
        self.rename(copy, database).await
    }

    /// Gives a copy the name of a database that is gone.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn rename(&self, copy: &Database, database: &Database) -> Result<()> {
        let (name, copy) = (database.name(), copy.name());
        let renamed = format!("ALTER DATABASE {copy} RENAME TO {name}");
        postgres::execute(&self.url, &renamed).await
    }

    fn handle(&self, url: String) -> Database {
        let shared = self.own.is_none().then(|| self.url.clone());
        Database { url, shared }
    }
}

impl Database {
    /// A database that somebody else keeps.
    pub fn at(url: &str) -> Self {
        let (url, shared) = (url.to_owned(), None);
        Self { url, shared }
    }

    fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// Runs statements.
    ///
    /// # Errors
    /// If one fails.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        postgres::execute(&self.url, sql).await
    }

    /// A connection.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.shared.take() else {
            return;
        };
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name());
        // A thread, because the runtime of the test cannot be waited for here.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|r| r.block_on(postgres::execute(&server, &sql)).is_ok())
        });
        let _ = dropping.join();
    }
}
