//! Between hub and region across the internet: both sides show certificates, which are replaced while everything runs;
//! one that is wrong or has expired stops pushes, never reads.

use crate::kill_points::number;
use crate::truth::Truth;
use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, COUNTERS, HEALS_WITHIN, World, settles};
use contexts::push::{Hello, encode};
use reqwest::{Client, StatusCode};
use std::process::Command;
use std::time::Duration;
use system_tests::certificates::Certificates;
use system_tests::hub::Hub;
use system_tests::process::{Process, program};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, free_port, until};
use time::Duration as Days;

const REGION: &str = "eu-west-1";
/// What the hub logs of a store that it loses.
const LOST: &str = "the store cannot be used for now";

/// A hub and an agent that run and show each other certificates.
pub async fn world() -> Result<(World, Certificates)> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(COUNTERS).await?;
    let fill = "INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 5) AS g";
    database.execute(fill).await?;
    let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
    let certificates = Certificates::new(&dir.path().join("certs"), &[REGION])?;
    let mut agent = Agent::new(dir.path(), REGION)?;
    agent.scheme = "https";
    let mut command = agent.command()?;
    command.args(certificates.push_flags(REGION));
    agent.start_as(command).await?;
    let mut hub = Hub::new(dir.path(), &database.url, &[&agent], COUNTER_CONTEXTS)?;
    hub.configure(&certificates.hub_line())?;
    hub.run(&["migrate"]).await?.ok()?;
    hub.run(&["check"]).await?.ok()?;
    hub.start().await?;
    settles(&hub).await?;
    let world = World {
        hub,
        agents: vec![agent],
        database,
        server,
        truth: Truth::new(COUNTER_TRUTH),
        contexts: COUNTER_CONTEXTS.to_owned(),
        dir,
    };
    Ok((world, certificates))
}

/// Changes a tenant and waits until the region has that.
async fn a_change_arrives(world: &World, n: i64) -> Result<()> {
    change(world, n).await?;
    until("the change to arrive", HEALS_WITHIN, || async {
        (number(&world.agents[0], "t1").await.ok()? == Some(n)).then_some(())
    })
    .await
}

async fn change(world: &World, n: i64) -> Result<()> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await
}

/// A metric of the agent: the sum over all lines with this label.
async fn of_agent(agent: &Agent, name: &str, label: &str) -> Result<f64> {
    let text = agent.client().get(agent.url("/metrics")).send().await?;
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{')?;
        let wanted = found == name && labels.contains(label);
        wanted.then(|| value.parse::<f64>().ok()).flatten()
    };
    Ok(text.text().await?.lines().filter_map(value).sum())
}

async fn hello(client: &Client, agent: &Agent, scheme: &str, token: &str) -> Result<StatusCode> {
    let url = format!("{scheme}://127.0.0.1:{}/push/v1/hello", agent.push);
    let request = client.post(url).bearer_auth(token).body(encode(&Hello)?);
    Ok(request.send().await?.status())
}

const EXPIRES: &str = "certificate_expires_timestamp_seconds";

