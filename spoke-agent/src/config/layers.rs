//! Where a value was set: file, environment or flag; the last one wins. A value remembers its place, so that every
//! message can name it.

use super::authorize::{self, Policy};
use super::expand::expand;
use super::{ConfigError, KEYS};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// The key of the file under which the policies stand.
const AUTHORIZE: &str = "authorize";
/// Keys with more than one value; in flags and in the environment there are commas between them.
const LISTS: [&str; 4] = ["peers", "from", "kinds", "tenants"];

/// A value as it was written, and where.
#[derive(Debug, Clone)]
struct Written {
    text: String,
    place: String,
}

/// Values of the keys from flags: key and text.
pub type Flags = Vec<(&'static str, String)>;

/// All that was set.
pub struct Layers {
    values: BTreeMap<&'static str, Written>,
    policies: Vec<Policy>,
    env: BTreeMap<String, String>,
}

/// An expanded value with its place.
pub struct Set {
    key: &'static str,
    /// The text.
    pub value: String,
    place: String,
}

impl Layers {
    /// Reads the file, if one is named, and puts environment and flags over it.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or has something that does not belong there.
    pub fn read(
        file: Option<&Path>,
        flags: Flags,
        env: BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let (mut values, policies) = match file {
            Some(file) => from_file(file)?,
            None => Default::default(),
        };
        for key in KEYS {
            let name = env_name(key);
            // An empty variable is how many a tool writes "not set".
            if let Some(text) = env.get(&name).filter(|text| !text.is_empty()) {
                let text = text.clone();
                values.insert(key, Written { text, place: name });
            }
        }
        for (key, text) in flags {
            let place = flag_name(key);
            values.insert(key, Written { text, place });
        }
        Ok(Self {
            values,
            policies,
            env,
        })
    }

    /// The tables `[[authorize]]` of the file.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The value of a key, if it was set.
    ///
    /// # Errors
    /// [`ConfigError::Bad`] if it refers to something that is not there.
    pub fn optional(&self, key: &'static str) -> Result<Option<Set>, ConfigError> {
        let Some(written) = self.values.get(key) else {
            return Ok(None);
        };
        let place = written.place.clone();
        let value = expand(&written.text, &self.env).map_err(|why| ConfigError::Bad {
            place: place.clone(),
            key: key.to_owned(),
            why,
        })?;
        let set = Set { key, value, place };
        match set.value.is_empty() {
            true => Err(set.bad("is empty")),
            false => Ok(Some(set)),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] if it was not set; else as [`Layers::optional`].
    pub fn required(&self, key: &'static str) -> Result<Set, ConfigError> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error that says how to set a key.
    pub fn missing(&self, key: &'static str) -> ConfigError {
        ConfigError::Missing {
            key,
            env: env_name(key),
            flag: flag_name(key),
        }
    }
}

impl Set {
    /// An error about this value.
    pub fn bad(&self, why: impl Into<String>) -> ConfigError {
        ConfigError::Bad {
            place: self.place.clone(),
            key: self.key.to_owned(),
            why: why.into(),
        }
    }

    /// The value as an address. Names are not looked up: an agent asks nobody, not even a name server.
    pub(super) fn address(&self) -> Result<SocketAddr, ConfigError> {
        let local = self.value.strip_prefix("localhost:");
        let parsed = match local.map(str::parse) {
            Some(Ok(port)) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
            Some(Err(_)) => None,
            None => self.value.parse().ok(),
        };
        parsed.ok_or_else(|| {
            self.bad(format!(
                "must be IP:PORT, such as 127.0.0.1:7521, not {:?}",
                self.value
            ))
        })
    }

    pub(super) fn token(&self) -> Result<SecretString, ConfigError> {
        match self.value.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(SecretString::from(self.value.clone())),
            false => {
                Err(self
                    .bad("must be printable ASCII without spaces, since it travels in a header"))
            }
        }
    }

    /// Texts with commas between them.
    pub(super) fn list(&self) -> Vec<String> {
        let all = self.value.split(',').map(str::trim);
        all.filter(|text| !text.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Addresses with commas between them.
    pub(super) fn addresses(&self) -> Result<Vec<String>, ConfigError> {
        let all = self.list();
        let checked = all.iter().map(|text| {
            let text = text.trim_end_matches('/');
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            match rest.is_some_and(|host| host.contains(':')) {
                true => Ok(text.to_owned()),
                false => Err(self.bad(format!(
                    "has {text:?}, which is no address; one looks like https://10.0.0.2:7511, where that agent has its \
                     push_listen"
                ))),
            }
        });
        checked.collect()
    }

    pub(super) fn number(&self, least: usize, most: usize) -> Result<usize, ConfigError> {
        let number = self.value.parse().ok();
        number
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| {
                let value = &self.value;
                self.bad(format!(
                    "must be a whole number from {least} to {most}, not {value:?}"
                ))
            })
    }
}

fn env_name(key: &str) -> String {
    format!("HUBCAST_AGENT_{}", key.to_uppercase())
}

fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// A file and its text, in which a place has a line.
pub(super) struct Source<'a> {
    /// The file.
    pub file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// The line of a place.
    pub fn line(&self, at: usize) -> usize {
        let before = self.text.bytes().take(at);
        1 + before.filter(|byte| *byte == b'\n').count()
    }

    /// An error about a key that stands in this line.
    pub fn bad(&self, line: usize, key: impl Into<String>, why: impl Into<String>) -> ConfigError {
        ConfigError::Bad {
            place: format!("{}:{line}", self.file),
            key: key.into(),
            why: why.into(),
        }
    }
}

type FromFile = (BTreeMap<&'static str, Written>, Vec<Policy>);

fn from_file(path: &Path) -> Result<FromFile, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        file: file.clone(),
        why: error.to_string(),
    })?;
    let source = Source {
        file: &file,
        text: &text,
    };
    let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
        file: file.clone(),
        line: source.line(error.span().map_or(0, |span| span.start)),
        why: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let (mut values, mut policies) = (BTreeMap::new(), Vec::new());
    for (name, value) in table.get_ref() {
        let line = source.line(name.span().start);
        if name.get_ref() == AUTHORIZE {
            policies = authorize::policies(&source, line, value.get_ref())?;
            continue;
        }
        let known = KEYS.into_iter().find(|key| *key == name.get_ref());
        let Some(key) = known else {
            let key = name.get_ref().to_string();
            let hint = nearest(&key, &[KEYS.as_slice(), &[AUTHORIZE]].concat());
            return Err(ConfigError::UnknownKey {
                file,
                line,
                key,
                hint,
            });
        };
        let text = scalar(key, value.get_ref()).map_err(|why| source.bad(line, key, why))?;
        let place = format!("{file}:{line}");
        values.insert(key, Written { text, place });
    }
    Ok((values, policies))
}

