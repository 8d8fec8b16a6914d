//! The `[[context]]` as text. Pure. Whatever names and comments contain, it stays TOML and SQL.

use super::columns::LeftOut;
use super::types::Tenants;
use super::{Context, is_text_like};
use std::fmt::Write;

/// A TOML string over several lines.
fn long(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace("\"\"", "\\\"\\\"");
    format!("\"\"\"\n{text}\"\"\"")
}

fn short(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Characters of a line of a comment, about.
const WIDTH: usize = 120;

/// A comment, whatever is in it.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if line.len() > 1 && line.chars().count() + word.chars().count() >= WIDTH {
            out.extend([&line, "\n"]);
            line = String::from("#");
        }
        line.extend([" ", word]);
    }
    out.extend([&line, "\n"]);
}

impl Context {
    /// The `[[context]]`.
    pub fn toml(&self) -> String {
        let mut out = String::new();
        for line in self.says() {
            comment(&mut out, &line);
        }
        let _ = writeln!(out, "[[context]]\nkind  = {}", short(&self.kind));
        let _ = writeln!(out, "query = {}", long(&self.query()));
        let _ = writeln!(out, "watch = [");
        for watch in self.watches() {
            let _ = writeln!(out, "  {watch},");
        }
        let _ = writeln!(out, "]");
        if self.published.has_secrets {
            let _ = writeln!(
                out,
                "# sensitive = true   # if you put in what looks secret: the console compares its values and does not show them"
            );
        }
        out
    }

    /// What is to be said before it.
    fn says(&self) -> Vec<String> {
        let mut says = vec![format!("{}: {}", self.table, self.key.says[0])];
        says.extend(self.key.says[1..].iter().cloned());
        match &self.tenants {
            Tenants::Shared(one) => says.push(format!(
                "No column says whose a row is, and {}, which could stand for the tenant, is {}, unlike the tenants of other \
                 kinds: all rows are of one tenant, {one}, and are pushed together whenever one changes.",
                self.owner.column, self.owner.sql_type
            )),
            Tenants::AsText => {
                says.extend(self.owner.says.iter().cloned());
                says.push(
                    "Kinds here have tenants of several types, so they are compared as text.".to_owned(),
                );
            }
            Tenants::Alike | Tenants::Widened(_) => says.extend(self.owner.says.iter().cloned()),
        }
        says.extend(self.published.says.iter().cloned());
        if !self.published.left_out.is_empty() {
            let more = match self.columns().is_some() {
                true => {
                    ", and name it in `columns` too, which has what the query reads of the table"
                }
                false => "",
            };
            if self.published.has_uses && !self.has_primary {
                says.push(
                    "The table has no primary key, by which triggers tell which row became which: each use is a build, and no push."
                        .to_owned(),
                );
            }
            says.push(format!(
                "What is left out stands behind `--` in the query: take that away to put it in{more}."
            ));
        }
        says
    }

    /// The tables that the query reads.
    pub(super) fn from(&self) -> String {
        let mut from = format!("FROM {} t", self.table);
        if matches!(self.tenants, Tenants::Shared(_)) {
            return from;
        }
        let mut before = "t".to_owned();
        for join in &self.owner.joins {
            let on: Vec<String> = join
                .on
                .iter()
                .map(|(here, there)| format!("{}.{there} = {before}.{here}", join.alias))
                .collect();
            let _ = write!(
                from,
                "\n  JOIN {} {} ON {}",
                join.table,
                join.alias,
                on.join(" AND ")
            );
            before.clone_from(&join.alias);
        }
        from
    }

    fn query(&self) -> String {
        let tenant = self.owner.sql();
        let (tenant, condition) = match &self.tenants {
            Tenants::Alike => (tenant, None),
            // An index of the column compares with the wider type, but not with what a cast makes of the column.
            Tenants::Widened(to) if is_text_like(to) => (format!("{tenant}::{to}"), None),
            Tenants::Widened(to) => (
                format!("{tenant}::{to}"),
                Some(format!("{{{{tenants({tenant})}}}}")),
            ),
            Tenants::AsText => (format!("{tenant}::text"), None),
            Tenants::Shared(one) => (one.clone(), None),
        };
        let mut columns = vec![
            format!("{} AS key", self.key.sql),
            format!("{tenant} AS tenant"),
        ];
        columns.extend(self.published.regions.clone());
        columns.extend(
            self.published
                .expires
                .iter()
                .map(|(_, sql)| format!("{sql} AS expires")),
        );
        columns.extend(self.published.values.iter().cloned());
        let mut query = format!("  SELECT {}\n", columns.join(",\n         "));
        for LeftOut { sql, why } in &self.published.left_out {
            let _ = writeln!(query, "         -- , {sql}   -- {why}");
        }
        let _ = writeln!(query, "  {}", self.from());
        let is_nobodys = self.owner.may_be_null && !matches!(self.tenants, Tenants::Shared(_));
        let not_null = is_nobodys.then(|| format!("{} IS NOT NULL", self.owner.sql()));
        let conditions: Vec<String> = condition.into_iter().chain(not_null).collect();
        if !conditions.is_empty() {
            let _ = writeln!(query, "  WHERE {}", conditions.join(" AND "));
        }
        query
    }

