//! JSON Schemas of contexts: what a value of a kind must look like. A schema comes from a file when the configuration is
//! read and from the database when a build uses it; it never fetches anything.

use super::{Fault, fault};
use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Reads the schema that a context names, and checks that it is one.
pub(super) fn read(place: String, config: &Path, file: &str) -> Result<String, Fault> {
    let path = config.parent().unwrap_or(Path::new(".")).join(file);
    let text = std::fs::read_to_string(&path)
        .map_err(|e| fault(place.clone(), format!("the file {}: {e}", path.display())))?;
    match compile(&text) {
        Ok(_) => Ok(text),
        Err(why) => Err(fault(place, format!("the file {}: {why}", path.display()))),
    }
}

fn compile(text: &str) -> Result<Validator, String> {
    let json = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    jsonschema::validator_for(&json).map_err(|e| match e.kind() {
        ValidationErrorKind::Referencing(_) => {
            "it refers to something outside itself, which is never fetched: put that into it, below $defs".to_owned()
        }
        _ => {
            let place = at(e.instance_path().as_str()).to_owned();
            format!("it is not a JSON Schema: at {place:?}: {e}")
        }
    })
}

fn at(pointer: &str) -> &str {
    match pointer {
        "" => "/",
        pointer => pointer,
    }
}

/// A compiled schema, which clones share. It is compiled when it is used first.
#[derive(Clone, Default)]
pub struct Compiled(Arc<OnceLock<Result<Validator, String>>>);

impl Compiled {
    /// What is wrong with a value under a schema, if anything is: where, and what, never the value itself.
    pub fn fault(&self, schema: &str, value: &str) -> Option<(String, String)> {
        let whole = |why: String| Some(("/".to_owned(), why));
        let validator = match self.0.get_or_init(|| compile(schema)) {
            Ok(validator) => validator,
            Err(why) => return whole(format!("the schema cannot be used: {why}")),
        };
        let value = match serde_json::from_str(value) {
            Ok(value) => value,
            Err(e) => return whole(format!("it cannot be checked: {e}")),
        };
        let error = validator.validate(&value).err()?;
        let place = at(error.instance_path().as_str()).to_owned();
        Some((place, error.masked().to_string()))
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// It follows from its text, which is compared beside it.
impl PartialEq for Compiled {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Compiled {}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "object", "required": ["plan"], "properties": {"plan": {"enum": ["free", "paid"]},
        "seats": {"type": "integer", "minimum": 1}}}"#;

    #[test]
    fn a_value_that_breaks_its_schema_is_named_by_place_and_never_shown() {
        let compiled = Compiled::default();
        let fault = |value: &str| compiled.fault(SCHEMA, value);
        assert_eq!(fault(r#"{"plan": "free", "seats": 1}"#), None);
        let (place, why) = fault(r#"{"plan": "a secret"}"#).expect("a fault");
        assert!(place == "/plan" && !why.contains("secret"), "{place} {why}");
        assert_eq!(fault("{}").expect("a fault").0, "/");
        assert_eq!(
            fault(r#"{"plan": "paid", "seats": 0}"#).expect("a fault").0,
            "/seats"
        );
    }

    #[test]
    fn a_schema_that_leads_elsewhere_or_is_none_is_refused() {
        let elsewhere = r#"{"$ref": "https://schemas.example/key.json"}"#;
        for text in [elsewhere, "{", r#"{"type": "objekt"}"#] {
            assert!(compile(text).is_err(), "{text}");
        }
    }
}
