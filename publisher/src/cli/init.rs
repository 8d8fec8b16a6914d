//! `publisher init`: a first configuration for tables of the user's own, for one agent on this machine, and what to do next.
//!
//! It must never write over a file that is there unless that was said, never change the database, and never put a secret
//! into the configuration: tokens go into files of their own, which only their owner can read.

mod next;

use super::{Context, Exit, Global, Stop, check};
use crate::draft::columns::First;
use crate::draft::example::Example;
use crate::draft::owner::{HOPS, Known};
use crate::source::Source;
use crate::source::inspect::Table;
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
/// The name of a region to begin with.
const LOCAL: &str = "local";
/// Characters of a name of a region in a row that are shown.
const NAME_MAX: usize = 64;

/// What is to be published.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// A table; may be given more than once
    #[arg(long = "table", value_name = "TABLE", required = true)]
    tables: Vec<String>,
    /// The primary; the configuration will take it from the variable
    #[arg(long, env = DATABASE, value_name = "URL", hide_env_values = true)]
    database_url: SecretString,
    /// The first region, as rows name it if they do [default: local]
    #[arg(long)]
    region: Option<String>,
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
    let first = First {
        region: Region::new(what.region.as_deref().unwrap_or(LOCAL)).map_err(|e| usage(&e))?,
        is_named: what.region.is_some(),
    };
    let region = &first.region;
    let files = Files::beside(&global.config, region);
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
    let (tables, known) = look(&source, &what.tables).await?;
    let contexts = contexts(&source, &tables, &known, &first).await?;
    let folder = std::path::absolute(&files.config).map_err(|e| usage(&e))?;
    let folder = folder.parent().unwrap_or(Path::new(".")).to_owned();
    token(&files.api_token)?;
    token(&files.push_token)?;
    written(&files.config, &hub(&files, region, &contexts))?;
    written(&files.agent, &agent(&files, &folder, region))?;
    eprintln!(
        "written: {} and {}",
        files.config.display(),
        files.agent.display()
    );
    checked(global, what, &files).await?;
    if !global.json {
        let tried = next::Tried {
            files: &files,
            first: &first,
            contexts: &contexts,
            example: example(&source, &tables, &contexts, region).await,
            is_config_default: global.config == Path::new("publisher.toml"),
            is_database_set: std::env::var_os(DATABASE).is_some(),
        };
        super::print(false, &(), || tried.lines())?;
    }
    Ok(Exit::Done)
}

/// Looks at the tables, and at those to which their references lead.
async fn look(source: &Source, names: &[String]) -> Result<(Vec<Table>, Known), Stop> {
    let (mut tables, mut known) = (Vec::<Table>::new(), Known::new());
    for name in names {
        let Some(table) = source.inspect(name).await? else {
            let some = source.some_tables().await?;
            return Err(Stop::Usage(format!(
                "--table: there is no table {name:?} for this role; there are: {some}"
            )));
        };
        if !tables.iter().any(|t| t.name == table.name) {
            tables.push(table);
        }
    }
    let mut wanted: BTreeSet<String> = tables.iter().map(|t| t.name.clone()).collect();
    for _ in 0..=HOPS {
        let mut next = BTreeSet::new();
        for name in wanted {
            if let Some(table) = source.inspect(&name).await? {
                next.extend(table.references.iter().map(|r| r.to.clone()));
                known.insert(name, table);
            }
        }
        next.retain(|name| !known.contains_key(name));
        wanted = next;
    }
    Ok((tables, known))
}

async fn contexts(
    source: &Source,
    tables: &[Table],
    known: &Known,
    first: &First,
) -> Result<Vec<draft::Context>, Stop> {
    let (mut contexts, mut taken) = (Vec::new(), BTreeSet::new());
    for table in tables {
        let mut named = Vec::new();
        if let Some(column) = draft::columns::regions(table) {
            named = source.region_names(&table.name, &column.quoted).await?;
            named.iter_mut().for_each(shorten);
        }
        let context = draft::context(table, known, &taken, first, &named);
        let context = context.map_err(|e| Stop::Usage(e.to_string()))?;
        taken.insert(context.kind.clone());
        contexts.push(context);
    }
    let mut small = BTreeSet::new();
    for table in draft::types::outsiders(&contexts) {
        if source.has_at_most(&table, draft::types::SMALL).await? {
            small.insert(table);
        }
    }
    draft::types::agree(&mut contexts, &small);
    Ok(contexts)
}

/// Makes a text of somebody's row one that can be shown.
fn shorten(name: &mut String) {
    let shown = name.chars().filter(|c| !c.is_control()).take(NAME_MAX);
    *name = shown.collect();
}

/// A row to try it with: of the first table that has one, preferably one that can be changed. What cannot be found out is
/// no reason to stop.
async fn example<'a>(
    source: &Source,
    tables: &[Table],
    contexts: &'a [draft::Context],
    region: &Region,
) -> Option<(&'a draft::Context, Example)> {
    let mut found = None;
    for (table, context) in tables.iter().zip(contexts) {
        let question = context.question(table, region);
        let answer = source.few_rows(&question.sql).await.unwrap_or_default();
        match question.example(&answer) {
            Some(example) if example.change.is_some() => return Some((context, example)),
            Some(example) if found.is_none() => found = Some((context, example)),
            _ => {}
        }
    }
    found
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
    for context in contexts {
        text.push('\n');
        text += &context.toml();
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

/// Checks what was written, but for the agents, which nobody has started yet.
async fn checked(global: &Global, what: &What, files: &Files) -> Result<(), Stop> {
    let unread = |e: std::io::Error| Stop::Failed(format!("{}: {e}", files.config.display()));
    let text = std::fs::read_to_string(&files.config).map_err(unread)?;
    let variable = |name: &str| match name {
        DATABASE => Some(what.database_url.expose_secret().to_owned()),
        name => std::env::var(name).ok(),
    };
    let config = config::parse(&files.config, &text, &variable, global.insecure);
    let context = Context::of(config, global).await?;
    check::first(&context).await.map(drop)
}