    /// The columns of the table whose changes matter, if there are others and it has a key by which that shows.
    fn columns(&self) -> Option<Vec<String>> {
        if !self.published.has_uses || !self.has_primary {
            return None;
        }
        let mut columns = self.published.read.clone();
        columns.extend(self.key.columns.iter().cloned());
        if !matches!(self.tenants, Tenants::Shared(_)) {
            columns.extend(self.owner.deciding.iter().cloned());
        }
        let mut seen = Vec::new();
        for column in columns {
            if !seen.contains(&column) {
                seen.push(column);
            }
        }
        Some(seen)
    }

    /// Every table that the query reads, and whose contexts a change of it concerns.
    fn watches(&self) -> Vec<String> {
        let entry = |table: &str, whose: String, columns: Option<&[String]>| {
            let columns = columns.map_or(String::new(), |columns| {
                let columns: Vec<String> = columns.iter().map(|c| short(c)).collect();
                format!(", columns = [{}]", columns.join(", "))
            });
            format!("{{ table = {}, {whose}{columns} }}", short(table))
        };
        let columns = self.columns();
        let owner = &self.owner;
        if let Tenants::Shared(one) = &self.tenants {
            let whose = format!("tenants = {}", short(&format!("SELECT {one} FROM changed")));
            return vec![entry(&self.table, whose, columns.as_deref())];
        }
        // A change of a table leads on to the tenant by the tables behind it, which are watched too.
        let leads = |joins: &[super::owner::Join]| {
            let mut query = format!("SELECT {} FROM changed", owner.sql());
            let mut before = "changed".to_owned();
            for join in joins {
                let on: Vec<String> = join
                    .on
                    .iter()
                    .map(|(here, there)| format!("{}.{there} = {before}.{here}", join.alias))
                    .collect();
                let _ = write!(
                    query,
                    " JOIN {} {} ON {}",
                    join.table,
                    join.alias,
                    on.join(" AND ")
                );
                before.clone_from(&join.alias);
            }
            format!("tenants = {}", short(&query))
        };
        let direct = match (&self.tenants, is_text_like(&owner.sql_type)) {
            (Tenants::AsText, false) => {
                format!(
                    "tenants = {}",
                    short(&format!("SELECT changed.{} FROM changed", owner.quoted))
                )
            }
            _ => format!("tenant = {}", short(&owner.column)),
        };
        let first = match owner.joins.is_empty() {
            true => direct.clone(),
            false => leads(&owner.joins),
        };
        let mut watches = vec![entry(&self.table, first, columns.as_deref())];
        for (i, join) in owner.joins.iter().enumerate() {
            let behind = &owner.joins[i + 1..];
            let whose = if behind.is_empty() {
                direct.clone()
            } else {
                leads(behind)
            };
            let deciding = join.has_primary.then_some(join.deciding.as_slice());
            watches.push(entry(&join.table, whose, deciding));
        }
        watches
    }

    /// Indexes without which a build of one tenant reads a table whole, each as a statement.
    pub fn missing_indexes(&self) -> Vec<String> {
        let owner = &self.owner;
        let mut missing = match self.tenants {
            Tenants::Shared(_) => Vec::new(),
            _ => owner.missing.clone(),
        };
        if self.tenants == Tenants::AsText && !is_text_like(&owner.sql_type) {
            let table = owner.table().unwrap_or(&self.table).to_owned();
            missing.retain(|(t, columns)| *t != table || *columns != [owner.quoted.clone()]);
            missing.push((table, vec![format!("({}::text)", owner.quoted)]));
        }
        let index = |(table, columns): (String, Vec<String>)| {
            // Postgres makes none of a partitioned table beside other work.
            let how = if self.partitioned.contains(&table) {
                ""
            } else {
                "CONCURRENTLY "
            };
            format!("CREATE INDEX {how}ON {table} ({})", columns.join(", "))
        };
        missing.into_iter().map(index).collect()
    }
}
