//! The text of the trigger functions. Pure.
//!
//! A function runs in the application's transaction, so it is one INSERT that reads nothing but the rows that the
//! statement changed: no lock, no subtransaction, nothing that can fail by what the rows contain. It has no join, since
//! its plan is made for the first statement of a session and kept: a plan for one row must do for a million. For the
//! same reason it never sorts and is never compiled.
//!
//! Which rows of an UPDATE count, when only some columns matter, is found by sums: of a number made from the primary key
//! and these columns, over the rows as they were, less the same over the rows as they are. It is zero for a tenant
//! whose rows differ in nothing that matters.

use super::Event;
use super::plan::{Counts, Function, Keyed, Recorded, RecordedColumn, Spec};
use std::collections::{BTreeMap, BTreeSet};

/// Changed rows, old and new, that one statement may leave for `tenants` queries; more are answered by a scan.
const ROWS_MAX: u32 = 1_000;
/// Bytes of such a row, as it is stored. JSON has limits of its own, and reaching them would fail the statement.
const ROW_BYTES_MAX: u32 = 1 << 18;
/// Bytes of all such rows of one statement.
const BYTES_MAX: u32 = 1 << 22;

/// Changed rows of one statement, as they were or as they are, whose keys are written down; of more only the tenants are.
const KEYS_MAX: u32 = 32;
/// Bytes of a key that is written down. No context has a longer one.
const KEY_BYTES_MAX: u32 = 1 << 10;

/// Whether there is room for rows. `hubcast.has_room` says so too, and counts if not; a call costs more than the rest.
/// An expression that is no query, which is evaluated without the executor.
const ROOM: &str = "CASE WHEN pg_sequence_last_value('hubcast.outbox_ids') - pg_sequence_last_value('hubcast.outbox_acked') \
    < pg_sequence_last_value('hubcast.outbox_cap') THEN true ELSE hubcast.has_room() END";

/// What every function runs under. `enable_sort`: see above.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("enable_sort", "off"),
    ("jit", "off"),
];
/// How a build writes values; for functions that turn a value into text that would look otherwise in another session.
const AS_IN_A_BUILD: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
];

