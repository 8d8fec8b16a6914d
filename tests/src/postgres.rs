//! A throw-away Postgres, or one that the caller has.

use crate::process::Process;
use crate::{Result, free_port, until};
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A server of our own, gone with its handle.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    user: Option<(u32, u32)>,
    settings: Vec<String>,
    server: Option<Process>,
}

/// The directory of the server programs: `HUBCAST_PG_BIN`, or the newest where distributions put them.
///
/// # Errors
/// If there is none.
pub fn find_bin() -> Result<PathBuf> {
    if let Some(bin) = std::env::var_os("HUBCAST_PG_BIN").filter(|b| !b.is_empty()) {
        return Ok(bin.into());
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        "no Postgres server programs: install Postgres, or set HUBCAST_PG_BIN".into()
    })
}

/// Postgres refuses to run as root: the user to run it as, if we are root.
pub(crate) fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let user = find("postgres").or_else(|| find("nobody"));
    user.map(Some)
        .ok_or_else(|| "no user to run Postgres as: it refuses to run as root".into())
}

impl Postgres {
    /// Makes a cluster and starts it. `durable` is for what is shown to people; tests go without fsync.
    ///
    /// # Errors
    /// If a program is missing or fails; the message has what it said.
    pub async fn start(bin: &Path, durable: bool) -> Result<Self> {
        Self::start_with(bin, durable, &[]).await
    }

    /// The same with settings of the caller's, each as `name=value`.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_with(bin: &Path, durable: bool, settings: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-pg-").tempdir()?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let mut postgres = Self {
            bin: bin.to_owned(),
            dir,
            port: free_port()?,
            user,
            settings: settings.iter().map(|&s| s.to_owned()).collect(),
            server: None,
        };
        let mut initdb = postgres.command("initdb");
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        let output = initdb.arg(postgres.dir.path().join("data")).output()?;
        if !output.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        postgres.resume(durable).await?;
        Ok(postgres)
    }

    fn command(&self, program: &str) -> Command {
        self.command_at(&self.bin.join(program))
    }

    fn command_at(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts the server again after [`Postgres::kill`].
    ///
    /// # Errors
    /// If it does not accept connections within 30 s.
    pub async fn resume(&mut self, durable: bool) -> Result<()> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.dir.path().join("data")).args([
            "-p",
            &self.port.to_string(),
            "-k",
        ]);
        command.arg(self.dir.path()).args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=200",
            "-c",
            "max_prepared_transactions=20",
        ]);
        if !durable {
            command.args([
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "synchronous_commit=off",
            ]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.server = Some(Process::start(command, &self.dir.path().join("log"))?);
        let url = self.url("postgres");
        until(
            "Postgres to accept connections",
            Duration::from_secs(30),
            || async { PgConnection::connect(&url).await.ok() },
        )
        .await?;
        Ok(())
    }

    /// A standby that follows this server, from a cold copy of it: this server is stopped for a moment.
    ///
    /// # Errors
    /// If a file cannot be copied, or one of the two does not start.
    pub async fn standby(&mut self) -> Result<Self> {
        if let Some(mut server) = self.server.take() {
            // Fast shutdown: whoever is connected is sent away.
            server.signal(Signal::INT)?;
            server.ended(Duration::from_secs(15)).await?;
        }
        let dir = tempfile::Builder::new().prefix("hubcast-pg-").tempdir()?;
        if let Some((uid, gid)) = self.user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let mut standby = Self {
            bin: self.bin.clone(),
            dir,
            port: free_port()?,
            user: self.user,
            settings: self.settings.clone(),
            server: None,
        };
        let data = standby.dir.path().join("data");
        let mut copy = standby.command_at(Path::new("cp"));
        copy.arg("-R").arg(self.dir.path().join("data")).arg(&data);
        let follow = format!(
            "touch data/standby.signal && chmod 700 data && echo \"primary_conninfo = 'host=127.0.0.1 port={} \
             user=postgres'\" >> data/postgresql.auto.conf",
            self.port
        );
        let mut settings = standby.command_at(Path::new("sh"));
        settings.args(["-c", &follow]);
        for mut command in [copy, settings] {
            let output = command.output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
        }
        self.resume(false).await?;
        standby.resume(false).await?;
        Ok(standby)
    }

    /// `kill -9` of the server; its other processes end by themselves.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut s| s.kill())
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database; returns its address.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn database(&self) -> Result<String> {
        create_database(&self.url("postgres")).await
    }
}

/// A database for a test, empty, and what it lives in: on the server whose address `HUBCAST_TEST_POSTGRES` has, where
/// it stays behind, or, if that is not set, in a throw-away cluster that is gone with its handle.
///
/// # Errors
/// If there are no server programs, or the server fails.
pub async fn test_database() -> Result<(Option<Postgres>, String)> {
    match std::env::var("HUBCAST_TEST_POSTGRES") {
        Ok(url) if !url.is_empty() => Ok((None, create_database(&url).await?)),
        _ => {
            let postgres = Postgres::start(&find_bin()?, false).await?;
            let database = postgres.database().await?;
            Ok((Some(postgres), database))
        }
    }
}

/// A new, empty database on the server that has `url`; returns its address.
///
/// # Errors
/// If the server fails.
pub async fn create_database(url: &str) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // The server may outlive this process and its number, so the time is part of the name.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let name = format!(
        "hubcast_{}_{}_{}",
        now.as_micros(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let mut address = reqwest::Url::parse(url)?;
    if matches!(address.path(), "" | "/") {
        address.set_path("/postgres");
    }
    let mut connection = PgConnection::connect(address.as_str()).await?;
    connection
        .execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await?;
    connection.close().await?;
    address.set_path(&name);
    Ok(address.into())
}

/// Runs statements.
///
/// # Errors
/// If one fails.
pub async fn execute(url: &str, sql: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}
