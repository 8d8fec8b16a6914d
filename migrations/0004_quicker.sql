-- A fingerprint of all that shapes content, written by whoever changes it: a build compares it and need not compute it.
ALTER TABLE hubcast.settings ADD COLUMN fingerprint text;

-- Checked by every statement that leaves a row, which cost the application more than the row. Only triggers and the
-- functions of this schema write here.
ALTER TABLE hubcast.outbox DROP CONSTRAINT outbox_check;

-- As before, and quicker in two ways. A step is as long as it says: pg_sleep rounds what is left up to whole
-- milliseconds, by its own clock, so that a step of one took two. And while somebody has drawn an id and not committed
-- yet, which is a matter of one flush of the disk for most, nobody sleeps: for `spin_us` in all, which is what the caller
-- can spare, and 3 ms at a time, since who takes longer may take any time. `drawn` is the last id that the look before
-- this one saw handed out.
DROP FUNCTION hubcast.wait(integer, integer, bigint, pg_snapshot, bigint, integer);
CREATE FUNCTION hubcast.wait(
    max_ms integer, step_ms integer, spin_us integer, term bigint, drawn bigint, after pg_snapshot, from_id bigint, max_rows integer,
    OUT seen pg_snapshot, OUT last_id bigint, OUT has_room boolean, OUT missed bigint, OUT requests boolean,
    OUT waiting bigint, OUT changes text, OUT spun_us integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $hubcast$
DECLARE
    asked timestamptz;
    began timestamptz := clock_timestamp();
    until timestamptz := began + make_interval(secs => max_ms / 1000.0);
    spin_left interval := make_interval(secs => spin_us / 1000000.0);
    spin_until timestamptz := began;
BEGIN
    LOOP
        asked := clock_timestamp();
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
        began := clock_timestamp();
        EXIT WHEN waiting > 0 OR requests OR NOT has_room OR began >= until;
        IF last_id > drawn THEN
            spin_until := began + least(spin_left, interval '3 ms');
        END IF;
        drawn := last_id;
        IF began < spin_until THEN
            WHILE clock_timestamp() < spin_until AND pg_current_snapshot()::text = seen::text LOOP
            END LOOP;
            spin_left := spin_left - (clock_timestamp() - began);
        ELSE
            -- At most a fifth of the time is spent looking: an old transaction keeps rows that are long acknowledged in the
            -- way of every look.
            PERFORM pg_sleep(greatest((step_ms - 0.5) / 1000.0, 4 * extract(epoch FROM began - asked)));
        END IF;
    END LOOP;
    spun_us := spin_us - extract(epoch FROM spin_left) * 1000000;
END
$hubcast$;
REVOKE ALL ON FUNCTION hubcast.wait(integer, integer, integer, bigint, bigint, pg_snapshot, bigint, integer) FROM PUBLIC;
