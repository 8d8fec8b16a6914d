//! `publisher certs`: a private CA, and what it signs for the hub and for the agents of each region. For development, and
//! for trying out what a real CA does later: the CA's key lies beside the certificates, unencrypted.
//!
//! It must never write over a file: whoever has the old one would be locked out.

use super::{Exit, Stop};
use clap::Args;
use contexts::name::Region;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// By what every program reaches one on its own machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clocks that differ by less do not matter.
const BEFORE: Duration = Duration::days(1);

#[derive(Debug, Args)]
pub(super) struct What {
    /// The folder; the CA that is in it already signs, if there is one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A region, and by which names and addresses the hub reaches its agents (may be given more than once)
    #[arg(long, value_name = "REGION[=HOST,..]", required = true)]
    region: Vec<String>,
    /// A name or address of the hub's API, beside localhost (may be given more than once)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// How long the certificates are good
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=825))]
    days: i64,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    files: Vec<PathBuf>,
    hub: String,
    agents: Vec<Agents>,
}

/// Of the agents of one region.
#[derive(Debug, Serialize)]
struct Agents {
    region: Region,
    spoke: String,
    agent: String,
}

/// A certificate and its key, as files.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn named(dir: &Path, name: &str) -> Self {
        Self {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        }
    }
}

pub(super) fn run(what: &What, json: bool) -> Result<Exit, Stop> {
    let regions = what.region.iter().map(|text| region(text));
    let regions = regions.collect::<Result<Vec<_>, _>>()?;
    std::fs::create_dir_all(&what.out)
        .map_err(|e| Stop::Failed(format!("--out {}: {e}", what.out.display())))?;
    // What is printed goes into files that are elsewhere.
    let dir = std::fs::canonicalize(&what.out)
        .map_err(|e| Stop::Failed(format!("--out {}: {e}", what.out.display())))?;
    let hub = Pair::named(&dir, "hub");
    let pair_of = |region: &Region| Pair::named(&dir, &format!("agents-{region}"));
    let ca = Pair::named(&dir, "ca");
    let is_new = !ca.cert.exists();
    let has_hub = !is_new && hub.cert.exists();
    let mut files = Vec::new();
    // All that would be in the way is found before anything is written.
    let mut wanted: Vec<Pair> = regions.iter().map(|(region, _)| pair_of(region)).collect();
    if !has_hub {
        wanted.push(Pair::named(&dir, "hub"));
    }
    if is_new {
        wanted.push(Pair::named(&dir, "ca"));
    }
    let in_the_way = wanted.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    if let Some(there) = in_the_way.into_iter().find(|path| path.exists()) {
        return Err(Stop::Usage(format!(
            "{} exists, and nothing is written over: name another folder, or move it away",
            there.display()
        )));
    }
    let issuer = match is_new {
        true => new_ca(&ca, what.days, &mut files)?,
        false => old_ca(&ca)?,
    };
    if !has_hub {
        issue(
            &issuer,
            &hub,
            "hubcast hub",
            &what.host,
            what.days,
            &mut files,
        )?;
    }
    for (region, hosts) in &regions {
        let name = format!("hubcast agents of {region}");
        issue(
            &issuer,
            &pair_of(region),
            &name,
            hosts,
            what.days,
            &mut files,
        )?;
    }
    let agents = regions.iter().map(|(region, hosts)| Agents {
        region: region.clone(),
        spoke: spoke_lines(region, hosts),
        agent: agent_lines(&ca, &pair_of(region)),
    });
    let made = Made {
        files,
        hub: hub_lines(&ca, &hub),
        agents: agents.collect(),
    };
    let text = match json {
        true => serde_json::to_string_pretty(&made).map_err(|e| Stop::Failed(e.to_string()))?,
        false => text(&made, what.days),
    };
    // A reader that went away is no trouble of ours.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(Exit::Done)
}

fn region(text: &str) -> Result<(Region, Vec<String>), Stop> {
    let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
    let region = Region::new(name).map_err(|e| Stop::Usage(format!("--region: {e}")))?;
    let hosts = hosts
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty());
    Ok((region, hosts.map(ToOwned::to_owned).collect()))
}

fn failed(e: &rcgen::Error) -> Stop {
    Stop::Failed(format!("no certificate can be made: {e}"))
}

