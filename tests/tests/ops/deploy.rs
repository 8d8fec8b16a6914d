//! The files with which Hubcast is deployed, as far as that can be tried here: units by systemd's own tool, manifests by
//! kubectl, and everywhere that keys, variables and files which they name exist. README says what has not been tried.

use crate::files::{names, read, root};
use crate::stage::{Stage, WITHIN};
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use system_tests::process::program;
use system_tests::{Result, until};

/// A program that `ops/test` gets: by its variable, or from where programs are.
fn tool(name: &str, variable: &str) -> Command {
    let given = std::env::var_os(variable).filter(|path| !path.is_empty());
    Command::new(given.unwrap_or_else(|| name.into()))
}

/// Runs a program that may not be here, which is said.
fn tried(command: &mut Command) -> Result<Option<Output>> {
    match command.output() {
        Ok(output) => Ok(Some(output)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("left out: there is no {:?}", command.get_program());
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn systemd_takes_the_units() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut units = Vec::new();
    for name in names("ops/systemd", ".service")? {
        let mut text = read(&format!("ops/systemd/{name}.service"))?;
        for binary in ["publisher", "spoke-agent"] {
            let built = program(binary)?.display().to_string();
            text = text.replace(&format!("/usr/local/bin/{binary}"), &built);
        }
        let unit = dir
            .path()
            .join(format!("{name}.service").replace("@.", "@eu-west-1."));
        std::fs::write(&unit, text)?;
        units.push(unit);
    }
    assert_eq!(units.len(), 2);
    let Some(verified) = tried(
        tool("systemd-analyze", "HUBCAST_SYSTEMD_ANALYZE")
            .arg("verify")
            .args(&units),
    )?
    else {
        return Ok(());
    };
    let said = said(&verified);
    assert!(
        verified.status.success() && !said.contains("hubcast-"),
        "{said}"
    );
    Ok(())
}

/// What a program told systemd, of what comes within a moment.
fn told(socket: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    let mut bytes = [0; 512];
    while let Ok(length) = socket.recv(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        all.extend(text.lines().map(ToOwned::to_owned));
    }
    all
}

/// Waits until systemd was told this.
async fn hears(socket: &UnixDatagram, what: &str) -> Result<()> {
    until(&format!("{what} to be told"), WITHIN, || async {
        told(socket).iter().any(|line| line == what).then_some(())
    })
    .await
}

#[tokio::test]
async fn systemd_is_told_that_they_answer_live_and_stop() -> Result<()> {
    let mut stage = Stage::new(&["eu-west-1"]).await?;
    let path = stage.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    let path = path.display().to_string();
    let env = [
        ("NOTIFY_SOCKET", path.as_str()),
        ("WATCHDOG_USEC", "300000"),
    ];

    stage.hub.env = env
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    stage.hub.start().await?;
    // As the writer it goes on to live, and so it does once it stands by no more.
    for sign in ["READY=1", "WATCHDOG=1"] {
        hears(&socket, sign).await?;
    }
    crate::stage::shows(&stage.hub, "hubcast_publisher_is_writer", "", 1.0).await?;
    told(&socket);
    hears(&socket, "WATCHDOG=1").await?;
    stage.hub.stop().await?;
    hears(&socket, "STOPPING=1").await?;

    let agent = &mut stage.agents[0];
    agent.stop().await?;
    let mut command = agent.command()?;
    command.envs(env);
    agent.start_as(command).await?;
    for sign in ["READY=1", "WATCHDOG=1"] {
        hears(&socket, sign).await?;
    }
    agent.stop().await?;
    hears(&socket, "STOPPING=1").await
}

/// The variables of agents that a text sets.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let keys = words.filter_map(|word| word.strip_prefix("HUBCAST_AGENT_"));
    keys.map(str::to_ascii_lowercase).collect()
}

#[test]
fn every_variable_and_file_that_they_name_exists() -> Result<()> {
    let files = [
        "ops/compose.yaml",
        "ops/systemd/hubcast-agent@.service",
        "ops/kubernetes/region/kustomization.yaml",
        "ops/kubernetes/region/agent.yaml",
        "ops/kubernetes/sidecar/kustomization.yaml",
        "ops/kubernetes/sidecar/follower.yaml",
    ];
    for file in files {
        let command = match file.contains("/sidecar/") {
            true => "follow",
            false => "run",
        };
        let mut help = Command::new(program("spoke-agent")?);
        let help = said(&help.args([command, "--help"]).output()?);
        for key in variables(&read(file)?) {
            let flag = format!("--{}", key.replace('_', "-"));
            let is_there = |with: &str| help.contains(&format!("{flag}{with}"));
            assert!(
                is_there(" ") || is_there("["),
                "{file}: no agent has a key {key}"
            );
        }
    }
    let compose = read("ops/compose.yaml")?;
    let mounts = compose
        .split(['\'', ' ', '\n'])
        .filter_map(|word| word.strip_prefix("./"));
    let mounted: Vec<&str> = mounts.filter_map(|mount| mount.split(':').next()).collect();
    assert!(mounted.len() >= 5, "{mounted:?}");
    for path in mounted {
        assert!(
            root().join("ops").join(path).exists(),
            "ops/compose.yaml: {path}"
        );
    }
    // The hub of the sample takes all that is secret or differs from the environment.
    let sample = read("ops/sample/publisher-dynamodb.toml")?;
    for name in sample
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
    {
        let is_set = compose.contains(&format!("    {name}: ")) || name == "NAME";
        assert!(is_set, "ops/compose.yaml does not set {name}");
    }
    let ignore = read(".dockerignore")?;
    let kept = ignore.lines().filter_map(|line| line.strip_prefix('!'));
    for path in kept {
        assert!(root().join(path).exists(), ".dockerignore: {path}");
    }
    let cargo = read("Cargo.toml")?;
    let members = cargo.lines().find(|line| line.starts_with("members"));
    for member in members
        .into_iter()
        .flat_map(|line| line.split('"').skip(1).step_by(2))
    {
        let top = member.split('/').next().unwrap_or(member);
        assert!(
            ignore.contains(&format!("!{top}\n")),
            ".dockerignore leaves out {member}"
        );
    }
    Ok(())
}

/// They are files of their own because no configuration is made of two.
#[test]
fn what_the_files_of_the_sample_have_in_common_is_the_same() -> Result<()> {
    for (one, other, from) in [
        (
            "ops/sample/publisher.toml",
            "ops/sample/publisher-dynamodb.toml",
            "[[context]]",
        ),
        (
            "ops/examples/agent.toml",
            "ops/sample/agent.toml",
            "[[authorize]]",
        ),
    ] {
        let shared = |file| -> Result<String> {
            let text = read(file)?;
            let at = text.find(from).ok_or("nothing in common")?;
            Ok(text[at..].to_owned())
        };
        assert_eq!(shared(one)?, shared(other)?, "{one} and {other}");
    }
    Ok(())
}

#[test]
fn kubectl_takes_the_manifests() -> Result<()> {
    for part in ["hub", "region", "sidecar"] {
        let folder = format!("ops/kubernetes/{part}");
        let mut kubectl = tool("kubectl", "HUBCAST_KUBECTL");
        kubectl.args(["kustomize", &folder]).current_dir(root());
        let Some(output) = tried(&mut kubectl)? else {
            return Ok(());
        };
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        // Each container is hardened.
        let hardened = said.matches("readOnlyRootFilesystem: true").count();
        assert_eq!(hardened, said.matches(" image: ").count(), "{said}");
    }
    Ok(())
}

#[test]
fn the_configuration_of_the_hub_in_kubernetes_is_one() -> Result<()> {
    let mut check = Command::new(program("publisher")?);
    check.args([
        "--config",
        "ops/kubernetes/hub/publisher.toml",
        "migrate",
        "--print",
    ]);
    check.current_dir(root());
    // A database that is not there: what is wrong with the file would be said before.
    check.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    for name in ["HUBCAST_API_TOKEN", "HUBCAST_EU_TOKEN"] {
        check.env(name, "a-token-that-is-long-enough");
    }
    let output = check.output()?;
    assert_ne!(output.status.code(), Some(2), "{}", said(&output));
    Ok(())
}
