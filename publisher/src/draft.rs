//! A first configuration for tables of the user's own: from what the catalogs say to TOML with comments. Pure.
//!
//! It guesses, and says what it guessed and why, so that a person can put it right; what it writes must always be something
//! that `check` accepts.

use crate::source::inspect::{Column, Table};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Why a table cannot be published as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undrafted {
    /// Not a table.
    #[error("{0} is a {1}, which has no triggers: name the tables that it reads")]
    NotATable(String, &'static str),
    /// Nothing by which a row can be found.
    #[error(
        "{0} has no primary key, and nothing else in it is unique and NOT NULL, so its rows have no key to be looked up by: \
         add one, or write its [[context]] by hand (README, \"Define a context of your own\")"
    )]
    NoKey(String),
    /// A name that means something else in a query of a configuration.
    #[error(
        "{0}: the name {1:?} has ${{ or {{{{, which a query cannot contain: write its [[context]] over a view by hand"
    )]
    Name(String, String),
}

/// The `[[context]]` of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Context {
    /// The kind that it was given.
    pub kind: String,
    /// The type of its tenants.
    pub tenant_type: String,
    table: String,
    key: String,
    key_is: String,
    tenant: String,
    tenant_column: String,
    tenant_is: String,
    may_be_null: bool,
    values: Vec<String>,
    expires: Option<(String, String)>,
    left_out: Vec<String>,
    secret: Vec<String>,
    unindexed: bool,
}

/// Columns of these names say whose a row is, the likeliest first; without case and underscores.
const TENANT_COLUMNS: [&str; 16] = [
    "tenantid",
    "tenant",
    "tenantuuid",
    "orgid",
    "organizationid",
    "organisationid",
    "org",
    "organization",
    "accountid",
    "account",
    "workspaceid",
    "customerid",
    "customer",
    "companyid",
    "teamid",
    "projectid",
];
/// Rows of tables with these names are tenants themselves, and what refers to them is theirs.
const TENANT_TABLES: [&str; 9] = [
    "tenant",
    "organization",
    "organisation",
    "org",
    "account",
    "workspace",
    "customer",
    "company",
    "team",
];
/// Columns of these names say when a row is over.
const EXPIRES: [&str; 7] = [
    "expiresat",
    "expires",
    "expiry",
    "expiration",
    "expireson",
    "validuntil",
    "validto",
];
/// What is in the names of columns whose values nobody should see.
const SECRET: [&str; 10] = [
    "password",
    "passwd",
    "secret",
    "token",
    "privatekey",
    "apikey",
    "salt",
    "credential",
    "hash",
    "ssn",
];
/// Columns that mean something to Hubcast.
const RESERVED: [&str; 4] = ["key", "tenant", "regions", "expires"];

fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn singular(name: &str) -> String {
    match name {
        _ if name.ends_with("ies") && name.len() > 4 => format!("{}y", &name[..name.len() - 3]),
        _ if name.ends_with("sses") || name.ends_with("xes") => name[..name.len() - 2].to_owned(),
        _ if name.ends_with('s') && !name.ends_with("ss") && name.len() > 2 => {
            name[..name.len() - 1].to_owned()
        }
        _ => name.to_owned(),
    }
}

/// A name for a kind: that of the table in the singular, of letters that a kind may have, and not taken.
fn kind(relation: &str, taken: &BTreeSet<String>) -> String {
    let mut name = String::new();
    let mut was_lower = false;
    for c in relation.chars() {
        if c.is_ascii_uppercase() && was_lower {
            name.push('_');
        }
        was_lower = c.is_ascii_lowercase();
        match c.is_ascii_alphanumeric() {
            true => name.push(c.to_ascii_lowercase()),
            false if name.ends_with('_') || name.is_empty() => {}
            false => name.push('_'),
        }
    }
    let name = singular(name.trim_end_matches('_'));
    let name = match name.chars().next() {
        Some(c) if c.is_ascii_lowercase() => name,
        _ => format!("kind_{name}"),
    };
    let name: String = name.chars().take(48).collect();
    let name = name.trim_end_matches('_').to_owned();
    let mut others = (2..).map(|n| format!("{name}_{n}"));
    match taken.contains(&name) {
        false => name,
        true => others.find(|n| !taken.contains(n)).unwrap_or(name),
    }
}

fn is_text(sql_type: &str) -> bool {
    ![
        "uuid", "bigint", "integer", "smallint", "boolean", "numeric", "date",
    ]
    .contains(&sql_type)
}

