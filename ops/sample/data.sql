-- Fills the tables of schema.sql. The same sizes give the same rows, everywhere and always: no clock, no random().
--
-- Sizes come from settings of the connection; unset ones have the defaults named here:
--
--   SET sample.tenants  = 2000;
--   SET sample.clusters = 4000;
--   SET sample.keys     = 40000;
--
-- API key number n is 'hk_' || md5('hubcast-sample-' || n), and the table has its SHA-256 in hex.
-- Key 1 is of cluster cl-000001 of tenant acme-0001, in every region, never revoked.
-- Plain SQL without client commands: it may be sent as one batch.

CREATE OR REPLACE FUNCTION pg_temp.sample_size(setting text, otherwise integer) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('sample.' || setting, true), '')::integer, otherwise)
$$;

-- Tenant 1 is 'acme-0001', tenant 2 'birch-0002', and so on; past 9999 the number grows wider.
CREATE OR REPLACE FUNCTION pg_temp.tenant_word(n bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT ('{acme,birch,cobalt,delta,ember,fjord,garnet,harbor,indigo,juniper,kestrel,lumen,'
            'maple,nimbus,onyx,pioneer,quartz,river,summit,tundra,umber,vertex,willow,zephyr}'
           ::text[])[1 + (n - 1) % 24]
$$;

CREATE OR REPLACE FUNCTION pg_temp.tenant_id(n bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_temp.tenant_word(n) || '-' || lpad(n::text, greatest(4, length(n::text)), '0')
$$;

CREATE OR REPLACE FUNCTION pg_temp.cluster_id(n bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'cl-' || lpad(n::text, greatest(6, length(n::text)), '0')
$$;

-- Every tenant has one cluster as long as they last; the rest goes by the square of an evenly spread
-- fraction to the tenants with the highest numbers, so that a few are large and most are small.
CREATE OR REPLACE FUNCTION pg_temp.tenant_of_cluster(n bigint, tenants integer) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN n <= tenants THEN n
           ELSE tenants - floor(tenants * power((n * 2654435761 % 4294967296) / 4294967296.0::float8, 2))::bigint
           END
$$;

INSERT INTO plans (id, name, requests_per_second, max_clusters, max_members, monthly_price) VALUES
    ('free',       'Free',           10,    5,     5,    0.00),
    ('team',       'Team',          100,   20,    25,   49.00),
    ('business',   'Business',     1000,  100,   200,  499.00),
    ('enterprise', 'Enterprise',  20000, 1000, 10000, 4999.00);

INSERT INTO feature_flags (name, default_value, description) VALUES
    ('audit-log',          'false',   'Record who changed what'),
    ('batch-writes',       'true',    'Accept many rows in one request'),
    ('custom-domains',     'false',   'Serve a cluster under the tenant''s own host name'),
    ('ip-allow-list',      'false',   'Refuse requests from other addresses'),
    ('max-upload-mb',      '25',      'Largest request body, in megabytes'),
    ('new-query-planner',  'false',   'Plan queries with the second generation'),
    ('query-timeout-ms',   '30000',   'A query that takes longer is stopped'),
    ('read-only',          'false',   'Refuse every write'),
    ('result-format',      '"json"',  'Format of answers when none is asked for'),
    ('sso',                'false',   'Sign in through the tenant''s own directory'),
    ('trace-sample-rate',  '0.01',    'Share of requests that are traced'),
    ('vector-search',      'true',    'Nearest-neighbour queries');

-- The largest tenants have the largest plans.
INSERT INTO tenants (id, name, plan_id, created_at)
SELECT pg_temp.tenant_id(n),
       initcap(pg_temp.tenant_word(n)) || ' ' || (ARRAY['Systems', 'Labs', 'Retail', 'Health', 'Media'])[1 + n % 5] || ' ' || n,
       CASE WHEN n > tenants - tenants / 50.0 THEN 'enterprise'
            WHEN n > tenants - tenants / 5.0 THEN 'business'
            WHEN n % 3 = 0 THEN 'free'
            ELSE 'team' END,
       timestamptz '2025-01-01 00:00:00+00' + n * interval '4 minutes'
FROM (SELECT pg_temp.sample_size('tenants', 2000) AS tenants) AS size,
     generate_series(1::bigint, tenants) AS n
ORDER BY n;

INSERT INTO members (tenant_id, email, role, created_at)
SELECT pg_temp.tenant_id(n),
       'user' || m || '@' || pg_temp.tenant_id(n) || '.example',
       CASE WHEN m = 1 THEN 'owner' WHEN m = 2 THEN 'admin' ELSE 'member' END,
       timestamptz '2025-01-01 00:00:00+00' + n * interval '4 minutes' + m * interval '1 day'
FROM (SELECT pg_temp.sample_size('tenants', 2000) AS tenants) AS size,
     generate_series(1::bigint, tenants) AS n,
     generate_series(1, 1 + n * 7 % 5) AS m
ORDER BY n, m;

-- Four clusters in five are in every region, one in ten in one region, one in ten in two.
INSERT INTO clusters (id, tenant_id, name, host, status, regions, created_at)
SELECT pg_temp.cluster_id(n),
       pg_temp.tenant_id(pg_temp.tenant_of_cluster(n, tenants)),
       (ARRAY['production', 'staging', 'analytics', 'search'])[1 + (n - 1) % 4] || '-' || n,
       pg_temp.cluster_id(n) || '.clusters.hubcast.example',
       CASE WHEN n % 40 = 13 THEN 'paused' WHEN n % 100 = 27 THEN 'provisioning' ELSE 'ready' END,
       CASE n % 10
           WHEN 3 THEN ARRAY[(ARRAY['us-east-1', 'eu-west-1', 'ap-southeast-1'])[1 + n / 10 % 3]]
           WHEN 7 THEN array_remove(ARRAY['us-east-1', 'eu-west-1', 'ap-southeast-1'],
                                    (ARRAY['us-east-1', 'eu-west-1', 'ap-southeast-1'])[1 + n / 10 % 3])
       END,
       timestamptz '2025-07-01 00:00:00+00' + n * interval '1 minute'
FROM (SELECT pg_temp.sample_size('tenants', 2000) AS tenants,
             pg_temp.sample_size('clusters', 4000) AS clusters) AS size,
     generate_series(1::bigint, clusters) AS n
ORDER BY n;

-- Keys go round the clusters; one in fifty is revoked. On empty tables the id of a key is its number.
INSERT INTO api_keys (tenant_id, cluster_id, key_hash, scopes, revoked_at, created_at)
SELECT pg_temp.tenant_id(pg_temp.tenant_of_cluster(c, tenants)),
       pg_temp.cluster_id(c),
       encode(sha256(convert_to('hk_' || md5('hubcast-sample-' || n), 'UTF8')), 'hex'),
       CASE n % 5 WHEN 0 THEN '{read}'::text[] WHEN 1 THEN '{read,write,admin}' ELSE '{read,write}' END,
       CASE WHEN n % 50 = 17 THEN timestamptz '2026-06-01 00:00:00+00' + n * interval '1 second' END,
       timestamptz '2025-10-01 00:00:00+00' + n * interval '10 seconds'
FROM (SELECT pg_temp.sample_size('tenants', 2000) AS tenants,
             pg_temp.sample_size('clusters', 4000) AS clusters,
             pg_temp.sample_size('keys', 40000) AS keys) AS size,
     generate_series(1::bigint, keys) AS n,
     LATERAL (SELECT 1 + (n - 1) % clusters AS c) AS cluster
ORDER BY n;

-- One tenant in five sets flags of its own: some one, some two.
INSERT INTO tenant_flags (tenant_id, flag, value)
SELECT pg_temp.tenant_id(n), flag, value
FROM (SELECT pg_temp.sample_size('tenants', 2000) AS tenants) AS size,
     generate_series(1::bigint, tenants) AS n,
     LATERAL (
         SELECT 'audit-log' AS flag, 'true'::jsonb AS value WHERE n % 10 = 4
         UNION ALL SELECT 'sso', 'true' WHERE n % 20 = 4
         UNION ALL SELECT 'max-upload-mb', to_jsonb(100 + n % 7 * 50) WHERE n % 10 = 9
         UNION ALL SELECT 'trace-sample-rate', '0.250' WHERE n % 20 = 19
     ) AS override
ORDER BY n, flag;

ANALYZE plans, feature_flags, tenants, members, clusters, api_keys, tenant_flags;
