//! A schema that does everything that Postgres allows: names with quotes, spaces and Unicode in a schema of their own,
//! partitions, numbers of thirty digits, control characters, and tenants of three types.

use crate::truth::Kind;
use crate::world::World;
use system_tests::Result;
use system_tests::server::{Database, Server};

const SCHEMA: &str = include_str!("hostile.sql");
/// What is published of it.
pub const CONTEXTS: &str = include_str!("hostile.toml");

const TRUTH: &[Kind] = &[
    Kind {
        name: "odd_key",
        sql: r#"SELECT o.key, o."Tenant ID"::text, jsonb_build_object('Betrag', o."Betrag", 'Größe (m²)', o."Größe",
                  'data', o.data, 'Bin', '\x' || encode(o."Bin", 'hex'), 'Wer', m."Naïve ""Name""",
                  'At', to_char(o.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || '+00:00')::text
                FROM "Odd ""Schema"" €"."Schlüssel" o, "Odd ""Schema"" €"."Mandanten Übersicht" m
                WHERE m."Tenant ID" = o."Tenant ID" AND coalesce($1 = ANY (o."Regions"), true)"#,
    },
    Kind {
        name: "total",
        sql: r#"SELECT 'total of ' || m."Tenant ID", m."Tenant ID"::text,
                  jsonb_build_object('sum', (SELECT sum("Betrag") FROM "Odd ""Schema"" €"."Schlüssel" o
                    WHERE o."Tenant ID" = m."Tenant ID"))::text
                FROM "Odd ""Schema"" €"."Mandanten Übersicht" m WHERE $1 <> ''
                  AND m."Tenant ID" IN (SELECT "Tenant ID" FROM "Odd ""Schema"" €"."Schlüssel")"#,
    },
    Kind {
        name: "lease",
        sql: r#"SELECT id::text, "Tenant ID"::text, jsonb_build_object('läuft', 'ab')::text
                FROM "Odd ""Schema"" €"."Lease" WHERE $1 <> '' AND (ends IS NULL OR ends > now())"#,
    },
];

/// Changes that scans have to carry; `{first}` and `{last}` are tenants.
const CHANGES: [&str; 3] = [
    r#"UPDATE "Odd ""Schema"" €"."Schlüssel" SET "Betrag" = "Betrag" + 0.000000000000000000000000000001"#,
    // To another tenant, which is another partition, and out of a region.
    r#"UPDATE "Odd ""Schema"" €"."Schlüssel" SET "Tenant ID" = '{last}' WHERE key LIKE '%/%';
       UPDATE "Odd ""Schema"" €"."Schlüssel" SET "Regions" = '{}' WHERE "Regions" IS NULL AND md5(key) < '4'"#,
    r#"DELETE FROM "Odd ""Schema"" €"."Mandanten Übersicht" WHERE "Tenant ID" = '{first}'"#,
];

/// Tenants that are numbers, ...
pub const NUMBERS: &[&str] = &[
    "7",
    "-1",
    "10",
    "9223372036854775807",
    "-9223372036854775808",
];
/// ... UUIDs, ...
pub const UUIDS: &[&str] = &[
    "00000000-0000-0000-0000-000000000000",
    "67e55044-10b1-426f-9247-bb680e5fe0c8",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];
/// ... or any text.
pub const TEXTS: &[&str] = &[
    "007",
    "7",
    "7 ",
    "07",
    "a/b%2F",
    "Ä",
    "ä",
    "\u{1}\t\n",
    "{a,\"b\\",
    "NULL",
    "-x",
    "'; --",
];

/// A database with the schema and these tenants.
pub async fn database(server: &Server, tenant_type: &str, tenants: &[&str]) -> Result<Database> {
    let database = server.database().await?;
    database
        .execute(&SCHEMA.replace("{type}", tenant_type))
        .await?;
    for (i, tenant) in tenants.iter().enumerate() {
        let tenant = tenant.replace('\'', "''");
        let sql = format!(r#"CALL "Odd ""Schema"" €".fill('{tenant}', {i})"#);
        database.execute(&sql).await?;
    }
    Ok(database)
}

async fn equals_the_truth(tenant_type: &str, tenants: &[&str]) -> Result<()> {
    let server = Server::any().await?;
    let database = database(&server, tenant_type, tenants).await?;
    let regions = ["eu-west-1", "us-east-1"];
    let mut world = World::new(server, database, &regions, CONTEXTS, TRUTH).await?;
    world.truth.one_in = 1;
    let mut connection = world.database.connect().await?;
    let sql = r#"SELECT id::text FROM "Odd ""Schema"" €"."Lease" WHERE ends <= now()"#;
    let expired: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await?;
    world.truth.expired = expired
        .into_iter()
        .map(|id| ("lease".to_owned(), id))
        .collect();
    assert_eq!(world.truth.expired.len(), 2);

    world.scan().await?;
    world.is_true().await?;
    let fill = |sql: &str| {
        let (first, last) = (tenants[0], tenants[tenants.len() - 1]);
        sql.replace("{first}", first)
            .replace("{last}", &last.replace('\'', "''"))
    };
    for change in CHANGES {
        world.database.execute(&fill(change)).await?;
        world.scan().await?;
        world
            .is_true()
            .await
            .map_err(|e| format!("{change}: {e}"))?;
    }
    for tenant in tenants {
        let ran = world
            .hub
            .run(&["republish", "tenant", "--json", "--", tenant])
            .await?;
        let receipts = ran.ok()?.json()?;
        assert_eq!(
            receipts["receipts"][0]["tenant"], *tenant,
            "the tenant is the same text"
        );
    }
    world.is_true().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_equals_the_truth_with_tenants_that_are_numbers() -> Result<()> {
    equals_the_truth("bigint", NUMBERS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_equals_the_truth_with_tenants_that_are_uuids() -> Result<()> {
    equals_the_truth("uuid", UUIDS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_equals_the_truth_with_tenants_of_any_text() -> Result<()> {
    equals_the_truth("text", TEXTS).await
}
