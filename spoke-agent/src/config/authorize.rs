//! The tables `[[authorize]]`: what a gateway such as nginx or Envoy lets through (`serve::authorize` does it). They stand
//! in the file alone, since a list of tables is no flag, and nothing in them is expanded, since nothing in them is
//! secret.
//!
//! What is wrong in one is an error before anything is opened: a policy that is half understood would let through what
//! nobody meant to let through.

use super::ConfigError;
use super::layers::{Source, nearest, type_of};
use axum::http::HeaderName;
use contexts::name::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use toml::Spanned;
use toml::de::DeValue;

const KEYS: [&str; 10] = [
    "name",
    "header",
    "scheme",
    "hash",
    "kind",
    "require",
    "headers",
    "tenant_header",
    "max_age",
    "then",
];
const THEN_KEYS: [&str; 5] = ["kind", "key", "require", "headers", "same_tenant"];

/// Longest name of a policy, in bytes.
const NAME_BYTES: usize = 64;

/// Headers that no policy may set: HTTP's own, and those that the agent sets itself.
const NOT_FOR_POLICIES: [&str; 16] = [
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-context-age",
    "x-context-version",
    "x-envoy-auth-headers-to-remove",
];

/// Who is let through at `/v1/authorize/<name>`, and what is told of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// The request header with the credential.
    pub header: HeaderName,
    /// The scheme before the credential, which is no part of it.
    pub scheme: Option<String>,
    /// How a credential becomes a key.
    pub hash: Hash,
    /// The context that the key is of.
    pub first: Part,
    /// The response header with the tenant of that context.
    pub tenant_header: Option<HeaderName>,
    /// The age in seconds beyond which the store is too old to decide; none if it never is.
    pub max_age: Option<f64>,
    /// A second context.
    pub then: Option<Then>,
}

/// How a credential becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// It is the key.
    None,
    /// The key is its SHA-256, in lower-case hex.
    Sha256,
}

/// One context of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its kind.
    pub kind: Kind,
    /// The fields that must be true.
    pub require: Vec<Field>,
    /// Response headers and the fields that they carry.
    pub headers: Vec<(HeaderName, Field)>,
}

/// The second context of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Then {
    /// The field of the first value that is its key.
    pub key: Field,
    /// Whether it must be of the same tenant as the first.
    pub same_tenant: bool,
    /// The context.
    pub part: Part,
}

/// A field of a value: its name, and, within an object, the names on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(Vec<String>);

impl Field {
    /// Of `a.b`.
    fn new(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        (!names.iter().any(String::is_empty)).then_some(Self(names))
    }

    /// The names on the way to it; there is at least one.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl Policy {
    /// The response headers that it may set.
    pub fn sets(&self) -> impl Iterator<Item = &HeaderName> {
        let second = self.then.iter().flat_map(|then| &then.part.headers);
        let fields = self.first.headers.iter().chain(second);
        fields.map(|(name, _)| name).chain(&self.tenant_header)
    }
}

/// The policies of a file, from the value of its key `authorize`, which stands at `line`.
pub(super) fn policies(
    source: &Source<'_>,
    line: usize,
    value: &DeValue<'_>,
) -> Result<Vec<Policy>, ConfigError> {
    let DeValue::Array(tables) = value else {
        let why = format!(
            "must be a list of tables, each under [[authorize]], not {}",
            type_of(value)
        );
        return Err(source.bad(line, "authorize", why));
    };
    let (mut policies, mut names) = (Vec::new(), BTreeSet::new());
    for table in tables {
        let table = Table::open(source, "authorize", &KEYS, line_of(source, table), table)?;
        let policy = policy(&table)?;
        if !names.insert(policy.name.clone()) {
            let why = format!("{:?} is already the name of another policy", policy.name);
            return Err(table.bad("name", why));
        }
        policies.push(policy);
    }
    Ok(policies)
}

fn line_of(source: &Source<'_>, value: &Spanned<DeValue<'_>>) -> usize {
    source.line(value.span().start)
}

