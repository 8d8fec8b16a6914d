-- {type} is the type of the tenant column.
DO $$ BEGIN
    -- What a value looks like must not depend on such settings.
    EXECUTE format('ALTER DATABASE %I SET "TimeZone" = ''Asia/Kolkata''', current_database());
    EXECUTE format('ALTER DATABASE %I SET "DateStyle" = ''German''', current_database());
    EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database());
    EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -2', current_database());
END $$;

CREATE SCHEMA "Odd ""Schema"" €";
CREATE TABLE "Odd ""Schema"" €"."Mandanten Übersicht" ("Tenant ID" {type} PRIMARY KEY, "Naïve ""Name""" text);
CREATE TABLE "Odd ""Schema"" €"."Schlüssel" (
    "Tenant ID" {type} REFERENCES "Odd ""Schema"" €"."Mandanten Übersicht" ON DELETE CASCADE,
    key         text NOT NULL,
    "Betrag"    numeric,
    "Größe"     numeric,
    data        jsonb,
    "Bin"       bytea,
    at          timestamptz,
    "Regions"   text[]
) PARTITION BY HASH ("Tenant ID");
CREATE TABLE "Odd ""Schema"" €"."part 0" PARTITION OF "Odd ""Schema"" €"."Schlüssel" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "Odd ""Schema"" €"."part 1" PARTITION OF "Odd ""Schema"" €"."Schlüssel" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON "Odd ""Schema"" €"."Schlüssel" ("Tenant ID");
CREATE TABLE "Odd ""Schema"" €"."Lease" (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    "Tenant ID" {type},
    ends        timestamptz
);
CREATE INDEX ON "Odd ""Schema"" €"."Lease" ("Tenant ID");

-- Fills in a tenant: the first has keys that are hostile by themselves, the others the same with a number.
CREATE PROCEDURE "Odd ""Schema"" €".fill(tenant text, number integer) LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO "Odd ""Schema"" €"."Mandanten Übersicht"
    VALUES (tenant::{type}, E'x\x01\x02\x1f\x7f \\ " '' \u2028 ☃ 😀 e\u0301 ' || tenant);
    INSERT INTO "Odd ""Schema"" €"."Schlüssel"
    SELECT tenant::{type},
           CASE number WHEN 0 THEN k ELSE k || '@' || number END,
           CASE n % 4
               WHEN 0 THEN 123456789012345678901234567890.100 + number
               WHEN 1 THEN -0.000000000000000000000000000001
               WHEN 2 THEN 100000000000000000000000000000000000
           END,
           CASE n % 3 WHEN 0 THEN 1.10 WHEN 1 THEN 'NaN'::numeric ELSE 1e-20 END,
           jsonb_build_object('b', 1, 'aa', 9007199254740993, E'\u00e4 "\\/', jsonb '[1.0, 1e2, null, {"x": "\u0001"}, []]', '', k),
           decode('00ff5c22', 'hex'),
           '2026-02-03 04:05:06.123456+00'::timestamptz + n * interval '1 hour',
           CASE n % 5
               WHEN 0 THEN NULL
               WHEN 1 THEN '{}'::text[]
               WHEN 2 THEN '{eu-west-1}'
               WHEN 3 THEN '{us-east-1,eu-west-1,us-east-1}'
               ELSE '{mars,us-east-1}'
           END
    FROM unnest(ARRAY['a/b', 'a%2Fb', 'a+b', 'a b', ' ', '%', '%zz', '?q=1&r#f', '/', '//', '../..', '.', '..', '''', '"', '\',
                      'NULL', '{{tenants(x)}}', E'\x01', E'tab\tline\nend\r', 'ключ', 'é', E'e\u0301', '😀', E'\u2028', 'A', 'a',
                      '007', '7', repeat('x', 1000), '$1', ';', '<b>', '1e3', 'true'])
         WITH ORDINALITY AS u(k, n);
    IF number = 0 THEN
        INSERT INTO "Odd ""Schema"" €"."Lease" ("Tenant ID", ends)
        VALUES (tenant::{type}, NULL), (tenant::{type}, now() + interval '1 hour'), (tenant::{type}, 'infinity');
    END IF;
    IF number = 1 THEN
        INSERT INTO "Odd ""Schema"" €"."Lease" ("Tenant ID", ends)
        VALUES (tenant::{type}, now() - interval '1 hour'), (tenant::{type}, '-infinity');
    END IF;
END $body$;
