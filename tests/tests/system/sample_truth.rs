//! The sample, changed at random: a scan makes every region equal to what the test's own SQL says.

use crate::truth::{Kind, fingerprint};
use crate::world::World;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use system_tests::Result;
use system_tests::sample::Size;
use system_tests::server::Server;

/// What the contexts of the sample should be, said otherwise than the sample says it.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "api_key",
        sql: "SELECT k.key_hash, k.tenant_id, \
                jsonb_build_object('cluster_id', k.cluster_id, 'scopes', k.scopes, 'active', k.revoked_at IS NULL)::text \
              FROM api_keys k WHERE EXISTS (SELECT FROM clusters c WHERE c.id = k.cluster_id \
                AND (c.regions IS NULL OR c.regions @> ARRAY[$1]))",
    },
    Kind {
        name: "cluster",
        sql: "SELECT c.id, c.tenant_id, jsonb_build_object('name', c.name, 'host', c.host, 'status', c.status, \
                'plan', (SELECT p.name FROM plans p, tenants t WHERE t.id = c.tenant_id AND p.id = t.plan_id), \
                'requests_per_second', \
                (SELECT p.requests_per_second FROM plans p, tenants t WHERE t.id = c.tenant_id AND p.id = t.plan_id))::text \
              FROM clusters c WHERE c.regions IS NULL OR c.regions @> ARRAY[$1]",
    },
    Kind {
        name: "tenant",
        sql: "SELECT t.id, t.id, jsonb_build_object('name', t.name, 'plan', p.name, 'members', \
                coalesce(m.n, 0), 'limits', jsonb_build_object('requests_per_second', p.requests_per_second, \
                'clusters', p.max_clusters, 'members', p.max_members))::text \
              FROM tenants t JOIN plans p ON p.id = t.plan_id \
              LEFT JOIN (SELECT tenant_id, count(*) AS n FROM members GROUP BY 1) m ON m.tenant_id = t.id \
              WHERE $1 <> ''",
    },
    Kind {
        name: "feature_flags",
        sql: "SELECT t.id, t.id, jsonb_build_object('flags', (SELECT coalesce(jsonb_object_agg(name, value), '{}') FROM \
                (SELECT name, default_value AS value FROM feature_flags \
                 WHERE name NOT IN (SELECT flag FROM tenant_flags WHERE tenant_id = t.id) \
                 UNION ALL SELECT flag, value FROM tenant_flags WHERE tenant_id = t.id) AS both_))::text \
              FROM tenants t WHERE $1 <> ''",
    },
];

/// Changes of the application. `{s}` is a random text, by which rows are chosen.
const CHANGES: &[&str] = &[
    "INSERT INTO tenants (id, name, plan_id) VALUES ('new-{s}', 'New {s}', 'team'); \
     INSERT INTO clusters (id, tenant_id, name, host, regions) \
       VALUES ('cl-{s}', 'new-{s}', 'main', '{s}.example', NULL), \
              ('cl-eu-{s}', 'new-{s}', 'eu', 'eu-{s}.example', '{eu-west-1}'); \
     INSERT INTO api_keys (tenant_id, cluster_id, key_hash) SELECT 'new-{s}', c, encode(sha256(convert_to(c || g, 'UTF8')), 'hex') \
       FROM unnest(ARRAY['cl-{s}', 'cl-eu-{s}']) c, generate_series(1, 3) g",
    "UPDATE clusters SET status = 'paused', name = name || ' {s}' WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || '{s}') LIMIT 7)",
    "UPDATE api_keys SET revoked_at = now() WHERE id IN (SELECT id FROM api_keys ORDER BY md5(id || '{s}') LIMIT 9)",
    "UPDATE api_keys SET scopes = '{}' WHERE id IN (SELECT id FROM api_keys ORDER BY md5(id || '{s}') LIMIT 4)",
    "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys ORDER BY md5(id || '{s}') LIMIT 11)",
    "DELETE FROM clusters WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || '{s}') LIMIT 2)",
    "DELETE FROM tenants WHERE id IN (SELECT id FROM tenants ORDER BY md5(id || '{s}') LIMIT 2)",
    "UPDATE clusters SET regions = '{eu-west-1}' WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || '{s}') LIMIT 3)",
    "UPDATE clusters SET regions = '{us-east-1,ap-southeast-1}' WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || '{s}') LIMIT 3)",
    "UPDATE clusters SET regions = NULL WHERE id IN (SELECT id FROM clusters WHERE regions IS NOT NULL ORDER BY md5(id || '{s}') LIMIT 4)",
    "UPDATE clusters SET regions = '{}' WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || '{s}') LIMIT 1)",
    // A cluster with its keys goes to another tenant.
    "UPDATE clusters SET tenant_id = (SELECT id FROM tenants ORDER BY md5(id || '{s}') LIMIT 1) \
       WHERE id IN (SELECT id FROM clusters ORDER BY md5(id || 'move {s}') LIMIT 3); \
     UPDATE api_keys k SET tenant_id = c.tenant_id FROM clusters c WHERE c.id = k.cluster_id AND c.tenant_id <> k.tenant_id",
    // Two clusters change places: each tenant takes a key that the other still has.
    "WITH two AS (SELECT id, tenant_id, row_number() OVER () AS n FROM (SELECT id, tenant_id FROM clusters ORDER BY md5(id || 'swap {s}') LIMIT 2) x) \
     UPDATE clusters c SET tenant_id = b.tenant_id FROM two a JOIN two b ON a.n <> b.n WHERE c.id = a.id; \
     UPDATE api_keys k SET tenant_id = c.tenant_id FROM clusters c WHERE c.id = k.cluster_id AND c.tenant_id <> k.tenant_id",
    "UPDATE tenants SET id = 'renamed-{s}' WHERE id = (SELECT id FROM tenants ORDER BY md5(id || '{s}') LIMIT 1)",
    "UPDATE tenants SET plan_id = 'enterprise' WHERE id IN (SELECT id FROM tenants ORDER BY md5(id || '{s}') LIMIT 3)",
    "UPDATE plans SET requests_per_second = requests_per_second + 1 WHERE id = 'free'",
    "UPDATE feature_flags SET default_value = to_jsonb('{s}'::text) WHERE name = 'result-format'",
    "DELETE FROM tenant_flags WHERE md5(tenant_id || flag || '{s}') < '4'",
    "INSERT INTO members (tenant_id, email, role) SELECT id, '{s}@example', 'member' FROM tenants ORDER BY md5(id || '{s}') LIMIT 5",
];

