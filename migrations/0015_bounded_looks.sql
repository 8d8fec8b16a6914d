-- An answer of `wait` stays within what a connection can carry, whatever the rows contain: many recorded rows that are long are
-- a backlog as many rows are, and of what is longer than any tenant only the beginning is told.
CREATE OR REPLACE FUNCTION hubcast.wait(
    max_ms integer, step_ms integer, spin_us integer, term bigint, drawn bigint, after pg_snapshot, from_id bigint, max_rows integer,
    OUT seen pg_snapshot, OUT last_id bigint, OUT has_room boolean, OUT missed bigint, OUT requests boolean,
    OUT waiting bigint, OUT changes text, OUT spun_us integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $hubcast$
DECLARE
    -- As they are kept, compressed; as text they may be a hundred times as long, and one answer has room for a gigabyte.
    most_bytes CONSTANT bigint := 8 * 1024 * 1024;
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
               CASE WHEN max(o.bytes) > most_bytes THEN max_rows + 1 ELSE count(*) END,
               json_agg(json_build_array(o.id, o.xid::text, CASE WHEN octet_length(o.tenant) > 1024 THEN left(o.tenant, 1025) ELSE o.tenant END,
                                         o.watch, CASE WHEN o.tenant IS NULL AND o.bytes <= most_bytes THEN o.changed END, o.mark))::text
          INTO seen, last_id, has_room, missed, requests, waiting, changes
          FROM (SELECT r.*, sum(pg_column_size(r.changed)) FILTER (WHERE r.tenant IS NULL) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
                  FROM (SELECT * FROM hubcast.outbox i
                         WHERE i.id >= from_id AND (after IS NULL OR NOT pg_visible_in_snapshot(i.xid, after))
                         LIMIT max_rows + 1) r) o;
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

-- What is too long for a tenant is named by nobody's build.
CREATE OR REPLACE FUNCTION hubcast.touch(tenant text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
    INSERT INTO hubcast.outbox (tenant) SELECT left(touch.tenant, 1025) WHERE touch.tenant IS NOT NULL AND hubcast.has_room()
$hubcast$;
