//! The text of the queries that a definition is turned into. Pure.
//!
//! The user's query is wrapped, never edited, but for `{{tenants(column)}}`, which is replaced by the condition on
//! tenants. The condition stands outside as well, so a placeholder in the wrong place costs rows, never isolation.

use super::definitions::Definition;
use super::holds::{COLUMNS, IN_FORCE};

/// Which tenants a query is to return. Bounds are parameters: `$1`, then `$2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenants<'a> {
    /// Those in this array of text, as SQL writes it.
    Listed(&'a str),
    /// From `$1` (inclusive) to `$2` (exclusive).
    Between,
    /// From `$1` on.
    From,
    /// Below `$1`.
    Below,
    /// All of them; rows without a tenant belong to none.
    All,
    /// Rows without a tenant.
    Null,
}

/// A list that is a parameter.
pub const LIST: Tenants<'static> = Tenants::Listed("$1::text[]");

impl Tenants<'_> {
    fn condition(self, column: &str, tenant_type: &str) -> String {
        match self {
            Self::Listed(list) => format!("{column} = ANY({list}::{tenant_type}[])"),
            Self::Between => format!(
                "({column} >= $1::text::{tenant_type} AND {column} < $2::text::{tenant_type})"
            ),
            Self::From => format!("{column} >= $1::text::{tenant_type}"),
            Self::Below => format!("{column} < $1::text::{tenant_type}"),
            Self::All => format!("{column} IS NOT NULL"),
            Self::Null => format!("{column} IS NULL"),
        }
    }
}

/// The placeholder that a query may contain, opened.
const OPEN: &str = "{{tenants(";
/// Its end.
const CLOSE: &str = ")}}";

/// The columns inside of `{{tenants(...)}}` placeholders.
pub fn placeholders(query: &str) -> Result<Vec<&str>, String> {
    let (mut columns, mut rest) = (Vec::new(), query);
    while let Some((_, after)) = rest.split_once(OPEN) {
        let (column, behind) = after
            .split_once(CLOSE)
            .ok_or("\"{{tenants(\" without a closing \")}}\"")?;
        columns.push(column.trim());
        rest = behind;
    }
    match rest.contains("{{") {
        true => Err("the only placeholder there is looks like {{tenants(k.tenant_id)}}".to_owned()),
        false => Ok(columns),
    }
}

/// The user's query with its placeholders replaced.
fn inner(query: &str, tenants: Tenants<'_>, tenant_type: &str) -> String {
    let (mut out, mut rest) = (String::new(), query);
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        let Some((column, behind)) = after.split_once(CLOSE) else {
            break;
        };
        out.push_str(&tenants.condition(column.trim(), tenant_type));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// The contexts of some tenants: tenant, key, value, regions, expires (microseconds), in no order. Regions come as JSON:
/// the text of an array does not say how many dimensions it has.
pub fn contexts(definition: &Definition, tenant_type: &str, tenants: Tenants<'_>) -> String {
    let regions = if definition.has_regions {
        "array_to_json(q.regions::text[])::text"
    } else {
        "NULL::text"
    };
    let expires = match definition.has_expires {
        false => "NULL::bigint".to_owned(),
        true => format!(
            "CASE WHEN q.expires = 'infinity' THEN NULL WHEN q.expires = '-infinity' THEN {} \
             ELSE (extract(epoch FROM q.expires) * 1000000)::bigint END",
            i64::MIN
        ),
    };
    format!(
        "SELECT q.tenant::text, q.key::text, (to_jsonb(q) - '{{key,tenant,regions,expires}}'::text[])::text, {regions}, \
         {expires} FROM (\n{}\n) AS q WHERE {}",
        inner(&definition.query, tenants, tenant_type),
        tenants.condition("q.tenant", tenant_type),
    )
}

/// Of the contexts of some tenants those with these keys: an array of text, as SQL writes it.
pub fn contexts_of_keys(
    definition: &Definition,
    (tenant_type, key_type): (&str, &str),
    tenants: Tenants<'_>,
    keys: &str,
) -> String {
    let contexts = contexts(definition, tenant_type, tenants);
    format!("{contexts} AND q.key = ANY(({keys})::{key_type}[])")
}

/// The tenants that have rows of a kind.
pub fn tenants(definition: &Definition, tenant_type: &str, tenants: Tenants<'_>) -> String {
    let inner = inner(&definition.query, tenants, tenant_type);
    let condition = tenants.condition("q.tenant", tenant_type);
    format!("SELECT DISTINCT q.tenant::text FROM (\n{inner}\n) AS q WHERE {condition}")
}

/// The tenants that have a context with the key `$1`.
pub fn with_key(definition: &Definition, tenant_type: &str) -> String {
    let inner = inner(&definition.query, Tenants::All, tenant_type);
    format!(
        "SELECT DISTINCT q.tenant::text FROM (\n{inner}\n) AS q WHERE q.key::text = $1 AND q.tenant IS NOT NULL LIMIT 100"
    )
}

/// The holds of some tenants. What no tenant of this type can be called is nobody's.
pub fn holds(tenant_type: &str, tenants: Tenants<'_>) -> String {
    let condition = match tenants {
        Tenants::Listed(list) => format!("h.tenant = ANY({list})"),
        range => range.condition(&format!("h.tenant::{tenant_type}"), tenant_type),
    };
    format!("SELECT {COLUMNS} FROM hubcast.holds h WHERE {IN_FORCE} AND {condition}")
}

/// Rows of a kind without a tenant, counted up to 1,000.
pub fn tenantless(definition: &Definition, tenant_type: &str) -> String {
    let inner = inner(&definition.query, Tenants::Null, tenant_type);
    format!(
        "SELECT count(*) FROM (SELECT 1 FROM (\n{inner}\n) AS q WHERE q.tenant IS NULL LIMIT 1000) AS n"
    )
}

/// The query as it was written, for looking at what it returns.
pub fn bare(query: &str) -> String {
    inner(query, Tenants::All, "text")
}

/// Why a query cannot be one SELECT, seen from its first word. The database has the last word; its own message would
/// be about a syntax error in text that nobody wrote.
pub fn not_one_select(query: &str) -> Option<String> {
    const FIRST: &[&str] = &["select", "with", "values", "table"];
    match words(query).first() {
        None => Some("it is empty".to_owned()),
        Some(Word::Name(name)) if !FIRST.contains(&name.as_str()) => {
            Some(format!("it begins with {}", name.to_uppercase()))
        }
        _ => None,
    }
}

/// Functions whose result is not determined by the snapshot of a build. What they return would differ from build to
/// build, or change without anybody writing, so that no scan could tell a difference from a change.
const UNSTABLE: &[&str] = &[
    "now",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "age",
    "random",
    "gen_random_uuid",
    "gen_random_bytes",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "txid_current",
    "pg_current_xact_id",
    "pg_current_snapshot",
    "current_user",
    "session_user",
    "current_role",
    "pg_backend_pid",
    "inet_client_addr",
    "inet_client_port",
];

/// Those of them that are written without parentheses.
const KEYWORDS: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "current_user",
    "session_user",
    "current_role",
];

