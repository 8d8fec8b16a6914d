//! The files of `ops`, and the names of metrics in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use system_tests::Result;

/// The repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file of it.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).map_err(|e| format!("{path}: {e}").into())
}

/// The names of the files in a folder of it, without this ending.
pub fn names(folder: &str, ending: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root().join(folder))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(ending).map(ToOwned::to_owned));
    }
    Ok(names)
}

/// Every metric of Hubcast or of a process that a text names, whatever else the text is.
pub fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = ["hubcast_publisher_", "hubcast_agent_", "process_"];
    words
        .filter(|word| {
            prefixes
                .iter()
                .any(|p| word.len() > p.len() && word.starts_with(p))
        })
        .map(ToOwned::to_owned)
        .collect()
}

/// The selectors of an expression: the metric, and the labels that it compares, with what.
pub fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    for name in metrics(expression) {
        for (at, _) in expression.match_indices(&name) {
            let Some(rest) = expression[at + name.len()..].strip_prefix('{') else {
                continue;
            };
            let inside = rest.split('}').next().unwrap_or_default();
            let pairs = inside.split(',').filter_map(|pair| {
                let (label, value) = pair.split_once('=')?;
                let value = value.trim_start_matches('~').trim_matches('"');
                Some((
                    label.trim_end_matches('!').trim().to_owned(),
                    value.to_owned(),
                ))
            });
            found.push((name.clone(), pairs.collect()));
        }
    }
    found
}
