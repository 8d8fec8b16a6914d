-- How many contexts of a kind left a region within the last ten minutes: a new writer goes on counting there. Written at
-- most once a second, and only while something is removed.
CREATE TABLE hubcast.removals (
    at     timestamptz NOT NULL DEFAULT now(),
    region text NOT NULL,
    kind   text NOT NULL,
    count  bigint NOT NULL
);
CREATE INDEX removals_at ON hubcast.removals (at);
