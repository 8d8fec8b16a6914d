-- As before, but the server looks without a pause for half a millisecond at a time instead of three. Where processors are few
-- it ran on the one for which the transaction waited that it was looking for, and a process that runs is not made to give way
-- for its share of time: one commit in a hundred took 3 ms longer.
CREATE OR REPLACE FUNCTION hubcast.wait(
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
    look_at timestamptz;
    asked_until timestamptz := began;
    request_id bigint := pg_sequence_last_value('hubcast.requests_id_seq');
BEGIN
    LOOP
        asked := clock_timestamp();
        SELECT pg_current_snapshot(), (SELECT s.last_value FROM hubcast.outbox_ids s),
               (SELECT s.last_value FROM hubcast.outbox_ids s) - (SELECT s.last_value FROM hubcast.outbox_acked s)
                < (SELECT s.last_value FROM hubcast.outbox_cap s),
               (SELECT m.last_value FROM hubcast.outbox_missed m, hubcast.outbox_mended d WHERE m.last_value <> d.last_value),
               EXISTS (SELECT FROM hubcast.requests r WHERE r.receipt IS NULL AND r.taken_by IS DISTINCT FROM term),
               count(*), json_agg(json_build_array(o.id, o.xid::text, o.tenant, o.watch, CASE WHEN o.tenant IS NULL THEN o.changed END, o.mark))::text
          INTO seen, last_id, has_room, missed, requests, waiting, changes
          FROM (SELECT * FROM hubcast.outbox i
                 WHERE i.id >= from_id AND (after IS NULL OR NOT pg_visible_in_snapshot(i.xid, after))
                 LIMIT max_rows + 1) o;
        began := clock_timestamp();
        EXIT WHEN waiting > 0 OR requests OR NOT has_room OR began >= until;
        IF last_id > drawn THEN
            spin_until := began + least(spin_left, interval '0.5 ms');
        END IF;
        drawn := last_id;
        IF pg_sequence_last_value('hubcast.requests_id_seq') IS DISTINCT FROM request_id THEN
            request_id := pg_sequence_last_value('hubcast.requests_id_seq');
            asked_until := began + interval '20 ms';
        END IF;
        IF began < spin_until THEN
            WHILE clock_timestamp() < spin_until AND pg_current_snapshot()::text = seen::text LOOP
            END LOOP;
            spin_left := spin_left - (clock_timestamp() - began);
        ELSE
            -- At most a fifth of the time is spent looking: an old transaction keeps rows that are long acknowledged in the
            -- way of every look.
            PERFORM pg_sleep(greatest((step_ms - 0.5) / 1000.0, 4 * extract(epoch FROM began - asked)));
            IF last_id < from_id AND began >= asked_until THEN
                look_at := least(began + interval '10 ms', until);
                WHILE clock_timestamp() < look_at AND pg_sequence_last_value('hubcast.outbox_ids') = drawn
                  AND pg_sequence_last_value('hubcast.requests_id_seq') IS NOT DISTINCT FROM request_id LOOP
                    PERFORM pg_sleep((step_ms - 0.5) / 1000.0);
                END LOOP;
            END IF;
        END IF;
    END LOOP;
    spun_us := spin_us - extract(epoch FROM spin_left) * 1000000;
END
$hubcast$;
