//! `publisher audit`: who did what, when, and from where.

use super::{Context, Exit, Stop};
use crate::source::audit::Act;
use serde_json::json;
use std::fmt::Write;

pub(super) async fn run(context: &Context, limit: u32) -> Result<Exit, Stop> {
    let acts = context.parts.source.acts(limit).await?;
    context.print(&json!({ "acts": acts }), || text(&acts))?;
    Ok(Exit::Done)
}

pub(super) fn text(acts: &[Act]) -> String {
    let width = |of: fn(&Act) -> &str| {
        acts.iter()
            .map(|a| of(a).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (who, action) = (width(|a| &a.who), width(|a| &a.action));
    let mut out = String::new();
    for act in acts {
        let _ = writeln!(
            out,
            "{}  {:who$}  {:action$}  {}  ({})",
            act.at, act.who, act.action, act.what, act.origin
        );
    }
    match acts.is_empty() {
        true => "nothing was done yet".to_owned(),
        false => out,
    }
}
