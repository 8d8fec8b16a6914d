//! A spoke never calls out: agents work where there is no route to anywhere, and own no socket that they opened.

use crate::world::World;
use std::collections::HashSet;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use system_tests::process::{Process, program};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The sockets of a process that are neither listeners on `ports` nor connections to them.
fn other_sockets(process: u32, ports: &[u16]) -> Vec<String> {
    let mut own = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        own.extend(
            target
                .strip_prefix("socket:[")
                .map(|t| t.trim_end_matches(']').to_owned()),
        );
    }
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let text =
            std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(inode)) = (fields.get(1), fields.get(9)) else {
                continue;
            };
            let port = local
                .rsplit_once(':')
                .and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
            let expected = table.starts_with("tcp") && port.is_some_and(|p| ports.contains(&p));
            if own.contains(*inode) && !expected {
                found.push(format!("{table}: {line}"));
            }
        }
    }
    found
}

/// An agent's process, and its two ports.
type Watched = (u32, [u16; 2]);

/// Looks at the sockets of agents without end.
struct Watch {
    agents: Arc<Mutex<Vec<Watched>>>,
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    task: std::thread::JoinHandle<Vec<String>>,
}

impl Watch {
    fn new() -> Self {
        let agents = Arc::new(Mutex::new(Vec::<Watched>::new()));
        let (stop, looks) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (watched, stopped, looked) = (agents.clone(), stop.clone(), looks.clone());
        let task = std::thread::spawn(move || {
            let mut found = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                for (process, ports) in watched.lock().expect("lock").clone() {
                    found.extend(other_sockets(process, &ports));
                }
                looked.fetch_add(1, Ordering::SeqCst);
                std::thread::park_timeout(Duration::from_millis(1));
            }
            found
        });
        Self {
            agents,
            stop,
            looks,
            task,
        }
    }

    fn add(&self, agent: &mut Agent) -> Result<()> {
        let ports = [agent.push, agent.read];
        self.agents
            .lock()
            .expect("lock")
            .push((agent.process()?.id(), ports));
        Ok(())
    }

    fn end(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::SeqCst);
        assert!(self.looks.load(Ordering::SeqCst) >= 10, "it hardly looked");
        self.task.join().map_err(|_| "the watch broke".into())
    }
}

/// The agents are filled, changed, wiped and started again, while somebody looks.
async fn live(world: &mut World, watch: &Watch) -> Result<()> {
    for agent in &mut world.agents {
        watch.add(agent)?;
    }
    world.hub.start().await?;
    world.becomes_true().await?;
    world
        .database
        .execute("UPDATE counters SET n = 2; DELETE FROM counters WHERE tenant = 't7'")
        .await?;
    world.scan().await?;
    world.is_true().await?;
    world.hub.kill()?;
    world.is_true().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_owns_no_socket_but_those_on_which_it_is_called() -> Result<()> {
    // The watch would see one: this connection of the test itself.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let calling = std::net::TcpStream::connect(listener.local_addr()?)?;
    assert!(!other_sockets(std::process::id(), &[listener.local_addr()?.port()]).is_empty());
    drop(calling);

    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    let watch = Watch::new();
    live(&mut world, &watch).await?;
    world.agents[0].kill()?;
    std::fs::remove_file(&world.agents[0].data)?;
    for agent in &mut world.agents[..1] {
        agent.start().await?;
        watch.add(agent)?;
    }
    world.hub.start().await?;
    world.becomes_true().await?;
    world.hub.stop().await?;
    assert_eq!(watch.end()?, Vec::<String>::new());
    Ok(())
}

/// A network namespace with nothing but its own loopback interface.
struct Island {
    holder: Process,
    inlets: Vec<std::process::Child>,
}

impl Island {
    /// None where the system does not permit it; then the sockets are all that there is to look at.
    async fn new(dir: &Path) -> Result<Option<Self>> {
        let mut command = Command::new("unshare");
        command.args([
            "-n",
            "sh",
            "-c",
            "ip link set lo up && echo up && exec sleep 600",
        ]);
        let Ok(mut holder) = Process::start(command, &dir.join("island.log")) else {
            return Ok(None);
        };
        let ready = until("the namespace", Duration::from_secs(10), || {
            let (up, gone) = (holder.log().contains("up"), !holder.is_running());
            async move { (up || gone).then_some(up && !gone) }
        });
        if !ready.await? {
            println!("no network namespaces here: {}", holder.log());
            return Ok(None);
        }
        let island = Self {
            holder,
            inlets: Vec::new(),
        };
        let enters = island.enter("true").status().is_ok_and(|s| s.success());
        Ok(enters.then_some(island))
    }

    /// A command inside.
    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.holder.id()))
            .arg(program);
        command
    }

    /// Makes the port of the machine outside lead to the same port inside.
    fn inlet(&mut self, port: u16) -> Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let mut command = self.enter(&program("inlet")?.display().to_string());
        command
            .arg(port.to_string())
            .stdin(Stdio::from(OwnedFd::from(listener)));
        self.inlets.push(command.spawn()?);
        Ok(())
    }

    /// Packets that wanted to leave, which they cannot.
    fn attempts(&self) -> Result<u64> {
        let process = self.holder.id();
        let text = std::fs::read_to_string(format!("/proc/{process}/net/snmp"))?;
        let mut lines = text.lines().filter(|l| l.starts_with("Ip: "));
        let (names, values) = (lines.next().ok_or("no Ip")?, lines.next().ok_or("no Ip")?);
        let mut both = names.split(' ').zip(values.split(' '));
        let (_, v4) = both
            .find(|(name, _)| *name == "OutNoRoutes")
            .ok_or("no OutNoRoutes")?;
        // Absent where the kernel has no IPv6.
        let six = std::fs::read_to_string(format!("/proc/{process}/net/snmp6")).unwrap_or_default();
        let v6 = six
            .lines()
            .find_map(|l| l.strip_prefix("Ip6OutNoRoutes"))
            .unwrap_or("0");
        Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        for inlet in &mut self.inlets {
            let _ = inlet.kill();
            let _ = inlet.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_work_where_there_is_no_route_to_anywhere() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    for agent in &mut world.agents {
        agent.stop().await?;
    }
    let Some(mut island) = Island::new(world.dir.path()).await? else {
        println!(
            "not permitted here; an_agent_owns_no_socket_but_those_on_which_it_is_called looks at the sockets"
        );
        return Ok(());
    };
    for agent in &mut world.agents {
        island.inlet(agent.push)?;
        island.inlet(agent.read)?;
        let outside = agent.command()?;
        let mut inside = island.enter(&outside.get_program().to_string_lossy());
        inside.args(outside.get_args());
        for (name, value) in outside.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        agent.start_as(inside).await?;
    }
    let watch = Watch::new();
    live(&mut world, &watch).await?;
    let own = format!("/proc/{}/ns/net", world.agents[0].process()?.id());
    assert_ne!(
        std::fs::read_link(own)?,
        std::fs::read_link("/proc/self/ns/net")?,
        "it is inside"
    );
    assert_eq!((watch.end()?, island.attempts()?), (Vec::new(), 0));

    // An attempt would have been seen: this one is.
    let mut calls_out = island.enter("bash");
    calls_out
        .args(["-c", "exec 3<>/dev/tcp/192.0.2.1/80"])
        .stderr(Stdio::null());
    assert!(!calls_out.status()?.success());
    assert_eq!(island.attempts()?, 1);
    Ok(())
}