/// One text for several columns that no other row has: where more than one of them is text, what joins them is escaped.
fn joined(columns: &[&Column]) -> String {
    let texts = columns.iter().filter(|c| is_text(&c.sql_type)).count();
    let part = |column: &&Column| {
        let text = format!("t.{}::text", column.quoted);
        match texts > 1 && is_text(&column.sql_type) {
            true => format!("replace(replace({text}, '%', '%25'), '/', '%2F')"),
            false => text,
        }
    };
    let parts: Vec<String> = columns.iter().map(part).collect();
    parts.join(" || '/' || ")
}

/// Guesses the context of a table.
///
/// # Errors
/// [`Undrafted`] if it cannot be published as it is.
pub fn context(table: &Table, taken: &BTreeSet<String>) -> Result<Context, Undrafted> {
    let name = table.name.clone();
    match table.kind.as_str() {
        "r" | "p" => {}
        "v" => return Err(Undrafted::NotATable(name, "view")),
        "m" => return Err(Undrafted::NotATable(name, "materialized view")),
        _ => return Err(Undrafted::NotATable(name, "foreign table")),
    }
    let names = table.columns.iter().map(|c| &c.quoted).chain([&table.name]);
    if let Some(odd) = names
        .into_iter()
        .find(|n| n.contains("${") || n.contains("{{"))
    {
        return Err(Undrafted::Name(name, odd.clone()));
    }
    let column = |name: &str| table.columns.iter().find(|c| c.name == name);
    let key_names = table.keys.first().ok_or(Undrafted::NoKey(name.clone()))?;
    let key_columns: Vec<&Column> = key_names.iter().filter_map(|n| column(n)).collect();
    let [first, ..] = key_columns.as_slice() else {
        return Err(Undrafted::NoKey(name));
    };
    let (tenant, tenant_is) = tenant(table, first, key_columns.len());
    let others: Vec<String> = table.keys[1..]
        .iter()
        .map(|columns| columns.join(" and "))
        .collect();
    let mut key_is = format!("the key is {}", key_names.join(" and "));
    if !others.is_empty() {
        let _ = write!(key_is, "; {} would do as well", others.join(", or "));
    }
    let key = match key_columns.as_slice() {
        [one] => format!("t.{}", one.quoted),
        several => joined(several),
    };
    let expires = expires(table);
    let mut drafted = Context {
        kind: kind(&table.relation, taken),
        tenant_type: tenant.sql_type.clone(),
        table: name,
        key,
        key_is,
        tenant: format!("t.{}", tenant.quoted),
        tenant_column: tenant.name.clone(),
        tenant_is,
        may_be_null: tenant.is_nullable,
        values: Vec::new(),
        left_out: Vec::new(),
        secret: Vec::new(),
        unindexed: !table.indexed.contains(&tenant.name),
        expires: expires
            .as_ref()
            .map(|(column, sql)| (column.name.clone(), sql.clone())),
    };
    let is_part = |c: &Column| {
        c.name == tenant.name
            || expires.as_ref().is_some_and(|(e, _)| e.name == c.name)
            || (key_columns.len() == 1 && c.name == first.name)
    };
    let all: BTreeSet<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    for column in table.columns.iter().filter(|c| !is_part(c)) {
        let Column {
            name,
            quoted,
            sql_type,
            ..
        } = column;
        if sql_type == "bytea" {
            drafted.left_out.push(format!("{name} (bytea)"));
            continue;
        }
        let letters = plain(name);
        if SECRET.iter().any(|word| letters.contains(word)) {
            drafted.secret.push(name.clone());
        }
        drafted
            .values
            .push(match RESERVED.contains(&name.as_str()) {
                false => format!("t.{quoted}"),
                true => {
                    let free = (1..).map(|n| format!("{name}_column{}", "_".repeat(n - 1)));
                    let free = free.into_iter().find(|n| !all.contains(n.as_str()));
                    format!("t.{quoted} AS {}", free.unwrap_or_default())
                }
            });
    }
    Ok(drafted)
}

/// The column that says whose a row is, and how that is known.
fn tenant<'a>(table: &'a Table, first: &'a Column, key: usize) -> (&'a Column, String) {
    let named = TENANT_COLUMNS.iter().find_map(|wanted| {
        let mut columns = table.columns.iter();
        columns.find(|c| plain(&c.name) == *wanted)
    });
    if let Some(column) = named {
        return (column, format!("{} says whose a row is", column.name));
    }
    let is_tenant = |relation: &str| TENANT_TABLES.contains(&singular(&plain(relation)).as_str());
    let mut references = table.references.iter();
    let reference = references.find(|r| is_tenant(&r.to));
    let referring = reference.and_then(|r| {
        let column = table.columns.iter().find(|c| c.name == r.column)?;
        Some((
            column,
            format!(
                "{}, which refers to {}, says whose a row is",
                r.column, r.to
            ),
        ))
    });
    if let Some(found) = referring {
        return found;
    }
    let is = match (is_tenant(&table.relation), key) {
        (true, 1) => format!("a row is a tenant, by its {}", first.name),
        _ => format!(
            "no column says whose a row is, so {} stands for the tenant: contexts of one tenant change together, so name \
             a better one here and in `watch` if there is one",
            first.name
        ),
    };
    (first, is)
}

