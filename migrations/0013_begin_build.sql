-- What a build in one message begins with, in its own transaction and snapshot: whether everything is as the publisher takes
-- it for granted, and the settings under which values are written, which are gone with the transaction. A function, so that
-- the server plans it once for each connection and not for each build. `path` is set last: what stands before is resolved by
-- the path of the connection.
CREATE FUNCTION hubcast.begin_build(tenants text[], path text,
    OUT fingerprint text, OUT is_standby boolean, OUT server text, OUT held text, OUT seen text)
LANGUAGE plpgsql VOLATILE
AS $hubcast$
BEGIN
    seen := pg_current_snapshot();
    is_standby := pg_is_in_recovery();
    server := extract(epoch FROM pg_postmaster_start_time());
    SELECT s.fingerprint INTO fingerprint FROM hubcast.settings s;
    -- There are hardly ever any. A plan that was made while there were none is not one for very many, so there is none.
    IF EXISTS (SELECT FROM hubcast.holds) THEN
        EXECUTE 'SELECT h.tenant FROM hubcast.holds h WHERE h.tenant = ANY ($1) LIMIT 1' INTO held USING tenants;
    END IF;
    PERFORM set_config('TimeZone', 'UTC', true);
    PERFORM set_config('DateStyle', 'ISO, YMD', true);
    PERFORM set_config('IntervalStyle', 'iso_8601', true);
    PERFORM set_config('bytea_output', 'hex', true);
    PERFORM set_config('extra_float_digits', '1', true);
    PERFORM set_config('row_security', 'off', true);
    PERFORM set_config('jit', 'off', true);
    PERFORM set_config('search_path', path, true);
END
$hubcast$;
REVOKE ALL ON FUNCTION hubcast.begin_build(text[], text) FROM PUBLIC;
