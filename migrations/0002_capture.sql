-- Change capture: what the triggers on watched tables leave for the writer. Triggers only ever INSERT here, and only
-- while there is room, so a publisher that is away leaves nothing that grows without bound.

-- The last id handed out, and the number up to which everything that was seen is acknowledged. Room is counted by
-- sequences, which are read outside of snapshots: a row that counted would be seen in an old state by a long
-- transaction, and would make writers wait for one another.
CREATE SEQUENCE hubcast.outbox_ids;
CREATE SEQUENCE hubcast.outbox_acked MINVALUE 0;
SELECT setval('hubcast.outbox_acked', 0);
-- How many rows may wait: 1,000,000.
CREATE SEQUENCE hubcast.outbox_cap;
SELECT setval('hubcast.outbox_cap', 1000000);
-- How many statements found no room and so left no row, and how many of them a scan has made up for. Room may come back
-- before anybody looks, and the writer may change meanwhile: this is what says that something was missed.
CREATE SEQUENCE hubcast.outbox_missed MINVALUE 0;
SELECT setval('hubcast.outbox_missed', 0);
CREATE SEQUENCE hubcast.outbox_mended MINVALUE 0;
SELECT setval('hubcast.outbox_mended', 0);

-- One row says one of: this tenant may have changed; this row of a table with a `tenants` query was changed; or a mark:
-- 'all' (every tenant may have changed), 'token' (somebody asks when this transaction is visible), 'beat'.
CREATE TABLE hubcast.outbox (
    -- First, so that no id is drawn by a transaction that has no number yet: see the lower bound in the publisher's
    -- writer/capture.rs.
    xid     xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id      bigint NOT NULL DEFAULT nextval('hubcast.outbox_ids'),
    tenant  text,
    watch   text,
    changed jsonb,
    mark    text,
    CHECK (num_nonnulls(tenant, watch, mark) = 1 AND (watch IS NULL) = (changed IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX outbox_id ON hubcast.outbox (id);

-- For whoever is about to write a row: whether it may. If not, that is counted.
CREATE FUNCTION hubcast.has_room() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $hubcast$
BEGIN
    IF (SELECT last_value FROM hubcast.outbox_ids) - (SELECT last_value FROM hubcast.outbox_acked)
     < (SELECT last_value FROM hubcast.outbox_cap) THEN
        RETURN true;
    END IF;
    -- First the transaction's own number: whoever sees the count waits for every transaction that has one by then.
    PERFORM pg_current_xact_id();
    PERFORM nextval('hubcast.outbox_missed');
    RETURN false;
END
$hubcast$;

-- For applications: says inside their own transaction that a tenant's contexts change by something that no trigger sees.
CREATE FUNCTION hubcast.touch(tenant text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
    INSERT INTO hubcast.outbox (tenant) SELECT touch.tenant WHERE touch.tenant IS NOT NULL AND hubcast.has_room()
$hubcast$;
CREATE FUNCTION hubcast.touch(tenant bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
    SELECT hubcast.touch(touch.tenant::text)
$hubcast$;
CREATE FUNCTION hubcast.touch(tenant uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
    SELECT hubcast.touch(touch.tenant::text)
$hubcast$;

-- For applications: names their own transaction, so that the hub can be asked where it is visible.
CREATE FUNCTION hubcast.token() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
BEGIN
    INSERT INTO hubcast.outbox (mark) SELECT 'token' WHERE hubcast.has_room();
    RETURN pg_current_xact_id()::text;
END
$hubcast$;

-- A row that the writer changes every few seconds: it takes the path of every other change, so that lag is measured.
CREATE TABLE hubcast.beat (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    n         bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO hubcast.beat (n) VALUES (0);

CREATE FUNCTION hubcast.beat_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
BEGIN
    INSERT INTO hubcast.outbox (mark) SELECT 'beat' WHERE hubcast.has_room();
    RETURN NULL;
END
$hubcast$;
CREATE TRIGGER beat_changed AFTER UPDATE ON hubcast.beat
    FOR EACH STATEMENT EXECUTE FUNCTION hubcast.beat_changed();

-- Tenants that could not be built as a whole, and when they are tried again.
CREATE TABLE hubcast.retry (
    tenant   text PRIMARY KEY,
    attempts integer NOT NULL,
    next_at  timestamptz NOT NULL,
    reason   text NOT NULL
);

-- Information for people: who stands by, and when the writer last renewed its lease.
CREATE TABLE hubcast.standbys (
    host    text PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE hubcast.writer ADD COLUMN renewed_at timestamptz NOT NULL DEFAULT now();

-- Set in the transaction that acknowledges changes which the store has not got: it needs a scan.
ALTER TABLE hubcast.stores ADD COLUMN behind_since timestamptz;

-- Waits on the server until there is something to do, at most max_ms; then says what. Rows that the snapshot `after`
-- saw are not told again, and none has an id below `from_id`; `missed` is null if nothing was. Each look is one statement with a snapshot of its own;
-- no session state, so it works through a transaction pooler.
DROP FUNCTION hubcast.wait(integer, integer, bigint);
CREATE FUNCTION hubcast.wait(
    max_ms integer, step_ms integer, term bigint, after pg_snapshot, from_id bigint, max_rows integer,
    OUT seen pg_snapshot, OUT last_id bigint, OUT has_room boolean, OUT missed bigint, OUT requests boolean,
    OUT waiting bigint, OUT changes text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $hubcast$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => max_ms / 1000.0);
BEGIN
    LOOP
        SELECT pg_current_snapshot(), (SELECT s.last_value FROM hubcast.outbox_ids s),
               (SELECT s.last_value FROM hubcast.outbox_ids s) - (SELECT s.last_value FROM hubcast.outbox_acked s)
                < (SELECT s.last_value FROM hubcast.outbox_cap s),
               (SELECT m.last_value FROM hubcast.outbox_missed m, hubcast.outbox_mended d WHERE m.last_value <> d.last_value),
               EXISTS (SELECT FROM hubcast.requests r WHERE r.receipt IS NULL AND r.taken_by IS DISTINCT FROM term),
               count(*), json_agg(json_build_array(o.id, o.xid::text, o.tenant, o.watch, o.changed, o.mark))::text
          INTO seen, last_id, has_room, missed, requests, waiting, changes
          FROM (SELECT * FROM hubcast.outbox i
                 WHERE i.id >= from_id AND (after IS NULL OR NOT pg_visible_in_snapshot(i.xid, after))
                 LIMIT max_rows + 1) o;
        IF waiting > 0 OR requests OR NOT has_room OR clock_timestamp() >= until THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(step_ms / 1000.0);
    END LOOP;
END
$hubcast$;

-- Applications may call touch and token, and nothing else.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA hubcast FROM PUBLIC;
GRANT USAGE ON SCHEMA hubcast TO PUBLIC;
GRANT EXECUTE ON FUNCTION hubcast.touch(text), hubcast.touch(bigint), hubcast.touch(uuid), hubcast.token() TO PUBLIC;
