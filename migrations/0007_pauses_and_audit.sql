-- The stop button. Contexts of a paused region or kind (none: all of them) keep the values that the stores have, and
-- only removals leave. Builds read this in their own snapshot, like everything else that shapes content.
CREATE TABLE hubcast.pauses (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    region text,
    kind   text,
    reason text NOT NULL,
    who    text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX pauses_what ON hubcast.pauses (coalesce(region, ''), coalesce(kind, ''));

-- Tenants that are published all the same, for as long as somebody republishes them "despite the pause".
CREATE TABLE hubcast.pause_exceptions (
    tenant text PRIMARY KEY,
    who    text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);

-- Who did what, when, and from where: the last 100,000 acts of people, of job services and of publishers that became
-- the writer.
CREATE TABLE hubcast.audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text NOT NULL,
    origin text NOT NULL,
    action text NOT NULL,
    what   jsonb NOT NULL
);
