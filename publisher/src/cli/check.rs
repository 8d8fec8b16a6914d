//! `publisher check`.

use super::{Context, Exit, Stop};
use crate::source::definitions::Definitions;
use crate::source::describe::Undescribed;
use crate::source::migrate::desired;
use crate::source::triggers::drift::Drift;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use serde::Serialize;

const NOT_MIGRATED: &str = "not migrated yet: run `publisher migrate`";

#[derive(Debug, Default, Serialize)]
struct Checked {
    ok: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<String>,
    /// Whether what is wrong is the configuration, rather than something out of reach.
    #[serde(skip)]
    misconfigured: bool,
}

pub(super) async fn run(context: &Context) -> Result<Exit, Stop> {
    let mut checked = begun(context).await?;
    stores(context, &mut checked).await;
    said(context, &checked)
}

/// The same before anything was migrated or started, which nobody should be told as a mistake.
pub(super) async fn first(context: &Context) -> Result<Exit, Stop> {
    let mut checked = begun(context).await?;
    checked.warnings.retain(|line| line != NOT_MIGRATED);
    said(context, &checked)
}

/// Looks at everything but the stores.
async fn begun(context: &Context) -> Result<Checked, Stop> {
    let mut checked = Checked::default();
    let kinds = context.config.contexts.len();
    checked.ok.push(format!(
        "configuration: {kinds} kinds, {} stores",
        context.parts.spokes.len()
    ));
    certificates(context, &mut checked);
    database(context, &mut checked).await?;
    Ok(checked)
}

async fn stores(context: &Context, checked: &mut Checked) {
    for spoke in &context.parts.spokes {
        if !table(spoke, checked).await {
            continue;
        }
        match spoke.hello().await {
            Err(why) => checked.errors.push(format!("{}: {why}", spoke.name())),
            Ok(state) => {
                let known = context.parts.source.knows(&state.seen()).await;
                if let Ok(false) = known {
                    checked.errors.push(format!(
                        "{}: fenced: it obeys a writer that this database does not know; this database is a clone or an \
                         older copy",
                        spoke.name()
                    ));
                }
                checked.ok.push(format!(
                    "{}: release {}, {} contexts",
                    spoke.name(),
                    state.release,
                    state.contexts
                ));
            }
        }
    }
}

/// Prints what was found.
fn said(context: &Context, checked: &Checked) -> Result<Exit, Stop> {
    context.print(checked, || {
        let line = |mark: &str, lines: &[String]| {
            lines
                .iter()
                .map(|l| format!("{mark} {l}\n"))
                .collect::<String>()
        };
        line("ok     ", &checked.ok)
            + &line("warning", &checked.warnings)
            + &line("error  ", &checked.errors)
    })?;
    match (checked.errors.is_empty(), checked.misconfigured) {
        (true, _) => Ok(Exit::Done),
        (false, true) => Err(Stop::Usage(
            "the configuration cannot be used as it is; see above".into(),
        )),
        (false, false) => Ok(Exit::Trouble),
    }
}

/// Looks at the certificate of the API; what agents are shown and trusted by shows when they are asked.
fn certificates(context: &Context, checked: &mut Checked) {
    let Some(files) = &context.config.hub.tls else {
        return;
    };
    if let Err(error) = &hubcast_tls::server::server("hub.tls", files).now().it {
        checked.errors.push(format!("hub.tls: {error}"));
        checked.misconfigured = true;
    }
}

/// Looks at the table itself, where a store is one. Whether it makes sense to ask it anything.
async fn table(spoke: &Spoke, checked: &mut Checked) -> bool {
    let Some(table) = spoke.table() else {
        return true;
    };
    let named = |line: &String| format!("{}: {line}", spoke.name());
    match table.db().check().await {
        Ok(found) => {
            checked.errors.extend(found.errors.iter().map(named));
            checked.warnings.extend(found.warnings.iter().map(named));
            found.errors.is_empty()
        }
        Err(error) => {
            checked.errors.push(named(&error.to_string()));
            false
        }
    }
}

async fn database(context: &Context, checked: &mut Checked) -> Result<(), Stop> {
    let source = &context.parts.source;
    source.ping().await?;
    checked.ok.push(format!("database: {}", source.at()));
    let described = async { desired(source, &context.config, source.search_path().await?).await };
    match described.await {
        Ok(desired) => {
            checked
                .ok
                .push("queries: all kinds can be published".into());
            checked.warnings.extend(desired.unstable(source).await?);
            checked.warnings.extend(desired.warnings);
        }
        Err(Undescribed::Wrong(lines)) => {
            checked.errors.extend(lines.lines().map(ToOwned::to_owned));
            checked.misconfigured = true;
        }
        Err(Undescribed::Source(e)) => return Err(e.into()),
    }
    match source.definitions().await {
        Ok(definitions) => {
            if let Some(why) = definitions.refusal(&context.config) {
                checked.errors.push(why);
                checked.misconfigured = true;
            }
            let differences = definitions.differences(&context.config);
            if differences.is_empty() {
                checked
                    .ok
                    .push("migrated: the database is as the configuration says".into());
            }
            checked.warnings.extend(
                differences
                    .into_iter()
                    .map(|d| format!("{d}: run `publisher migrate`")),
            );
            drift(source, &definitions, checked).await?;
        }
        Err(SourceError::NotMigrated { .. }) => {
            checked.warnings.push(NOT_MIGRATED.into());
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

async fn drift(
    source: &Source,
    definitions: &Definitions,
    checked: &mut Checked,
) -> Result<(), Stop> {
    let found = source.drift(definitions).await?;
    if !found.iter().any(Drift::is_of_triggers) {
        checked
            .ok
            .push("change triggers: as the database's definitions ask for".into());
    }
    for drift in found {
        match drift.is_of_triggers() {
            true => checked.errors.push(drift.to_string()),
            false => checked.warnings.push(drift.to_string()),
        }
    }
    Ok(())
}
