-- Everything that Hubcast keeps in the primary. Nothing here grows without bound while a publisher is down.

-- One row: what the deployment is.
CREATE TABLE hubcast.settings (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    digest_key  bytea NOT NULL CHECK (octet_length(digest_key) = 32),
    search_path text NOT NULL,
    tenant_type text NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT now()
);

-- What is published. Builds read this in their own snapshot, never a configuration file.
CREATE TABLE hubcast.definitions (
    kind       text PRIMARY KEY,
    definition jsonb NOT NULL
);

-- Where it is published to. Tokens stay in the configuration.
CREATE TABLE hubcast.stores (
    url    text PRIMARY KEY,
    region text NOT NULL
);

-- One row: who writes. Its holder raises the counter every second.
CREATE TABLE hubcast.writer (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint NOT NULL,
    holder    text NOT NULL,
    counter   bigint NOT NULL,
    released  boolean NOT NULL,
    host      text NOT NULL,
    taken_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
INSERT INTO hubcast.writer (epoch, holder, counter, released, host)
VALUES (0, '00000000000000000000000000000000', 0, true, '');

-- Every term that this database has seen: a store that obeys another one is not ours to write.
CREATE TABLE hubcast.terms (
    epoch    bigint NOT NULL,
    holder   text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (epoch, holder)
);

-- The ends of scans, recorded before a store is told; the last hundred per store.
CREATE TABLE hubcast.syncs (
    id      text PRIMARY KEY,
    store   text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX syncs_store ON hubcast.syncs (store, sent_at);

-- What other commands ask of the writer.
CREATE TABLE hubcast.requests (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request  jsonb NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    taken_by bigint,
    receipt  jsonb
);

-- The last hundred scans.
CREATE TABLE hubcast.scans (
    ended_at timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
    epoch    bigint NOT NULL,
    summary  jsonb NOT NULL
);

-- Waits on the server until there is something to do, at most max_ms. Each look is a statement with a snapshot of its
-- own; no session state, so it works through a transaction pooler.
CREATE FUNCTION hubcast.wait(max_ms integer, step_ms integer, term bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $hubcast$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => max_ms / 1000.0);
BEGIN
    LOOP
        IF EXISTS (SELECT FROM hubcast.requests WHERE receipt IS NULL AND taken_by IS DISTINCT FROM term) THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= until THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(step_ms / 1000.0);
    END LOOP;
END
$hubcast$;
