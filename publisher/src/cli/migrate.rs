//! `publisher migrate`: the database, and the tables of regions on DynamoDB.

use super::{Context, Exit, Stop};
use crate::config::{SpokeConfig, StoreConfig};
use crate::source::Source;
use crate::source::describe::Undescribed;
use crate::source::migrate::desired;
use contexts_dynamodb::admin::{Checked, definition};
use contexts_dynamodb::client::TableError;
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;

impl From<Undescribed> for Stop {
    fn from(e: Undescribed) -> Self {
        match e {
            Undescribed::Source(e) => e.into(),
            Undescribed::Wrong(lines) => Self::Usage(lines.replace('\n', "\npublisher: ")),
        }
    }
}

pub(super) async fn run(context: &Context, print: bool, create_tables: bool) -> Result<Exit, Stop> {
    let source = &context.parts.source;
    source.ping().await?;
    // Before the first migration there is nothing to refuse, and whatever else is wrong shows below.
    if let Ok(definitions) = source.definitions().await
        && let Some(why) = definitions.refusal(&context.config)
    {
        return Err(Stop::Usage(why));
    }
    // Looked at as the role that will build, so that what it may not read shows now.
    let desired = desired(source, &context.config, source.search_path().await?).await?;
    let user = context.config.hub.migrate_url.as_ref().and_then(|_| {
        let (_, url) = context.config.hub.address();
        let options: PgConnectOptions = url.expose_secret().parse().ok()?;
        Some(options.get_username().to_owned())
    });
    for warning in &desired.warnings {
        eprintln!("warning: {warning}");
    }
    if print {
        let sql = source.migrate_script(&desired, user.as_deref()).await?;
        let tables = definitions(context, |_| true);
        // The SQL stays something that can be piped into psql: of a table it has only comments.
        let commented = tables.lines().map(|line| format!("-- {line}\n"));
        let text = format!("{sql}{}", commented.collect::<String>());
        context.print(&json!({ "sql": sql, "tables": tables }), || text)?;
        return Ok(Exit::Done);
    }
    let migrator = match &context.config.hub.migrate_url {
        Some(url) => Source::new("hub.migrate_url", url)?,
        None => source.clone(),
    };
    let mut lines = migrator.migrate(&desired, user.as_deref()).await?;
    for spoke in &context.parts.spokes {
        let Some(table) = spoke.table() else { continue };
        match create_tables {
            true => {
                let failed = |error: TableError| Stop::Failed(format!("{}: {error}", spoke.name()));
                lines.extend(table.db().create().await.map_err(failed)?);
            }
            false => {
                if warn(&spoke.name(), table.db().check().await) {
                    eprint!("{}", definitions(context, |s| s.region == spoke.region));
                }
            }
        }
    }
    context.print(&json!({ "changes": lines }), || match lines.is_empty() {
        true => "nothing to do: the database is as the configuration says".to_owned(),
        false => lines.join("\n"),
    })?;
    Ok(Exit::Done)
}

/// What creates the tables of these regions.
fn definitions(context: &Context, is_wanted: impl Fn(&SpokeConfig) -> bool) -> String {
    let spokes = context.config.spokes.iter().filter(|s| is_wanted(s));
    let tables = spokes.filter_map(|s| match &s.store {
        StoreConfig::Table(table, _) => Some(definition(&table.table, &table.aws_region)),
        StoreConfig::Agents { .. } => None,
    });
    tables.collect()
}

/// Says what is wrong with a table, and returns whether it is not as it has to be; that it cannot be reached from here must
/// not stop the database's part.
fn warn(name: &str, checked: Result<Checked, TableError>) -> bool {
    let (lines, is_wrong) = match checked {
        Ok(Checked { errors, warnings }) => {
            let is_wrong = !errors.is_empty();
            ([errors, warnings].concat(), is_wrong)
        }
        Err(error) => (vec![error.to_string()], false),
    };
    for line in lines {
        eprintln!("warning: {name}: {line}");
    }
    is_wrong
}
