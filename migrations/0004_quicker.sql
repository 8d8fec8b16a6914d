-- A fingerprint of all that shapes content, written by whoever changes it: a build compares it and need not compute it.
ALTER TABLE hubcast.settings ADD COLUMN fingerprint text;

-- As before, but for the length of a step: pg_sleep rounds what is left up to whole milliseconds, by its own clock, so
-- that a step of one took two.
CREATE OR REPLACE FUNCTION hubcast.wait(
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
        PERFORM pg_sleep((step_ms - 0.5) / 1000.0);
    END LOOP;
END
$hubcast$;
