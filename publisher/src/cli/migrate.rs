//! `publisher migrate`.

use super::{Context, Exit, Stop};
use crate::source::Source;
use crate::source::describe::Undescribed;
use crate::source::migrate::desired;
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

pub(super) async fn run(context: &Context, print: bool) -> Result<Exit, Stop> {
    let source = &context.parts.source;
    source.ping().await?;
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
        context.print(&json!({ "sql": sql }), || sql.clone())?;
        return Ok(Exit::Done);
    }
    let migrator = match &context.config.hub.migrate_url {
        Some(url) => Source::new("hub.migrate_url", url)?,
        None => source.clone(),
    };
    let lines = migrator.migrate(&desired, user.as_deref()).await?;
    context.print(&json!({ "changes": lines }), || match lines.is_empty() {
        true => "nothing to do: the database is as the configuration says".to_owned(),
        false => lines.join("\n"),
    })?;
    Ok(Exit::Done)
}
