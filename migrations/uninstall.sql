-- Removes what the migrations made, by name and without CASCADE: what somebody else put into the schema, or made upon
-- it, is not ours to remove and stops this. The change triggers are gone by now.
DROP TABLE hubcast.triggers;
DROP TABLE hubcast.standbys;
DROP TABLE hubcast.retry;
DROP TABLE hubcast.beat;
DROP FUNCTION hubcast.beat_changed();
DROP FUNCTION hubcast.token();
DROP FUNCTION hubcast.touch(uuid);
DROP FUNCTION hubcast.touch(bigint);
DROP FUNCTION hubcast.touch(text);
DROP FUNCTION hubcast.wait(integer, integer, integer, bigint, bigint, pg_snapshot, bigint, integer);
DROP FUNCTION hubcast.has_room();
DROP TABLE hubcast.outbox;
DROP SEQUENCE hubcast.outbox_mended;
DROP SEQUENCE hubcast.outbox_missed;
DROP SEQUENCE hubcast.outbox_cap;
DROP SEQUENCE hubcast.outbox_acked;
DROP SEQUENCE hubcast.outbox_ids;
DROP TABLE hubcast.scans;
DROP TABLE hubcast.requests;
DROP TABLE hubcast.syncs;
DROP TABLE hubcast.terms;
DROP TABLE hubcast.writer;
DROP TABLE hubcast.stores;
DROP TABLE hubcast.definitions;
DROP TABLE hubcast.settings;
DROP TABLE hubcast.migrations;
DROP SCHEMA hubcast;
