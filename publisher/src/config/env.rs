//! `${NAME}` and `${file:PATH}` in strings.

use super::{Fault, fault};
use std::path::Path;

/// Replaces the placeholders in every string of the table. Relative files are relative to the configuration.
pub(super) fn expand(
    table: &mut toml::Table,
    config: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Fault> {
    let base = config.parent().unwrap_or(Path::new("."));
    table
        .iter_mut()
        .try_for_each(|(key, value)| walk(key, value, base, variable))
}

fn walk(
    place: &str,
    value: &mut toml::Value,
    base: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Fault> {
    match value {
        toml::Value::String(text) => {
            *text = replace(place, text, base, variable)?;
            Ok(())
        }
        toml::Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| walk(&format!("{place}[{i}]"), item, base, variable)),
        toml::Value::Table(table) => table
            .iter_mut()
            .try_for_each(|(key, item)| walk(&format!("{place}.{key}"), item, base, variable)),
        _ => Ok(()),
    }
}

fn replace(
    place: &str,
    text: &str,
    base: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Fault> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else {
            return Err(fault(place, "\"${\" without a closing \"}\""));
        };
        out.push_str(before);
        match name.strip_prefix("file:") {
            Some(file) => {
                let path = base.join(file);
                let content = std::fs::read_to_string(&path).map_err(|e| {
                    fault(
                        place,
                        format!("the file {} of ${{{name}}}: {e}", path.display()),
                    )
                })?;
                out.push_str(content.trim_end_matches(['\r', '\n']));
            }
            None => {
                let value = variable(name).ok_or_else(|| {
                    fault(place, format!("the environment variable {name} is not set"))
                })?;
                out.push_str(&value);
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}