/// The first function in a query whose result is not determined by the snapshot, if there is one.
pub fn unstable_function(query: &str) -> Option<String> {
    let words = words(query);
    words.iter().enumerate().find_map(|(i, word)| {
        let Word::Name(name) = word else { return None };
        let called = words.get(i + 1) == Some(&Word::Sign('('));
        // One argument of age() is the present day; with two it is a plain difference.
        let plain = name == "age" && argument_count(&words[i + 1..]) > 1;
        let unstable =
            UNSTABLE.contains(&name.as_str()) && (called || KEYWORDS.contains(&name.as_str()));
        // `t.now` is a column.
        let qualified = i > 0 && words[i - 1] == Word::Sign('.') && !called;
        (unstable && !plain && !qualified).then(|| name.clone())
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    Sign(char),
}

fn argument_count(words: &[Word]) -> usize {
    let (mut depth, mut commas) = (0, 0);
    for word in words {
        match word {
            Word::Sign('(') => depth += 1,
            Word::Sign(')') if depth == 1 => break,
            Word::Sign(')') => depth -= 1,
            Word::Sign(',') if depth == 1 => commas += 1,
            _ => {}
        }
    }
    commas + 1
}

/// Names (folded to lower case) and signs of a query; strings, quoted names and comments are left out.
fn words(query: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |i| i + 2)
        } else if c == '\'' || c == '"' {
            rest[1..].find(c).map_or(rest.len(), |i| i + 2)
        } else if c == '$' {
            dollar_quote(rest)
        } else if c.is_alphabetic() || c == '_' {
            let len = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$')
                .unwrap_or(rest.len());
            words.push(Word::Name(rest[..len].to_lowercase()));
            len
        } else {
            if !c.is_whitespace() {
                words.push(Word::Sign(c));
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    words
}

fn dollar_quote(rest: &str) -> usize {
    let tag = rest[1..].find('$').map(|i| &rest[..i + 2]);
    let is_tag = |t: &str| {
        t[1..t.len() - 1]
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_')
    };
    match tag.filter(|t| is_tag(t)) {
        Some(tag) => rest[tag.len()..]
            .find(tag)
            .map_or(rest.len(), |i| i + 2 * tag.len()),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_moment_are_found_wherever_they_stand() {
        for wrong in [
            "SELECT now() AS key",
            "SELECT a FROM t WHERE expires > CURRENT_TIMESTAMP",
            "SELECT pg_catalog.now ()",
            "SELECT age(created_at)",
            "SELECT 'x' || random()",
        ] {
            assert!(unstable_function(wrong).is_some(), "{wrong}");
        }
        for right in [
            "SELECT 'now()' AS key, \"now\" FROM t -- now()",
            "SELECT t.now, now FROM t",
            "SELECT /* random() */ age(a, b)",
            "SELECT $x$ now() $x$, known(1)",
        ] {
            assert_eq!(unstable_function(right), None, "{right}");
        }
    }

    #[test]
    fn a_placeholder_is_replaced_by_the_condition_in_the_tenants_own_type() {
        let query = "SELECT * FROM k WHERE {{tenants( k.tenant_id )}} AND x";
        assert_eq!(placeholders(query), Ok(vec!["k.tenant_id"]));
        assert_eq!(
            inner(query, Tenants::Between, "bigint"),
            "SELECT * FROM k WHERE (k.tenant_id >= $1::text::bigint AND k.tenant_id < $2::text::bigint) AND x"
        );
        assert!(placeholders("{{tenants(x").is_err() && placeholders("{{tenant(x)}}").is_err());
    }
}
