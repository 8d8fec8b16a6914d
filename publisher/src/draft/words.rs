//! What names of tables and columns usually mean. Pure.

use crate::source::inspect::{Column, Table};

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
/// Those of them that may name a part of a tenant, where what they refer to says whose it is.
const PART_COLUMNS: [&str; 2] = ["teamid", "projectid"];
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
/// Those of them that may be parts of a tenant.
const PART_TABLES: [&str; 1] = ["team"];
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
const SECRET: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "privatekey",
    "apikey",
    "accesskey",
    "signingkey",
    "encryptionkey",
    "keydigest",
    "salt",
    "credential",
    "hash",
    "recoverycode",
];
/// The same, as whole words.
const SECRET_WORDS: [&str; 4] = ["ssn", "otp", "totp", "pin"];
/// A name that ends so is about a secret, and none.
const NO_SECRET: [&str; 6] = ["id", "type", "algorithm", "algo", "status", "policy"];
/// What is in the names of hashes of something that is shown to a gateway.
const SHOWN: [&str; 4] = ["key", "token", "secret", "credential"];
/// What is done to a row by using it, in names that begin with `last`.
const USES: [&str; 12] = [
    "used",
    "seen",
    "login",
    "active",
    "activity",
    "access",
    "signin",
    "request",
    "ping",
    "heartbeat",
    "checkin",
    "contact",
];
/// Moments that change with a row, whatever changes in it.
const TOUCHED: [&str; 10] = [
    "updatedat",
    "updated",
    "updatedon",
    "modifiedat",
    "modified",
    "modifiedon",
    "lastmodified",
    "lastupdated",
    "heartbeatat",
    "currentsigninat",
];
/// Numbers that grow by use.
const COUNTED: [&str; 8] = [
    "usecount",
    "usagecount",
    "requestcount",
    "requestscount",
    "logincount",
    "signincount",
    "accesscount",
    "hitcount",
];
/// References of these names say who did something to a row, which need not be whose it is.
const DEEDS: [&str; 4] = ["by", "byid", "byuserid", "byuser"];

/// A name without case, underscores and the like.
pub fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The words of a name, in lower case: `last_used_at`, `lastUsedAt`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A word for one of what is named.
pub fn singular(name: &str) -> String {
    match name {
        _ if name.ends_with("ies") && name.len() > 4 => format!("{}y", &name[..name.len() - 3]),
        _ if name.ends_with("sses") || name.ends_with("xes") => name[..name.len() - 2].to_owned(),
        _ if name.ends_with('s') && !name.ends_with("ss") && name.len() > 2 => {
            name[..name.len() - 1].to_owned()
        }
        _ => name.to_owned(),
    }
}

/// How likely a column of this name says whose a row is: the smaller, the likelier.
pub fn tenant_rank(column: &str) -> Option<usize> {
    let plain = plain(column);
    TENANT_COLUMNS.iter().position(|wanted| *wanted == plain)
}

/// Whether a column of this name may name a part of a tenant.
pub fn is_part_column(column: &str) -> bool {
    PART_COLUMNS.contains(&plain(column).as_str())
}

/// Whether rows of a table of this name are tenants.
pub fn is_tenant_table(relation: &str) -> bool {
    TENANT_TABLES.contains(&singular(&plain(relation)).as_str())
}

/// Whether rows of a table of this name may be parts of tenants.
pub fn is_part_table(relation: &str) -> bool {
    PART_TABLES.contains(&singular(&plain(relation)).as_str())
}

/// Whether a reference of this name says who did something.
pub fn is_deed(column: &str) -> bool {
    let plain = plain(column);
    words(column).len() > 1 && DEEDS.iter().any(|deed| plain.ends_with(deed))
}

/// The column that says when a row is over.
pub fn expires(table: &Table) -> Option<&Column> {
    let is_moment = |c: &&Column| {
        matches!(
            c.sql_type.as_str(),
            "timestamp with time zone" | "timestamp without time zone"
        )
    };
    EXPIRES.iter().find_map(|wanted| {
        let mut columns = table.columns.iter().filter(is_moment);
        columns.find(|c| plain(&c.name) == *wanted)
    })
}

/// Whether a type has numbers.
pub fn is_number(sql_type: &str) -> bool {
    [
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "double precision",
    ]
    .contains(&sql_type)
}

/// Whether a type has moments.
pub fn is_moment(sql_type: &str) -> bool {
    sql_type.starts_with("timestamp") || sql_type.starts_with("time ") || sql_type == "date"
}

/// Whether a type has texts of any length.
pub fn is_text(sql_type: &str) -> bool {
    matches!(sql_type, "text" | "character varying")
}

/// Whether nobody should see what is in a column, to go by its name and type.
pub fn is_secret(table: &Table, column: &Column) -> bool {
    let (letters, words) = (plain(&column.name), words(&column.name));
    let is_named = SECRET.iter().any(|word| letters.contains(word))
        || SECRET_WORDS
            .iter()
            .any(|word| words.iter().any(|w| w == word));
    let is_about = words
        .last()
        .is_some_and(|w| NO_SECRET.contains(&w.as_str()));
    let refers = table
        .references
        .iter()
        .any(|r| r.columns.contains(&column.name));
    let sql_type = column.sql_type.as_str();
    let cannot =
        is_number(sql_type) || is_moment(sql_type) || ["boolean", "interval"].contains(&sql_type);
    is_named && !is_about && !refers && !cannot
}

/// Whether a column has hashes of what is shown to a gateway, such as API keys, to go by its name and type.
pub fn is_hash_of_shown(table: &Table, column: &Column) -> bool {
    let is_hash =
        |w: &String| ["hash", "hashed", "digest", "sha256", "fingerprint"].contains(&w.as_str());
    let all = words(&column.name);
    let is_shown = |letters: &str| SHOWN.iter().any(|word| letters.contains(word));
    // In a table of keys a column that is called `hash` has theirs.
    let rest: String = all.iter().filter(|w| !is_hash(w)).cloned().collect();
    let is_theirs = is_shown(&rest) || (rest.is_empty() && is_shown(&plain(&table.relation)));
    let fits =
        is_text(&column.sql_type) || column.sql_type == "bytea" || column.sql_type == "character";
    all.iter().any(is_hash) && is_theirs && fits && !letters_of_password(&rest)
}

fn letters_of_password(letters: &str) -> bool {
    letters.contains("pass")
}

/// Whether a column changes with every use of what the row is about, to go by its name and type.
pub fn changes_often(column: &Column) -> bool {
    let letters = plain(&column.name);
    let is_one_of = |list: &[&str]| list.contains(&letters.as_str());
    let sql_type = column.sql_type.as_str();
    let by_use = letters
        .strip_prefix("last")
        .is_some_and(|rest| USES.iter().any(|u| rest.starts_with(u)));
    by_use
        || (is_moment(sql_type) && is_one_of(&TOUCHED))
        || (is_number(sql_type) && is_one_of(&COUNTED))
}
