-- The tables that have change triggers. The catalogs say what the triggers are; this says what a table was called when
-- they were made, so that it shows when another table has taken its name, or when it is gone.
CREATE TABLE hubcast.triggers (
    relation regclass PRIMARY KEY,
    name     text NOT NULL
);
