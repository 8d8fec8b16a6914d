//! `publisher init`: a first configuration for tables of the user's own, for one agent on this machine, and what to do next.
//!
//! It must never write over a file that is there unless that was said, never change the database, and never put a secret
//! into the configuration: tokens go into files of their own, which only their owner can read.

use super::{Context, Exit, Global, Stop, check};
use crate::source::Source;
use crate::{config, draft};
use contexts::name::Region;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The variable with the address of the database.
const DATABASE: &str = "DATABASE_URL";

/// What is to be published.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// A table; may be given more than once
    #[arg(long = "table", value_name = "TABLE", required = true)]
    tables: Vec<String>,
    /// The primary; the configuration will take it from the variable
    #[arg(long, env = DATABASE, value_name = "URL", hide_env_values = true)]
    database_url: SecretString,
    /// The first region
    #[arg(long, default_value = "local")]
    region: String,
    /// Write over files that are there (but never over tokens)
    #[arg(long)]
    force: bool,
}

/// The files that are written.
struct Files {
    config: PathBuf,
    agent: PathBuf,
    api_token: PathBuf,
    push_token: PathBuf,
}

impl Files {
    fn beside(config: &Path, region: &Region) -> Self {
        let beside = |name: String| config.with_file_name(name);
        Self {
            config: config.to_owned(),
            agent: beside(format!("agent-{region}.toml")),
            api_token: beside("hubcast-api.token".into()),
            push_token: beside(format!("hubcast-{region}.token")),
        }
    }
}

pub(super) async fn run(global: &Global, what: &What) -> Result<Exit, Stop> {
    let usage = |e: &dyn std::fmt::Display| Stop::Usage(e.to_string());
    let region = Region::new(&what.region).map_err(|e| usage(&e))?;
    let files = Files::beside(&global.config, &region);
    for file in [&files.config, &files.agent] {
        if file.exists() && !what.force {
            return Err(Stop::Usage(format!(
                "{} is there already: name another with --config, or write over it with --force",
                file.display()
            )));
        }
    }
    let source = Source::new("--database-url", &what.database_url).map_err(|e| usage(&e))?;
    source.ping().await?;
    let contexts = contexts(&source, &what.tables).await?;
    let folder = std::path::absolute(&files.config).map_err(|e| usage(&e))?;
    let folder = folder.parent().unwrap_or(Path::new(".")).to_owned();
    token(&files.api_token)?;
    token(&files.push_token)?;
    written(&files.config, &hub(&files, &region, &contexts))?;
    written(&files.agent, &agent(&files, &folder, &region))?;
    eprintln!(
        "written: {} and {}",
        files.config.display(),
        files.agent.display()
    );
    checked(global, what, &files).await?;
    if !global.json {
        super::print(false, &(), || next(global, what, &files, &contexts))?;
    }
    Ok(Exit::Done)
}

/// Looks at the tables.
async fn contexts(source: &Source, tables: &[String]) -> Result<Vec<draft::Context>, Stop> {
    let (mut contexts, mut taken) = (Vec::new(), BTreeSet::new());
    for name in tables {
        let Some(table) = source.inspect(name).await? else {
            let some = source.some_tables().await?;
            return Err(Stop::Usage(format!(
                "--table: there is no table {name:?} for this role; there are: {some}"
            )));
        };
        let context = draft::context(&table, &taken).map_err(|e| Stop::Usage(e.to_string()))?;
        taken.insert(context.kind.clone());
        contexts.push(context);
    }
    Ok(contexts)
}