/// The function of tables with these watches, for one event.
pub fn function(name: String, spec: &Spec, event: Event) -> Function {
    let needs_settings = spec.is_session_dependent && event != Event::Truncate;
    let more = if needs_settings { AS_IN_A_BUILD } else { &[] };
    let settings = SETTINGS.iter().chain(more);
    Function {
        name,
        body: body(spec, event),
        settings: settings
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

/// The tables of changed rows of an event, and the sign with which they count.
fn sides(event: Event) -> Vec<(&'static str, i8)> {
    let old = event.old_rows().map(|name| (name, 1));
    let new = event.new_rows().map(|name| (name, -1));
    old.into_iter().chain(new).collect()
}

fn body(spec: &Spec, event: Event) -> String {
    if event == Event::Truncate {
        return "\nBEGIN\n    INSERT INTO hubcast.outbox (mark) SELECT 'all' WHERE hubcast.has_room();\n    \
                RETURN NULL;\nEND\n"
            .to_owned();
    }
    let groups = groups(spec);
    let changed = groups
        .iter()
        .map(|(recorded, ids)| changed_rows(ids, recorded, event));
    let marks: Vec<String> = changed.chain(everyone(spec, &groups, event)).collect();
    let insert = match (tenants(spec, event, None), marks.is_empty()) {
        // What nearly every table has: the cheaper, the shorter the rows that are passed on.
        (Some(tenants), true) => match keyed(spec, event) {
            None => format!("INSERT INTO hubcast.outbox (tenant)\n        {tenants}"),
            Some((few, keys)) => format!(
                "IF ({few}) THEN\n        INSERT INTO hubcast.outbox (tenant, watch, changed)\n        {keys};\n        ELSE\n        \
                 INSERT INTO hubcast.outbox (tenant)\n        {tenants};\n        END IF"
            ),
        },
        (tenants, _) => {
            let tenants = tenants.map(|tenants| {
                format!("SELECT t.tenant, NULL::text, NULL::jsonb, NULL::text FROM ({tenants}) AS t(tenant)")
            });
            let parts: Vec<String> = tenants.into_iter().chain(marks).collect();
            let few = few(spec, event).map_or(String::new(), |few| format!("        {few}\n"));
            format!(
                "INSERT INTO hubcast.outbox (tenant, watch, changed, mark)\n{few}        {}",
                parts.join("\n        UNION ALL\n        ")
            )
        }
    };
    format!(
        "\nBEGIN\n    IF ({ROOM}) THEN\n        {insert};\n    END IF;\n    RETURN NULL;\nEND\n"
    )
}

/// The same part of a query for each table of changed rows.
fn each(event: Event, part: impl Fn(&str, i8) -> String) -> String {
    let parts: Vec<String> = sides(event)
        .into_iter()
        .map(|(side, sign)| format!("{} FROM {side}", part(side, sign)))
        .collect();
    parts.join(" UNION ALL ")
}

/// The columns that decide whether a row of an UPDATE counts; none if every row does.
fn deciding(counts: &Counts, event: Event) -> Option<&BTreeSet<String>> {
    match counts {
        Counts::If(columns) if event == Event::Update => Some(columns),
        _ => None,
    }
}

fn row(side: &str, columns: &BTreeSet<String>) -> String {
    let columns: Vec<String> = columns.iter().map(|c| format!("{side}.{c}")).collect();
    format!("ROW({})::text COLLATE \"C\"", columns.join(", "))
}

/// What a row adds to the sum; halved, so that its negative is a number as well.
fn term(side: &str, sign: i8, columns: &BTreeSet<String>, seed: usize) -> String {
    let half = format!("hashtextextended({}, {seed}) >> 1", row(side, columns));
    if sign < 0 { format!("-({half})") } else { half }
}

/// Whether the changed rows are so few that their keys are written down, and one row for every tenant of them, with these.
fn keyed(spec: &Spec, event: Event) -> Option<(String, String)> {
    let keyed = spec.keyed.as_ref()?;
    let (side, _) = sides(event).into_iter().next()?;
    let few = format!("NOT EXISTS (SELECT FROM {side} OFFSET {KEYS_MAX})");
    Some((few, tenants(spec, event, Some(keyed))?))
}

/// One row for every tenant of a changed row, perhaps with the keys of these rows.
fn tenants(spec: &Spec, event: Event, keyed: Option<&Keyed>) -> Option<String> {
    if spec.tenants.is_empty() {
        return None;
    }
    let decides: Vec<_> = spec
        .tenants
        .values()
        .map(|direct| deciding(&direct.counts, event))
        .collect();
    let mut types = spec.tenants.values().map(|direct| &direct.native);
    let first = types.next().unwrap_or(&None);
    // Numbers are told apart as such, which is cheaper; whatever has two ways to write the same value is told apart
    // by how it is written, since that is what a tenant is called.
    let is_native = first.is_some() && types.all(|t| t == first);
    let mut selects = Vec::new();
    for (seed, ((column, _), decides_)) in spec.tenants.iter().zip(&decides).enumerate() {
        selects.push(each(event, |side, sign| {
            let tenant = if is_native {
                format!("{side}.{column}")
            } else {
                format!("{side}.{column}::text COLLATE \"C\"")
            };
            let key = keyed.map_or(String::new(), |keyed| {
                format!(", {side}.{}::text", keyed.column)
            });
            match (decides_, decides.iter().any(Option::is_some)) {
                (Some(columns), _) => {
                    format!("SELECT {tenant}, {}{key}", term(side, sign, columns, seed))
                }
                (None, true) => format!("SELECT {tenant}, NULL::bigint{key}"),
                (None, false) => format!("SELECT {tenant}{key}"),
            }
        }));
    }
    let (columns, having) = match (
        decides.iter().any(Option::is_some),
        decides.iter().any(Option::is_none),
    ) {
        (false, _) => ("tenant", ""),
        (true, false) => ("tenant, term", " HAVING sum(x.term) <> 0"),
        (true, true) => (
            "tenant, term",
            " HAVING count(x.term) < count(*) OR sum(x.term) <> 0",
        ),
    };
    // What is no key is written down as null, and means that any may be concerned.
    let (key, keys) = match keyed {
        None => ("", String::new()),
        Some(Keyed { id, .. }) => (
            ", key",
            format!(
                ", '{id}', jsonb_agg(CASE WHEN octet_length(x.key) <= {KEY_BYTES_MAX} THEN x.key END)"
            ),
        ),
    };
    Some(format!(
        "SELECT x.tenant::text{keys} FROM (\n            {}\n        ) AS x({columns}{key}) \
         WHERE x.tenant IS NOT NULL GROUP BY x.tenant{having}",
        selects.join("\n            UNION ALL ")
    ))
}

/// The `tenants` queries, by what is recorded for them.
fn groups(spec: &Spec) -> BTreeMap<&Recorded, Vec<&String>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, recorded) in &spec.queries {
        groups.entry(recorded).or_default().push(id);
    }
    groups
}

