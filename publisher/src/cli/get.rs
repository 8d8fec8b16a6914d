//! `publisher get`.

use super::{Context, Exit, Stop};
use crate::lookup::{self, Found};
use contexts::name::{Key, Kind};
use std::fmt::Write;

pub(super) async fn run(context: &Context, kind: &str, key: &str) -> Result<Exit, Stop> {
    let kind: Kind = context
        .kind(Some(kind))?
        .ok_or_else(|| Stop::Usage("name a kind".into()))?;
    let key = Key::new(key).map_err(|e| Stop::Usage(e.to_string()))?;
    context.require_migrated().await?;
    let found = lookup::context(&context.parts, &kind, &key).await?;
    shown(context.json, &found)
}

/// Prints what was found, and says how it is.
pub(super) fn shown(json: bool, found: &[Found]) -> Result<Exit, Stop> {
    super::print(json, &found, || text(found))?;
    let exists = found.iter().any(|f| f.value.is_some());
    let well = exists && !found.iter().any(|f| f.trouble);
    Ok(if well { Exit::Done } else { Exit::Trouble })
}

fn text(found: &[Found]) -> String {
    let mut out = String::new();
    let width = found.iter().map(|f| f.at.len()).max().unwrap_or(0);
    for f in found {
        let mut facts = Vec::new();
        facts.extend(f.tenant.as_ref().map(|t| format!("tenant {t}")));
        facts.extend(f.version.as_ref().map(|v| format!("version {v}")));
        facts.extend(f.age_seconds.map(|a| format!("age {a:.1} s")));
        facts.extend(f.note.clone());
        let _ = writeln!(out, "{:width$}  {}", f.at, facts.join(", "));
        if let Some(value) = &f.value {
            let _ = writeln!(out, "{:width$}  {}", "", value.get());
        }
    }
    out
}