fn hub(files: &Files, region: &Region, contexts: &[draft::Context]) -> String {
    let name = |file: &Path| {
        file.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let (api, push) = (name(&files.api_token), name(&files.push_token));
    let mut text = format!(
        "# Written by `publisher init`, for you to change; `publisher check` says whether it can be used.
[hub]
database_url = \"${{{DATABASE}}}\"                # the primary: a role that may read the tables below
# migrate_url  = \"${{ADMIN_URL}}\"               # a role that may create the schema `hubcast` and triggers, if that is another
listen       = \"127.0.0.1:7400\"                # the console and the API; elsewhere than on loopback they need `tls`
api_token    = \"${{file:{api}}}\"   # ${{file:..}} is what a file has, ${{NAME}} a variable
scan         = \"0 */10 * * * *\"                # everything is compared every ten minutes (cron with seconds, UTC)

[[spoke]]                                      # one for each region
region = \"{region}\"
agents = [\"http://127.0.0.1:7511\"]             # another machine needs https: `publisher certs` makes a set to begin with
token  = \"${{file:{push}}}\"
"
    );
    let types: BTreeSet<&str> = contexts.iter().map(|c| c.tenant_type.as_str()).collect();
    for context in contexts {
        text.push('\n');
        text += &context.toml(types.len() > 1);
    }
    text
}

fn agent(files: &Files, folder: &Path, region: &Region) -> String {
    let push = files.push_token.file_name().unwrap_or_default();
    let token = format!("${{file:{}}}", folder.join(push).display());
    let data = folder.join(format!("{region}.redb"));
    let short = |text: &str| toml::Value::String(text.to_owned());
    format!(
        "# Written by `publisher init`: an agent of region {region} on this machine.
region      = \"{region}\"
data        = {}
push_listen = \"127.0.0.1:7511\"   # the hub writes here
push_token  = {}
read_listen = \"127.0.0.1:7521\"   # gateways read here
",
        short(&data.display().to_string()),
        short(&token)
    )
}

fn written(file: &Path, text: &str) -> Result<(), Stop> {
    let written = std::fs::write(file, text);
    written.map_err(|e| Stop::Failed(format!("{} cannot be written: {e}", file.display())))
}

/// A token of its own; one that is there stays, since somebody may use it.
fn token(file: &Path) -> Result<(), Stop> {
    let failed = |e: &dyn std::fmt::Display| {
        Stop::Failed(format!("{} cannot be written: {e}", file.display()))
    };
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|e| failed(&e))?;
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    let mut new = OpenOptions::new();
    match new.write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut opened) => writeln!(opened, "{text}").map_err(|e| failed(&e)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(&e)),
    }
}

/// Runs `check` on what was written. That no agent runs yet is no reason to stop.
async fn checked(global: &Global, what: &What, files: &Files) -> Result<(), Stop> {
    let unread = |e: std::io::Error| Stop::Failed(format!("{}: {e}", files.config.display()));
    let text = std::fs::read_to_string(&files.config).map_err(unread)?;
    let variable = |name: &str| match name {
        DATABASE => Some(what.database_url.expose_secret().to_owned()),
        name => std::env::var(name).ok(),
    };
    let config = config::parse(&files.config, &text, &variable, global.insecure);
    let context = Context::of(config, global).await?;
    check::run(&context).await.map(drop)
}

/// What to type next.
fn next(global: &Global, what: &What, files: &Files, contexts: &[draft::Context]) -> String {
    let mut lines = String::new();
    let config = match global.config == Path::new("publisher.toml") {
        true => String::new(),
        false => format!(" --config {}", files.config.display()),
    };
    let kind = contexts.first().map_or("KIND", |c| c.kind.as_str());
    let _ = write!(
        lines,
        "\nnext ({DATABASE} must be set for the publisher):\n  \
         spoke-agent run --config {} &\n  \
         publisher migrate{config}\n  \
         publisher run{config} &\n  \
         curl -i http://127.0.0.1:7521/v1/contexts/{kind}/KEY\n\
         the console is http://127.0.0.1:7400, its token is in {}",
        files.agent.display(),
        files.api_token.display(),
    );
    if what.region == "local" {
        lines += "\nregion \"local\" is a name to begin with; each further region is a [[spoke]] and an agent there";
    }
    lines
}