/// Waits until both sides have taken certificates that expire at other times than these.
async fn both_took(world: &World, hub: f64, agent: f64) -> Result<()> {
    until("the certificates to be taken", HEALS_WITHIN, || async {
        let now = (
            world
                .hub
                .metric(&format!("hubcast_publisher_{EXPIRES}"), "")
                .await
                .ok()?,
            of_agent(
                &world.agents[0],
                &format!("hubcast_agent_{EXPIRES}"),
                "push",
            )
            .await
            .ok()?,
        );
        (now.0 != hub && now.1 != agent).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates_and_take_new_ones_without_a_restart() -> Result<()> {
    let (mut world, certificates) = world().await?;
    a_change_arrives(&world, 2).await?;
    let token = world.agents[0].token.clone();

    // The token alone is not enough.
    let good = certificates.client(Some((&certificates, "hub")))?;
    assert_eq!(hello(&good, &world.agents[0], "https", &token).await?, 200);
    assert_eq!(hello(&good, &world.agents[0], "https", "wrong").await?, 401);
    let others = Certificates::new(&world.dir.path().join("others"), &[REGION])?;
    let nobody = certificates.client(None)?;
    let stranger = certificates.client(Some((&others, "hub")))?;
    for _ in 0..3 {
        for client in [&nobody, &stranger] {
            let refused = hello(client, &world.agents[0], "https", &token).await;
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    assert!(
        hello(&good, &world.agents[0], "http", &token)
            .await
            .is_err()
    );
    for (reason, times) in [
        ("no_certificate", 3.0),
        ("unknown_ca", 3.0),
        ("not_tls", 1.0),
    ] {
        let metric = "hubcast_agent_tls_refused_total";
        let label = format!("reason=\"{reason}\"");
        let counted = of_agent(&world.agents[0], metric, &label).await?;
        assert!(counted >= times, "{reason}: {counted}");
        let log = world.agents[0].process()?.log();
        let said = log.lines().filter(|line| line.contains(reason));
        assert_eq!(said.count(), 1, "{log}");
    }
    // And who is not of this CA is not the agent.
    let deceived = others.client(Some((&certificates, "hub")))?;
    assert!(
        hello(&deceived, &world.agents[0], "https", &token)
            .await
            .is_err()
    );

    // New ones of the same CA, and nobody notices.
    let hub = world
        .hub
        .metric(&format!("hubcast_publisher_{EXPIRES}"), "")
        .await?;
    let agent = of_agent(
        &world.agents[0],
        &format!("hubcast_agent_{EXPIRES}"),
        "push",
    )
    .await?;
    assert!(hub > 0.0 && agent > 0.0);
    certificates.renew("hub", Days::days(30))?;
    certificates.renew(&format!("agents-{REGION}"), Days::days(30))?;
    both_took(&world, hub, agent).await?;
    a_change_arrives(&world, 3).await?;
    let log = world.hub.daemon()?.log();
    assert!(!log.contains(LOST), "{log}");

    // Another CA altogether: whoever the old one signed is nobody from then on.
    for name in ["ca", "ca-key", "hub", "hub-key"] {
        std::fs::copy(others.file(name), certificates.file(name))?;
    }
    for name in [format!("agents-{REGION}-key"), format!("agents-{REGION}")] {
        std::fs::copy(others.file(&name), certificates.file(&name))?;
    }
    until(
        "the old certificate to be refused",
        HEALS_WITHIN,
        || async { hello(&good, &world.agents[0], "https", &token).await.err() },
    )
    .await?;
    a_change_arrives(&world, 4).await?;
    world.is_true().await?;

    // Agents of the region show each other theirs.
    world.hub.stop().await?;
    let mut second = Agent::new(world.dir.path(), REGION)?;
    let mut command = second.command()?;
    command.args(certificates.push_flags(REGION));
    command.env("HUBCAST_AGENT_PUSH_TOKEN", &token);
    command.env("HUBCAST_AGENT_PEERS", world.agents[0].push_url());
    second.start_as(command).await?;
    until("the second agent to be filled", HEALS_WITHIN, || async {
        (number(&second, "t1").await.ok()? == Some(4)).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_stops_pushes_once_and_never_reads() -> Result<()> {
    let (mut world, certificates) = world().await?;
    a_change_arrives(&world, 2).await?;
    let before = world
        .hub
        .metric(&format!("hubcast_publisher_{EXPIRES}"), "")
        .await?;
    // It is taken while it is good, and expires on connections that are kept.
    certificates.renew("hub", Days::seconds(8))?;
    until("the certificate to be taken", HEALS_WITHIN, || async {
        let now = world
            .hub
            .metric(&format!("hubcast_publisher_{EXPIRES}"), "")
            .await
            .ok()?;
        (now < before).then_some(())
    })
    .await?;
    let metric = "hubcast_agent_tls_refused_total";
    until("several refusals", HEALS_WITHIN, || async {
        let refused = of_agent(&world.agents[0], metric, "reason=\"expired\"")
            .await
            .ok()?;
        (refused >= 3.0).then_some(())
    })
    .await?;
    until("the hub to say so", HEALS_WITHIN, || async {
        let status = world.hub.status().await.ok()?;
        (status["engine"]["stores"][0]["standing"] == "unreachable").then_some(())
    })
    .await?;
    change(&world, 3).await?;
    let shown = world.hub.run(&["status"]).await?;
    let words = "it refuses our certificate as expired";
    assert!(shown.code == 1 && shown.stdout.contains(words), "{shown:?}");
    // Reads know nothing of it.
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2));
    let log = world.hub.daemon()?.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(LOST)).collect();
    assert!(said.len() == 1 && said[0].contains(words), "{log}");
    let agents = world.agents[0].process()?.log();
    let said = agents
        .lines()
        .filter(|line| line.contains("reason=\"expired\""));
    assert_eq!(said.count(), 1, "{agents}");

    certificates.renew("hub", Days::days(30))?;
    world.becomes_true().await?;

    // The same on the other side.
    let agent = format!("agents-{REGION}");
    certificates.renew(&agent, Days::seconds(6))?;
    until(
        "the agent's certificate to be refused",
        HEALS_WITHIN,
        || async {
            let status = world.hub.status().await.ok()?;
            let failure = status["engine"]["stores"][0]["failure"].as_str()?;
            failure
                .contains("its certificate has expired")
                .then_some(())
        },
    )
    .await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(3));
    certificates.renew(&agent, Days::days(30))?;
    // Which needs the new one.
    a_change_arrives(&world, 4).await?;

    // Files that cannot be used stop nothing while there are good ones, and after a restart no reads.
    std::fs::write(certificates.file(&agent), "no certificate")?;
    until("the agent to see that", HEALS_WITHIN, || async {
        let metric = "hubcast_agent_certificate_stuck";
        (of_agent(&world.agents[0], metric, "push").await.ok()? == 1.0).then_some(())
    })
    .await?;
    a_change_arrives(&world, 5).await?;
    world.agents[0].stop().await?;
    let mut command = world.agents[0].command()?;
    command.args(certificates.push_flags(REGION));
    world.agents[0].start_as(command).await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(5));
    certificates.renew(&agent, Days::days(30))?;
    a_change_arrives(&world, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_goes_over_to_tls_with_what_it_holds() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &[REGION], 3).await?;
    world.runs().await?;
    a_change_arrives(&world, 2).await?;
    world.hub.stop().await?;
    let certificates = Certificates::new(&world.dir.path().join("certs"), &[REGION])?;
    let plain = world.agents[0].push_url();
    let agent = &mut world.agents[0];
    agent.stop().await?;
    agent.scheme = "https";
    let mut command = agent.command()?;
    command.args(certificates.push_flags(REGION));
    agent.start_as(command).await?;
    let unready = world.hub.run(&["check"]).await?;
    assert!(
        unready.code == 1 && unready.stdout.contains("https"),
        "{unready:?}"
    );
    let text = std::fs::read_to_string(&world.hub.config)?;
    let text = text.replace(&plain, &world.agents[0].push_url());
    std::fs::write(&world.hub.config, text)?;
    world.hub.configure(&certificates.hub_line())?;
    world.hub.run(&["migrate"]).await?.ok()?;
    world.hub.run(&["check"]).await?.ok()?;
    world.hub.start().await?;
    a_change_arrives(&world, 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_while_both_are_good() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &[REGION], 3).await?;
    world.runs().await?;
    let (old, new) = (world.agents[0].token.clone(), "the-new-token");
    // The agent learns the new one, then the hub goes over, then the agent forgets the old one.
    world.agents[0].stop().await?;
    let mut command = world.agents[0].command()?;
    command.env("HUBCAST_AGENT_PUSH_TOKEN_NEXT", new);
    world.agents[0].start_as(command).await?;
    a_change_arrives(&world, 2).await?;
    world.hub.stop().await?;
    let text = std::fs::read_to_string(&world.hub.config)?;
    std::fs::write(&world.hub.config, text.replace(&old, new))?;
    world.hub.start().await?;
    a_change_arrives(&world, 3).await?;
    world.agents[0].stop().await?;
    new.clone_into(&mut world.agents[0].token);
    world.agents[0].start().await?;
    a_change_arrives(&world, 4).await?;
    let client = world.agents[0].client().clone();
    assert_eq!(hello(&client, &world.agents[0], "http", &old).await?, 401);
    assert_eq!(hello(&client, &world.agents[0], "http", new).await?, 200);
    let log = world.hub.daemon()?.log();
    assert!(!log.contains("refuses the token"), "{log}");
    Ok(())
}

/// Waits until something answers.
async fn answers(client: &Client, url: &str, process: &mut Process) -> Result<()> {
    let answering = until(url, Duration::from_secs(30), || async {
        client.get(url).send().await.ok().map(drop)
    });
    answering
        .await
        .map_err(|e| format!("{e}: {}", process.log()).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_read_encrypted_and_the_agents_own_commands_know_its_certificate() -> Result<()> {
    use spoke_agent::reader::remote::{Remote, RemoteConfig};
    use spoke_agent::reader::{Answer, ContextReader, Options};
    let dir = tempfile::tempdir()?;
    let certificates = Certificates::new(&dir.path().join("certs"), &[REGION])?;
    let agent = Agent::new(dir.path(), REGION)?;
    let identity = certificates.identity(&format!("agents-{REGION}"));
    let listen = format!("127.0.0.1:{}", agent.read);
    let env = |command: &mut Command| {
        command
            .env("HUBCAST_AGENT_READ_LISTEN", &listen)
            .env("HUBCAST_AGENT_READ_CERT", &identity.cert)
            .env("HUBCAST_AGENT_READ_KEY", &identity.key);
    };
    let mut command = agent.command()?;
    env(&mut command);
    let mut process = Process::start(command, &dir.path().join("log"))?;
    let client = certificates.client(None)?;
    let url = format!("https://{listen}");
    answers(&client, &format!("{url}/healthz"), &mut process).await?;
    assert!(
        agent.get("counter", "t1").await.is_err(),
        "plain HTTP is refused"
    );

    let mut stats = Command::new(program("spoke-agent")?);
    env(&mut stats);
    let stats = stats.args(["stats", "--json"]).output()?;
    assert!(stats.status.success(), "{stats:?}");

    let reads = |ca| {
        let mut config = RemoteConfig::new([url.clone()]);
        (config.ca, config.timeout) = (ca, Duration::from_secs(5));
        Remote::connect(config, Options::default())
    };
    let trusting = reads(Some(certificates.file("ca")))?;
    let reply = trusting.get("counter", "t1").await;
    assert!(matches!(reply.answer, Answer::NotReady), "{reply:?}");
    let reply = reads(None)?.get("counter", "t1").await;
    assert!(matches!(reply.answer, Answer::Unreachable(_)), "{reply:?}");

    let script = "import sys, hubcast\n\
        def ask(ca):\n    hubcast.Reader(sys.argv[1], ca=ca, timeout=5).get('counter', 't1')\n\
        for ca, error in ((sys.argv[2], hubcast.NotReady), (None, hubcast.Unreachable)):\n    \
            try:\n        ask(ca)\n    except error:\n        continue\n    sys.exit('no %s' % error)\n";
    let mut python = Command::new("python3");
    python
        .args(["-c", script, &url])
        .arg(certificates.file("ca"));
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/clients/python");
    let ran = python
        .env("PYTHONPATH", clients)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    assert!(ran.status.success(), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_encrypted_and_its_cookie_is_never_sent_otherwise() -> Result<()> {
    let world = World::with_counters(Server::any().await?, &[REGION], 3).await?;
    let certificates = Certificates::new(&world.dir.path().join("certs"), &[REGION])?;
    let identity = certificates.identity("hub");
    let (cert, key) = (&identity.cert, &identity.key);
    world
        .hub
        .configure(&format!("tls = {{ cert = {cert:?}, key = {key:?} }}"))?;
    world.hub.run(&["check"]).await?.ok()?;
    let mut command = Command::new(program("publisher")?);
    command.arg("run").env("HUBCAST_CONFIG", &world.hub.config);
    let mut process = Process::start(command, &world.dir.path().join("hub.log"))?;
    let client = certificates.client(None)?;
    let url = |path: &str| world.hub.url(path).replace("http:", "https:");
    answers(&client, &url("/healthz"), &mut process).await?;
    assert!(world.hub.status().await.is_err(), "plain HTTP is refused");
    let shown = serde_json::json!({ "token": world.hub.token });
    let signed = client
        .post(url("/console/sign-in"))
        .json(&shown)
        .send()
        .await?;
    let cookie = signed.headers()["set-cookie"].to_str()?.to_owned();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    // The command finds the daemon by its configuration.
    until("status to come from the daemon", HEALS_WITHIN, || async {
        let status = world
            .hub
            .run(&["status", "--json"])
            .await
            .ok()?
            .json()
            .ok()?;
        (!status["engine"].is_null()).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_off_loopback_has_to_be_asked_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut agent = Agent::new(dir.path(), REGION)?;
    let open = |agent: &Agent| -> Result<Command> {
        let mut command = agent.command()?;
        command.env(
            "HUBCAST_AGENT_PUSH_LISTEN",
            format!("0.0.0.0:{}", agent.push),
        );
        // The flag that is there would override it.
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = words.iter().position(|word| word == "--push-listen");
        let at = at.ok_or("no --push-listen")?;
        let mut other = Command::new(command.get_program());
        other.args(&words[..at]).args(&words[at + 2..]);
        other.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        Ok(other)
    };
    let refused = open(&agent)?.output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("HUBCAST_AGENT_PUSH_LISTEN: push_listen is 0.0.0.0"),
        "{said}"
    );
    assert!(
        said.contains("push_cert") && said.contains("insecure"),
        "{said}"
    );
    let mut asked = open(&agent)?;
    asked.arg("--insecure");
    agent.start_as(asked).await?;
    agent.stop().await?;

    agent.push = free_port()?;
    let hub = Hub::new(
        dir.path(),
        "postgres://127.0.0.1:1/none",
        &[&agent],
        COUNTER_CONTEXTS,
    )?;
    let text = std::fs::read_to_string(&hub.config)?;
    std::fs::write(
        &hub.config,
        text.replace("http://127.0.0.1", "http://10.255.0.7"),
    )?;
    let refused = hub.run(&["check"]).await?;
    assert!(
        refused.code == 2 && refused.stderr.contains("hub.insecure"),
        "{refused:?}"
    );
    let line = "publisher-";
    assert!(
        refused.stderr.contains(line) && refused.stderr.contains(":8: spoke[0].agents"),
        "{refused:?}"
    );
    let asked = hub.run(&["--insecure", "check"]).await?;
    assert_eq!(asked.code, 1, "it looks for the database then: {asked:?}");
    Ok(())
}

#[test]
fn certs_writes_over_nothing_and_a_ca_goes_on_to_sign() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let certs = |regions: &[&str]| Certificates::new(dir.path(), regions);
    let set = certs(&["eu-west-1=10.1.0.7,agent.example"])?;
    for key in ["ca-key", "hub-key", "agents-eu-west-1-key"] {
        let mode = std::fs::metadata(set.file(key))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = std::fs::read(set.file("hub"))?;
    let refused = certs(&["us-east-1", "eu-west-1"]).expect_err("it exists");
    assert!(
        refused.to_string().contains("nothing is written over"),
        "{refused}"
    );
    assert!(!set.file("agents-us-east-1").exists(), "not even the rest");
    certs(&["us-east-1"])?;
    assert_eq!(std::fs::read(set.file("hub"))?, before);
    set.client(Some((&set, "agents-us-east-1")))?;
    Ok(())
}
