//! An agent as a process of its own: started, killed, stopped, limited; and a follower of one.

use super::{Hub, REGION, TOKEN, client, status_and_body};
use reqwest::{Client, Method, RequestBuilder};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// An agent as a process of its own.
pub struct Process {
    child: Child,
    pub push: SocketAddr,
    pub read: SocketAddr,
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoke-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HUBCAST_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    command
}

pub fn program_on(dir: &Path) -> Command {
    program_of(dir, REGION)
}

pub fn program_of(dir: &Path, region: &str) -> Command {
    let mut command = program();
    let flags = [
        "--region",
        region,
        "--push-token",
        TOKEN,
        "--log-format",
        "json",
    ];
    command
        .args(flags)
        .arg("--data")
        .arg(dir.join("store.redb"));
    command.args([
        "--push-listen",
        "127.0.0.1:0",
        "--read-listen",
        "127.0.0.1:0",
    ]);
    command
}

/// A program whose files cannot be written beyond some blocks of 512 bytes.
fn limited(program: &Command, blocks: u32) -> Command {
    let mut shell = Command::new("sh");
    let limit = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\"");
    shell
        .args(["-c", &limit, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    shell
}

/// Starts a program and waits for its line that says it is ready.
fn until_ready(mut command: Command) -> (Child, serde_json::Value) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let ready = loop {
        let line = lines.next().expect("a line before the end").expect("text");
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if parsed["message"] == "ready" {
            break parsed;
        }
    };
    // What it logs later is read, so that it never waits for a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (child, ready)
}

impl Process {
    /// Starts the program and waits for its line that says it is ready.
    pub fn start(dir: &Path, failpoint: Option<&str>) -> Self {
        let mut command = program_on(dir);
        if let Some(failpoint) = failpoint {
            command.env("HUBCAST_FAILPOINT", failpoint);
        }
        Self::spawn(command)
    }

    /// Starts a program whose files cannot grow beyond some blocks of 512 bytes: a disk that is full.
    pub fn start_with_limit(dir: &Path, blocks: u32) -> Self {
        Self::spawn(limited(&program_on(dir), blocks))
    }

    pub fn spawn(mut command: Command) -> Self {
        command.arg("run");
        let (child, ready) = until_ready(command);
        let address = |name: &str| {
            let text = ready[name].as_str().expect("an address");
            text.parse().expect("an address")
        };
        let (push, read) = (address("push_listen"), address("read_listen"));
        Self { child, push, read }
    }

    pub fn hub(&self, epoch: u64) -> Hub {
        Hub::new(self.push, epoch)
    }

    /// The same writer, for an agent that has the store in which it wrote before.
    pub fn hub_after(&self, before: &Hub) -> Hub {
        let (term, n) = (before.term, before.n);
        Hub {
            term,
            n,
            ..self.hub(term.epoch)
        }
    }

    pub async fn look_up(&self, kind: &str, key: &str) -> (u16, String) {
        let url = format!("http://{}/v1/contexts/{kind}/{key}", self.read);
        status_and_body(client().get(url).send().await.expect("an answer")).await
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("sent");
    }

    /// From now on its files cannot be written beyond some blocks of 512 bytes, whatever they have there; it must have
    /// been started with a limit.
    pub fn limit(&self, blocks: u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = rustix::process::Rlimit {
            current: Some(blocks * 512),
            maximum: rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum,
        };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).expect("set");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A follower as a process of its own, which answers over a Unix socket.
pub struct Sidecar {
    child: Child,
    client: Client,
}

impl Sidecar {
    /// Follows these agents and answers at this socket, with these arguments beside.
    pub fn start(from: &str, socket: &Path, args: &[&str]) -> Self {
        let mut command = program();
        command.args(["follow", "--log-format", "json", "--region", REGION]);
        command.args(["--from", from]).args(args);
        command.arg("--read-socket").arg(socket);
        let (child, _) = until_ready(command);
        let client = super::builder().unix_socket(socket).build();
        Self {
            child,
            client: client.expect("a client"),
        }
    }

    /// A request for this path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://follower{path}"))
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let asked = self.request(Method::GET, path).send().await;
        status_and_body(asked.expect("an answer")).await
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        assert!(self.child.wait().expect("ends").success());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