/// Whether the changed rows are few enough to be written down.
fn few(spec: &Spec, event: Event) -> Option<String> {
    if spec.queries.is_empty() {
        return None;
    }
    let recorded = spec.queries.values().flat_map(|r| &r.columns);
    let varying: BTreeSet<&String> = recorded
        .filter(|c| c.is_varying)
        .map(|c| &c.quoted)
        .collect();
    let rows = each(event, |side, _| {
        let size = |c: &&String| format!("coalesce(pg_column_size({side}.{c}), 0)");
        let sizes: Vec<String> = varying.iter().map(size).collect();
        match sizes.is_empty() {
            true => "SELECT 0".to_owned(),
            false => format!("SELECT {}", sizes.join(" + ")),
        }
    });
    Some(format!(
        "WITH few AS MATERIALIZED (\n        SELECT count(*) <= {ROWS_MAX} AND coalesce(max(l.bytes) <= {ROW_BYTES_MAX} \
         AND sum(l.bytes) <= {BYTES_MAX}, true) AS yes\n          FROM ({rows} LIMIT {}) AS l(bytes))",
        ROWS_MAX + 1
    ))
}

/// A row for every changed row and `tenants` query. Values are written as text, which every type reads back and which
/// cannot fail; `jsonb` is what it is.
fn changed_rows(ids: &[&String], recorded: &Recorded, event: Event) -> String {
    let deciding = deciding(&recorded.counts, event);
    let select = |(side, sign): (&str, i8)| {
        let column = |c: &RecordedColumn| match c.is_jsonb {
            true => format!("{side}.{0} AS {0}", c.quoted),
            false => format!("{side}.{0}::text AS {0}", c.quoted),
        };
        let columns: Vec<String> = recorded.columns.iter().map(column).collect();
        let more = deciding.map_or(String::new(), |d| format!(", {}, {sign}", row(side, d)));
        format!(
            "SELECT to_jsonb(c.*){more} FROM {side}, LATERAL (SELECT {}) AS c",
            columns.join(", ")
        )
    };
    let parts: Vec<String> = sides(event).into_iter().map(select).collect();
    let all = parts.join("\n            UNION ALL ");
    let (rows, differs) = match deciding {
        None => (format!("(\n            {all}\n        ) AS x(changed)"), ""),
        Some(_) => (
            format!(
                "(SELECT y.changed, sum(y.side) OVER (PARTITION BY y.deciding) AS differs FROM (\n            {all}\n        \
                 ) AS y(changed, deciding, side)) AS x"
            ),
            " AND x.differs <> 0",
        ),
    };
    let ids: Vec<String> = ids.iter().map(|id| format!("('{id}')")).collect();
    format!(
        "SELECT NULL::text, w.id, x.changed, NULL::text FROM {rows}, (VALUES {}) AS w(id) \
         WHERE (SELECT few.yes FROM few){differs}",
        ids.join(", ")
    )
}

/// The mark that every tenant may have changed, if the statement changed anything that counts.
fn everyone(
    spec: &Spec,
    groups: &BTreeMap<&Recorded, Vec<&String>>,
    event: Event,
) -> Option<String> {
    let (side, _) = sides(event).into_iter().next()?;
    let any = |counts: &Counts| match deciding(counts, event) {
        None => format!("EXISTS (SELECT FROM {side})"),
        Some(columns) => {
            let terms = each(event, |side, sign| {
                format!("SELECT {}", term(side, sign, columns, 0))
            });
            format!("(SELECT sum(x.term) <> 0 FROM ({terms}) AS x(term))")
        }
    };
    let too_many = groups
        .keys()
        .map(|recorded| match deciding(&recorded.counts, event) {
            None => "NOT (SELECT few.yes FROM few)".to_owned(),
            Some(_) => {
                let any = any(&recorded.counts);
                format!("CASE WHEN (SELECT few.yes FROM few) THEN false ELSE {any} END")
            }
        });
    let conditions: BTreeSet<String> = spec.everyone.iter().map(any).chain(too_many).collect();
    if conditions.is_empty() {
        return None;
    }
    let conditions: Vec<String> = conditions.into_iter().collect();
    Some(format!(
        "SELECT NULL::text, NULL::text, NULL::jsonb, 'all' WHERE {}",
        conditions.join(" OR ")
    ))
}