fn policy(table: &Table<'_, '_>) -> Result<Policy, ConfigError> {
    let then = match table.get("then") {
        Some((line, value)) => {
            let inner = Table::open(table.source, "authorize.then", &THEN_KEYS, *line, value)?;
            Some((then(&inner)?, inner))
        }
        None => None,
    };
    let policy = Policy {
        name: name(table)?,
        header: table
            .header("header")?
            .ok_or_else(|| table.missing("header"))?,
        scheme: scheme(table)?,
        hash: hash(table)?,
        first: part(table)?,
        tenant_header: table.header("tenant_header")?,
        max_age: table.seconds("max_age")?,
        then: then.as_ref().map(|(then, _)| then.clone()),
    };
    let owner = then.as_ref().map_or(table, |(_, inner)| inner);
    set_by_one(table, owner, &policy)?;
    Ok(policy)
}

/// A response header has one source.
fn set_by_one(
    table: &Table<'_, '_>,
    owner: &Table<'_, '_>,
    policy: &Policy,
) -> Result<(), ConfigError> {
    let mut before = BTreeSet::new();
    let twice = |name: &HeaderName| format!("sets {:?} a second time", name.as_str());
    let ours = policy.first.headers.iter().map(|(name, _)| name);
    for name in ours.chain(&policy.tenant_header) {
        if !before.insert(name.as_str()) {
            return Err(table.bad("tenant_header", twice(name)));
        }
    }
    let second = policy.then.iter().flat_map(|then| &then.part.headers);
    for (name, _) in second {
        if !before.insert(name.as_str()) {
            return Err(owner.bad("headers", twice(name)));
        }
    }
    Ok(())
}

fn name(table: &Table<'_, '_>) -> Result<Arc<str>, ConfigError> {
    let name = table.required("name")?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|b| is_plain(b) || b == b'-' || b == b'_')
        && name.len() <= NAME_BYTES;
    match good {
        true => Ok(name.into()),
        false => Err(table.bad(
            "name",
            format!(
                "must be a-z, 0-9, - and _, at most {NAME_BYTES} of them and no sign first, not {name:?}"
            ),
        )),
    }
}

fn scheme(table: &Table<'_, '_>) -> Result<Option<String>, ConfigError> {
    let Some(scheme) = table.text("scheme")? else {
        return Ok(None);
    };
    // The same characters as in a header's name, whatever the case.
    match HeaderName::from_bytes(scheme.as_bytes()) {
        Ok(_) => Ok(Some(scheme)),
        Err(_) => {
            let why = format!("must be one word such as \"Bearer\", not {scheme:?}");
            Err(table.bad("scheme", why))
        }
    }
}

fn hash(table: &Table<'_, '_>) -> Result<Hash, ConfigError> {
    match table.text("hash")?.as_deref() {
        None | Some("none") => Ok(Hash::None),
        Some("sha256") => Ok(Hash::Sha256),
        Some(other) => {
            let why = format!("must be \"none\" or \"sha256\", not {other:?}");
            Err(table.bad("hash", why))
        }
    }
}

fn part(table: &Table<'_, '_>) -> Result<Part, ConfigError> {
    let kind = table.required("kind")?;
    Ok(Part {
        kind: Kind::new(&kind).map_err(|bad| table.bad("kind", bad.to_string()))?,
        require: table.fields("require")?,
        headers: table.headers("headers")?,
    })
}

fn then(table: &Table<'_, '_>) -> Result<Then, ConfigError> {
    let key = table.required("key")?;
    Ok(Then {
        key: table.field("key", &key)?,
        same_tenant: table.flag("same_tenant")?.unwrap_or(true),
        part: part(table)?,
    })
}

/// One table: its keys are known ones, and each has the line that it stands in.
struct Table<'s, 'v> {
    source: &'s Source<'s>,
    path: &'static str,
    line: usize,
    entries: BTreeMap<&'v str, (usize, &'v Spanned<DeValue<'v>>)>,
}

impl<'s, 'v> Table<'s, 'v> {
    fn open(
        source: &'s Source<'s>,
        path: &'static str,
        keys: &[&str],
        line: usize,
        value: &'v Spanned<DeValue<'v>>,
    ) -> Result<Self, ConfigError> {
        let DeValue::Table(table) = value.get_ref() else {
            let why = format!("must be a table, not {}", type_of(value.get_ref()));
            return Err(source.bad(line, path, why));
        };
        let mut entries = BTreeMap::new();
        for (name, value) in table {
            let (line, key) = (source.line(name.span().start), name.get_ref().as_ref());
            if !keys.contains(&key) {
                return Err(ConfigError::UnknownKey {
                    file: source.file.to_owned(),
                    line,
                    key: format!("{path}.{key}"),
                    hint: nearest(key, keys),
                });
            }
            entries.insert(key, (line, value));
        }
        Ok(Self {
            source,
            path,
            line,
            entries,
        })
    }