const SMALL: Size = Size {
    tenants: 60,
    clusters: 120,
    keys: 800,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_equals_the_truth() -> Result<()> {
    let mut world = World::with_sample(Server::any().await?, SMALL).await?;
    // So much may be removed by chance within ten minutes that the guard would hold it, as it should.
    world.hub.configure("max_delete_share = 1.0")?;
    world.hub.run(&["migrate"]).await?.ok()?;
    for agent in &world.agents {
        let (status, body) = agent.get("cluster", "cl-000001").await?;
        assert_eq!(
            (status.as_u16(), body.contains("not_ready")),
            (503, true),
            "before the first scan"
        );
    }
    world.scan().await?;
    world.is_true().await?;
    let restricted = restricted_are_absent(&world).await?;
    assert!(
        restricted > 10,
        "the sample has clusters that are not everywhere"
    );

    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for round in 0..4 {
        for _ in 0..6 {
            let change = CHANGES[random.random_range(0..CHANGES.len())];
            let text = format!("{:x}", random.random::<u32>());
            world
                .database
                .execute(&change.replace("{s}", &text))
                .await?;
        }
        world.scan().await?;
        world
            .is_true()
            .await
            .map_err(|e| format!("round {round} of seed {seed}: {e}"))?;
    }
    for (i, change) in CHANGES.iter().enumerate() {
        world
            .database
            .execute(&change.replace("{s}", &format!("all{i}")))
            .await?;
    }
    world.scan().await?;
    world.is_true().await
}

/// Every cluster that is not meant for a region is a plain 404 there.
async fn restricted_are_absent(world: &World) -> Result<u32> {
    let mut seen = 0;
    for agent in &world.agents {
        let mut connection = world.database.connect().await?;
        let absent: Vec<String> =
            sqlx::query_scalar("SELECT id FROM clusters WHERE NOT $1 = ANY (regions)")
                .bind(&agent.region)
                .fetch_all(&mut connection)
                .await?;
        for id in absent {
            let (status, body) = agent.get("cluster", &id).await?;
            assert_eq!(
                (status.as_u16(), body.as_str()),
                (404, r#"{"error":"not_found"}"#),
                "{id}"
            );
            seen += 1;
        }
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_what_did_not_change_writes_nothing() -> Result<()> {
    let mut world = World::with_sample(Server::any().await?, SMALL).await?;
    world.scan().await?;
    world.is_true().await?;
    let before = fingerprint(&world.truth, &world.agents).await?;
    let summary = world.scan().await?.json()?;
    for store in summary["stores"].as_array().ok_or("no stores")? {
        assert_eq!(
            (store["pushed"].as_u64(), store["repaired"].as_u64()),
            (Some(0), Some(0)),
            "{store}"
        );
    }
    assert_eq!(before, fingerprint(&world.truth, &world.agents).await?);
    Ok(())
}
