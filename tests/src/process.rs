//! A program that was started here: its log goes to a file, and it ends with its handle.

use crate::Result;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it writes is appended to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let command = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .map_err(|e| format!("{:?} cannot be started: {e}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it was stopped by a signal and can go on.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        // The state is the first field after the name, which stands in parentheses.
        stat.is_ok_and(|s| {
            s.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits for the end.
    ///
    /// # Errors
    /// If it does not end within 15 s.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let _ = self.signal(Signal::TERM);
        self.ended(Duration::from_secs(15)).await
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it does not come in time.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = std::time::Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if std::time::Instant::now() > deadline {
                return Err(format!(
                    "the process did not end within {within:?}; its log:\n{}",
                    self.log()
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of this workspace, built in the same profile as the caller.
///
/// # Errors
/// If it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let mut dir = here.parent();
    while let Some(at) = dir {
        for candidate in [at.join(name), at.join("examples").join(name)] {
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
        // Tests run from `deps`, one level below the programs.
        dir = at
            .parent()
            .filter(|_| at.ends_with("deps") || at.ends_with("examples"));
    }
    Err(format!("{name} is not built: run `cargo build --workspace --all-targets` first").into())
}

/// A program that is not ours: what `variable` says, or where distributions put it. Without it a test has to be left
/// out, which is said aloud; where `CI` is `true` nothing is left out.
///
/// # Errors
/// If there is none and `CI` is `true`.
pub fn foreign(name: &str, variable: &str) -> Result<Option<PathBuf>> {
    if let Some(program) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(Some(program.into()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path);
    // Daemons are often not in the PATH of those who are not root.
    let dirs = dirs.chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let mut programs = dirs.map(|dir| dir.join(name));
    let missing = format!("there is no {name}: install it, or set {variable} to its path");
    match programs.find(|program| program.is_file()) {
        Some(program) => Ok(Some(program)),
        None if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(missing.into()),
        None => {
            eprintln!("LEFT OUT, NOTHING WAS TESTED: {missing}");
            Ok(None)
        }
    }
}
