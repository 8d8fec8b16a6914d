-- Regions that were given up. A build gives them nothing, so their stores become empty by the one path; and whoever is
-- started with a configuration that still names one stops.
CREATE TABLE hubcast.decommissioned (
    region text PRIMARY KEY,
    who    text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
