-- Removals that were held because they were too many at once, until a person approves or drops them. A build reads them
-- in its own snapshot: the hub has none of these contexts any more, and the stores keep their values.
CREATE TABLE hubcast.holds (
    tenant         text NOT NULL,
    kind           text NOT NULL,
    key            text NOT NULL,
    region         text NOT NULL,
    -- held: waits for a person; approved: may leave until `approved_until`; dropped: stays as it is, and nobody asks.
    state          text NOT NULL CHECK (state IN ('held', 'approved', 'dropped')),
    cause          text NOT NULL,
    held_at        timestamptz NOT NULL DEFAULT now(),
    decided_by     text,
    approved_until timestamptz,
    PRIMARY KEY (tenant, kind, key, region)
);

-- The limits of the guards, as the configuration had them at the last `migrate`.
ALTER TABLE hubcast.settings ADD COLUMN guards jsonb NOT NULL DEFAULT '{}';
