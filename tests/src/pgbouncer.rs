//! A throw-away PgBouncer in transaction mode: between any two transactions the server may be another connection.

use crate::postgres::unprivileged;
use crate::process::{Process, foreign};
use crate::{Result, free_port, until};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A pooler in front of a server, gone with its handle.
#[derive(Debug)]
pub struct PgBouncer {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    process: Option<Process>,
}

/// The program; none if its tests have to be left out.
///
/// # Errors
/// As [`foreign`].
pub fn find() -> Result<Option<PathBuf>> {
    foreign("pgbouncer", "HUBCAST_PGBOUNCER")
}

impl PgBouncer {
    /// Starts one in front of the server that has `url`, with so many connections to each database.
    ///
    /// # Errors
    /// If it cannot be started; the message has what it said.
    pub async fn start(bin: &Path, url: &str, pool_size: u32) -> Result<Self> {
        let server = reqwest::Url::parse(url)?;
        let (host, user) = (server.host_str().unwrap_or_default(), server.username());
        let dir = tempfile::Builder::new()
            .prefix("hubcast-pooler-")
            .tempdir()?;
        let port = free_port()?;
        let config = format!(
            "[databases]\n* = host={host} port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = users\npool_mode = transaction\ndefault_pool_size = {pool_size}\n\
             max_client_conn = 200\n",
            server.port().unwrap_or(5432)
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), config)?;
        let password = server.password().unwrap_or_default();
        let users = format!("\"{user}\" \"{password}\"\n");
        std::fs::write(dir.path().join("users"), users)?;
        let mut bouncer = Self {
            bin: bin.to_owned(),
            dir,
            port,
            process: None,
        };
        bouncer.resume(url).await?;
        Ok(bouncer)
    }

    /// Starts it again after [`PgBouncer::kill`]; `url` is an address of the server.
    ///
    /// # Errors
    /// If it does not accept connections within 30 s.
    pub async fn resume(&mut self, url: &str) -> Result<()> {
        let through = self.url(url)?;
        let mut command = Command::new(&self.bin);
        command.current_dir(self.dir.path()).arg("pgbouncer.ini");
        // It refuses to run as root, as Postgres does.
        if let Some((uid, gid)) = unprivileged()? {
            for file in ["", "pgbouncer.ini", "users"] {
                chown(self.dir.path().join(file), Some(uid), Some(gid))?;
            }
            command.uid(uid).gid(gid);
        }
        let process = Process::start(command, &self.dir.path().join("log"))?;
        let process = self.process.insert(process);
        until("PgBouncer to answer", Duration::from_secs(30), || async {
            let mut connection = connect(&through).await.ok()?;
            connection.ping().await.ok()
        })
        .await
        .map_err(|e| format!("{e}: {}", process.log()).into())
    }

    /// `kill -9`: every connection breaks.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut p| p.kill())
    }

    /// The address of a database through it, from the one past it.
    ///
    /// # Errors
    /// If the address is none.
    pub fn url(&self, direct: &str) -> Result<String> {
        let mut url = reqwest::Url::parse(direct)?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(self.port))
            .map_err(|()| "the address has no port")?;
        Ok(url.into())
    }
}

/// A connection to an address that leads through one.
///
/// # Errors
/// If it or the server refuses.
pub async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    // It refuses connections that ask for extra_float_digits.
    let options = options.extra_float_digits(None);
    Ok(PgConnection::connect_with(&options).await?)
}
