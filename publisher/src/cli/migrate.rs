//! `publisher migrate`: the database, and the tables of regions on DynamoDB.

use super::{Context, Exit, Stop};
use crate::config::StoreConfig;
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
        let tables = definitions(context);
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
            false => warn(&spoke.name(), table.db().check().await),
        }
    }
    context.print(&json!({ "changes": lines }), || match lines.is_empty() {
        true => "nothing to do: the database is as the configuration says".to_owned(),
        false => lines.join("\n"),
    })?;
    Ok(Exit::Done)
}

/// What creates the tables of the configuration.
fn definitions(context: &Context) -> String {
    let tables = context.config.spokes.iter().filter_map(|s| match &s.store {
        StoreConfig::Table(table, _) => Some(definition(&table.table, &table.aws_region)),
        StoreConfig::Agents { .. } => None,
    });
    tables.collect()
}

/// Says what is wrong with a table; that it cannot be reached from here must not stop the database's part.
fn warn(name: &str, checked: Result<Checked, TableError>) {
    let lines = match checked {
        Ok(Checked { errors, warnings }) => [errors, warnings].concat(),
        Err(error) => vec![error.to_string()],
    };
    for line in lines {
        eprintln!("warning: {name}: {line}");
    }
}