fn scalar(key: &str, value: &DeValue<'_>) -> Result<String, String> {
    if let (true, DeValue::Array(list)) = (LISTS.contains(&key), value) {
        let texts = list.iter().map(|one| match one.get_ref() {
            DeValue::String(text) if text.contains(',') => {
                Err(format!("has {text:?}, and nothing in it can have a comma"))
            }
            DeValue::String(text) => Ok(text.to_string()),
            other => Err(format!(
                "must be a list of texts, and has {} in it",
                type_of(other)
            )),
        });
        return Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","));
    }
    if key == "insecure" {
        return match value {
            DeValue::Boolean(is) => Ok(is.to_string()),
            other => Err(format!("must be true or false, not {}", type_of(other))),
        };
    }
    let is_number =
        key.ends_with("_mib") || key.ends_with("_seconds") || ["fills", "refreshes"].contains(&key);
    match (is_number, value) {
        (true, DeValue::Integer(number)) => Ok(number.to_string()),
        (true, other) => Err(format!("must be a whole number, not {}", type_of(other))),
        (false, other) if LISTS.contains(&key) => {
            Err(format!("must be a list of texts, not {}", type_of(other)))
        }
        (false, DeValue::String(text)) => Ok(text.to_string()),
        (false, other) => Err(format!("must be a text in quotes, not {}", type_of(other))),
    }
}

pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What may have been meant by a key that does not exist.
pub(super) fn nearest(key: &str, keys: &[&str]) -> String {
    let scored = keys
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), known));
    match scored.min() {
        Some((distance, known)) if distance <= 3.max(known.len() / 3) => {
            format!("did you mean {known:?}?")
        }
        _ => format!("the keys are {}", keys.join(", ")),
    }
}
