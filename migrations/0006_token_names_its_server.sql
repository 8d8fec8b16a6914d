-- A token also says on which server, and since which start of it, the transaction ran. After a failover another
-- transaction may get the number of one that was lost.
CREATE OR REPLACE FUNCTION hubcast.token() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $hubcast$
BEGIN
    INSERT INTO hubcast.outbox (mark) SELECT 'token' WHERE hubcast.has_room();
    RETURN format('%s-%s', pg_current_xact_id(), (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint);
END
$hubcast$;