/// The column that says when a row is over, and the moment as SQL.
fn expires(table: &Table) -> Option<(&Column, String)> {
    EXPIRES.iter().find_map(|wanted| {
        let column = table.columns.iter().find(|c| plain(&c.name) == *wanted)?;
        let moment = match column.sql_type.as_str() {
            "timestamp with time zone" => format!("t.{}", column.quoted),
            "timestamp without time zone" => format!("t.{} AT TIME ZONE 'UTC'", column.quoted),
            _ => return None,
        };
        Some((column, moment))
    })
}

/// A TOML string over several lines.
fn long(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace("\"\"", "\\\"\\\"");
    format!("\"\"\"\n{text}\"\"\"")
}

fn short(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A comment, whatever is in it.
fn comment(out: &mut String, text: &str) {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(out, "# {text}");
}

impl Context {
    /// The `[[context]]`, with tenants as text where the tables do not have them in one type.
    pub fn toml(&self, as_text: bool) -> String {
        let mut out = String::new();
        let tenant = match as_text {
            true => format!("{}::text", self.tenant),
            false => self.tenant.clone(),
        };
        comment(&mut out, &format!("{}: {};", self.table, self.key_is));
        comment(&mut out, &format!("{}.", self.tenant_is));
        if self.unindexed {
            comment(
                &mut out,
                &format!(
                    "No index begins with {}: one would make builds cheaper.",
                    self.tenant_column
                ),
            );
        }
        if as_text {
            comment(
                &mut out,
                "The tables have tenants of several types, so they are compared as text.",
            );
        }
        if let Some((name, _)) = &self.expires {
            comment(
                &mut out,
                &format!("From {name} on readers answer 404 `expired`."),
            );
        }
        if !self.left_out.is_empty() {
            comment(
                &mut out,
                &format!(
                    "Left out, as JSON has no bytes: {}.",
                    self.left_out.join(", ")
                ),
            );
        }
        if !self.secret.is_empty() {
            comment(
                &mut out,
                &format!(
                    "Looks secret: {}. Gateways get what the query names: take out what they need not have.",
                    self.secret.join(", ")
                ),
            );
        }
        let mut columns = vec![
            format!("{} AS key", self.key),
            format!("{tenant} AS tenant"),
        ];
        columns.extend(
            self.expires
                .iter()
                .map(|(_, sql)| format!("{sql} AS expires")),
        );
        columns.extend(self.values.iter().cloned());
        let mut query = format!(
            "  SELECT {}\n  FROM {} t\n",
            columns.join(",\n         "),
            self.table
        );
        if self.may_be_null {
            let _ = writeln!(query, "  WHERE {} IS NOT NULL", self.tenant);
        }
        let _ = writeln!(out, "[[context]]\nkind  = {}", short(&self.kind));
        let _ = writeln!(out, "query = {}", long(&query));
        let _ = writeln!(
            out,
            "watch = [{{ table = {}, tenant = {} }}]",
            short(&self.table),
            short(&self.tenant_column)
        );
        if !self.secret.is_empty() {
            let _ = writeln!(
                out,
                "sensitive = true   # the console compares its values and does not show them"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_the_table_in_the_singular() {
        let taken = BTreeSet::from(["user".to_owned()]);
        for (relation, expected) in [
            ("api_keys", "api_key"),
            ("ApiKeys", "api_key"),
            ("Policies", "policy"),
            ("address", "address"),
            ("users", "user_2"),
            ("7 odd \"names\"", "kind_7_odd_name"),
            ("über", "ber"),
            ("", "kind_"),
        ] {
            let kind = kind(relation, &taken);
            assert_eq!(kind, expected.trim_end_matches('_'), "{relation}");
            assert!(contexts::name::Kind::is_one(&kind), "{kind}");
        }
    }

    /// Would catch two rows that get one key.
    #[test]
    fn texts_that_are_joined_stay_apart() {
        let column = |name: &str, sql_type: &str| Column {
            name: name.into(),
            quoted: name.into(),
            sql_type: sql_type.into(),
            is_nullable: false,
        };
        let (text, number) = (column("a", "text"), column("b", "bigint"));
        assert_eq!(joined(&[&text, &number]), "t.a::text || '/' || t.b::text");
        let both = joined(&[&text, &text]);
        assert_eq!(both.matches("'%2F'").count(), 2, "{both}");
    }
}