    fn get(&self, key: &str) -> Option<&(usize, &'v Spanned<DeValue<'v>>)> {
        self.entries.get(key)
    }

    fn bad(&self, key: &str, why: impl Into<String>) -> ConfigError {
        let line = self.get(key).map_or(self.line, |(line, _)| *line);
        let key = format!("{}.{key}", self.path);
        self.source.bad(line, key, why)
    }

    fn missing(&self, key: &str) -> ConfigError {
        self.bad(key, "is not set, and this table needs it")
    }

    fn mistyped(&self, key: &str, wanted: &str, value: &DeValue<'_>) -> ConfigError {
        self.bad(key, format!("must be {wanted}, not {}", type_of(value)))
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let value = self.get(key).map(|(_, value)| value.get_ref());
        match value {
            None => Ok(None),
            Some(DeValue::String(text)) if text.is_empty() => Err(self.bad(key, "is empty")),
            Some(DeValue::String(text)) => Ok(Some(text.to_string())),
            Some(other) => Err(self.mistyped(key, "a text in quotes", other)),
        }
    }

    fn required(&self, key: &str) -> Result<String, ConfigError> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(key).map(|(_, value)| value.get_ref()) {
            None => Ok(None),
            Some(DeValue::Boolean(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.mistyped(key, "true or false", other)),
        }
    }

    fn seconds(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some((_, value)) = self.get(key) else {
            return Ok(None);
        };
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            other => return Err(self.mistyped(key, "a number of seconds", other)),
        };
        let seconds = number.parse().ok();
        match seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(self.bad(
                key,
                format!("must be a number of seconds above 0, not {number}"),
            )),
        }
    }

    fn header(&self, key: &str) -> Result<Option<HeaderName>, ConfigError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match key {
            // Read, not set, so that none is forbidden.
            "header" => self.header_name(key, &text),
            _ => self.response_header(key, &text),
        }
        .map(Some)
    }

    fn header_name(&self, key: &str, text: &str) -> Result<HeaderName, ConfigError> {
        let name = HeaderName::from_bytes(text.as_bytes());
        name.map_err(|_| self.bad(key, format!("names {text:?}, which is not a header's name")))
    }

    fn response_header(&self, key: &str, text: &str) -> Result<HeaderName, ConfigError> {
        let name = self.header_name(key, text)?;
        match NOT_FOR_POLICIES.contains(&name.as_str()) {
            true => Err(self.bad(
                key,
                format!("names {text:?}, a header that a policy cannot set"),
            )),
            false => Ok(name),
        }
    }

    fn field(&self, key: &str, text: &str) -> Result<Field, ConfigError> {
        Field::new(text).ok_or_else(|| {
            let why = format!(
                "must name a field, such as \"active\" or, within an object, \"plan.active\", not {text:?}"
            );
            self.bad(key, why)
        })
    }

    fn fields(&self, key: &str) -> Result<Vec<Field>, ConfigError> {
        let Some((_, value)) = self.get(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(names) = value.get_ref() else {
            return Err(self.mistyped(key, "a list of fields", value.get_ref()));
        };
        let names = names.iter().map(|name| match name.get_ref() {
            DeValue::String(name) => self.field(key, name),
            other => Err(self.mistyped(key, "a list of texts in quotes", other)),
        });
        names.collect()
    }

    fn headers(&self, key: &str) -> Result<Vec<(HeaderName, Field)>, ConfigError> {
        let Some((_, value)) = self.get(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Table(table) = value.get_ref() else {
            let wanted = "a table of headers and fields";
            return Err(self.mistyped(key, wanted, value.get_ref()));
        };
        let mut headers: Vec<(HeaderName, Field)> = Vec::new();
        for (name, field) in table {
            let DeValue::String(field) = field.get_ref() else {
                let wanted = "a table of headers and fields, which are texts in quotes";
                return Err(self.mistyped(key, wanted, field.get_ref()));
            };
            let name = self.response_header(key, name.get_ref())?;
            if headers.iter().any(|(before, _)| *before == name) {
                return Err(self.bad(key, format!("sets {:?} a second time", name.as_str())));
            }
            headers.push((name, self.field(key, field)?));
        }
        Ok(headers)
    }
}