fn params(name: &str, hosts: Vec<String>, days: i64) -> Result<CertificateParams, Stop> {
    let bad = |e: rcgen::Error| Stop::Usage(format!("a host cannot be in a certificate: {e}"));
    let mut params = CertificateParams::new(hosts).map_err(bad)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BEFORE, now + Duration::days(days));
    Ok(params)
}

fn new_ca(
    ca: &Pair,
    days: i64,
    files: &mut Vec<PathBuf>,
) -> Result<Issuer<'static, KeyPair>, Stop> {
    let mut params = params("hubcast development CA", Vec::new(), days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|e| failed(&e))?;
    let pem = key.serialize_pem();
    let made = CertifiedIssuer::self_signed(params, key).map_err(|e| failed(&e))?;
    write_pair(ca, &made.pem(), &pem, files)?;
    old_ca(ca)
}

/// The CA that is in the folder.
fn old_ca(ca: &Pair) -> Result<Issuer<'static, KeyPair>, Stop> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))
    };
    let bad = |path: &Path| {
        // Nothing of a key may be shown.
        Stop::Failed(format!(
            "{}: it is none that this command made",
            path.display()
        ))
    };
    let key = KeyPair::from_pem(&read(&ca.key)?).map_err(|_| bad(&ca.key))?;
    Issuer::from_ca_cert_pem(&read(&ca.cert)?, key).map_err(|_| bad(&ca.cert))
}

/// One certificate for both sides of a connection: the hub calls agents and is called by job services, and agents of a
/// region call each other.
fn issue(
    issuer: &Issuer<'_, KeyPair>,
    pair: &Pair,
    name: &str,
    hosts: &[String],
    days: i64,
    files: &mut Vec<PathBuf>,
) -> Result<(), Stop> {
    let local = LOCAL.iter().map(|&host| host.to_owned());
    let mut params = params(name, hosts.iter().cloned().chain(local).collect(), days)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(|e| failed(&e))?;
    let certificate = params.signed_by(&key, issuer).map_err(|e| failed(&e))?;
    write_pair(pair, &certificate.pem(), &key.serialize_pem(), files)
}

fn write_pair(pair: &Pair, cert: &str, key: &str, files: &mut Vec<PathBuf>) -> Result<(), Stop> {
    for (path, mode, text) in [(&pair.key, 0o600, key), (&pair.cert, 0o644, cert)] {
        let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", path.display()));
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(mode);
        let mut file = options.open(path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        files.push(path.clone());
    }
    Ok(())
}

/// A path as a text of TOML.
fn toml(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}

fn hub_lines(ca: &Pair, hub: &Pair) -> String {
    let (ca, cert, key) = (toml(&ca.cert), toml(&hub.cert), toml(&hub.key));
    format!(
        "[hub]\ntls = {{ cert = {cert}, key = {key} }}\n\
         spoke_tls = {{ ca = {ca}, cert = {cert}, key = {key} }}\n"
    )
}

fn spoke_lines(region: &Region, hosts: &[String]) -> String {
    let host = |host: &String| match host.contains(':') {
        true => format!("\"https://[{host}]:7511\""),
        false => format!("\"https://{host}:7511\""),
    };
    let urls: Vec<String> = hosts.iter().map(host).collect();
    let urls = match urls.is_empty() {
        true => "\"https://127.0.0.1:7511\"".to_owned(),
        false => urls.join(", "),
    };
    format!("[[spoke]]\nregion = \"{region}\"\nagents = [{urls}]\n")
}

fn agent_lines(ca: &Pair, agents: &Pair) -> String {
    let (ca, cert, key) = (toml(&ca.cert), toml(&agents.cert), toml(&agents.key));
    format!(
        "push_cert = {cert}\npush_key = {key}\npush_client_ca = {ca}\n\
         # if gateways read over TCP:\nread_cert = {cert}\nread_key = {key}\n"
    )
}

fn text(made: &Made, days: i64) -> String {
    let mut out = String::new();
    for file in &made.files {
        out += &format!("wrote {}\n", file.display());
    }
    out += &format!("\n# publisher.toml\n{}", made.hub);
    for agents in &made.agents {
        out += &format!("\n{}", agents.spoke);
    }
    for agents in &made.agents {
        out += &format!("\n# agent.toml of {}\n{}", agents.region, agents.agent);
    }
    out += &format!(
        "\nFor development: they are good for {days} days, and whoever has ca-key.pem can make more. In production take them \
         from a CA that renews them, such as cert-manager, step-ca or Vault; replaced files are taken without a restart.\n"
    );
    out
}
