-- What is held may be a removal, a changed value or a new context beyond a budget. The publisher from before knows removals
-- only, which is what a row without these columns says.
ALTER TABLE hubcast.holds
    ADD COLUMN reason text NOT NULL DEFAULT 'removed' CHECK (reason IN ('removed', 'changed', 'budget')),
    -- changed: the value that is not to go, by its hash; 0: whichever it is.
    ADD COLUMN value bigint;

-- Changes count within the same ten minutes as removals, each for itself.
ALTER TABLE hubcast.removals
    ADD COLUMN act text NOT NULL DEFAULT 'removed' CHECK (act IN ('removed', 'changed'));

-- The query, by its hash, under which a kind of a region was found in step: another value is a change only under the same.
CREATE TABLE hubcast.settled (
    region text NOT NULL,
    kind   text NOT NULL,
    query  bigint NOT NULL,
    PRIMARY KEY (region, kind)
);
