//! `${NAME}` and `${file:PATH}` in values. Messages name what is missing and never show what was found.

use std::collections::BTreeMap;

/// Replaces every reference in `text`. A line break at the end of a file is not part of its value.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err("has a ${ without its }".into());
        };
        out.push_str(&resolve(&reference[2..end], env)?);
        rest = &reference[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    match reference.strip_prefix("file:") {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
            Err(error) => Err(format!(
                "refers to the file {path}, which cannot be read: {error}"
            )),
        },
        None => env.get(reference).cloned().ok_or_else(|| {
            format!("refers to the environment variable {reference}, which is not set")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        BTreeMap::from([("A".to_owned(), "1".to_owned())])
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        assert_eq!(expand("x${A}y${A}", &env()), Ok("x1y1".into()));
        assert_eq!(expand("$A {A} $", &env()), Ok("$A {A} $".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let unset = expand("${B}", &env()).expect_err("unset");
        assert!(unset.contains("variable B"), "{unset}");
        let file = expand("${file:/nowhere/token}", &env()).expect_err("no file");
        assert!(file.contains("/nowhere/token"), "{file}");
        assert!(expand("${A", &env()).is_err());
    }
}
