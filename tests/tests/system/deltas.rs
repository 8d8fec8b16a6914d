//! A tenant with very many contexts: what goes out for one change, and that what comes of it is what SQL says, whatever happened
//! to the store or on the way.

use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World, settles};
use std::path::Path;
use std::time::Duration;
use system_tests::relay::Relay;
use system_tests::server::Server;
use system_tests::{Result, until};

const ITEMS: u32 = 8_000;

/// Pads of their own, so that compression does not make a small thing of them; and what the last value was that was not too
/// large.
const TABLE: &str = "CREATE TABLE items (id text PRIMARY KEY, tenant text NOT NULL, n bigint NOT NULL, pad text NOT NULL, last bigint)";

const CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT id AS key, tenant, n, pad FROM items"
watch = [{ table = "items", tenant = "tenant", key = "id" }]
"#;

const TRUTH: &[Kind] = &[Kind {
    name: "item",
    sql: "SELECT id, tenant, jsonb_build_object('n', coalesce(last, n), 'pad', md5(id))::text FROM items WHERE $1 <> ''",
}];

/// More than the largest push of a part and everything beside it takes, and far less than the tenant.
const SMALL: u64 = 32 << 10;
const LARGE: u64 = 128 << 10;

struct Stage {
    world: World,
    relay: Relay,
    /// The session in which the large tenant was confirmed last.
    confirmed: usize,
}

impl Stage {
    /// A region in step, with the large tenant and some others, behind a relay.
    async fn new() -> Result<Self> {
        let server = Server::any().await?;
        let database = server.database().await?;
        database.execute(TABLE).await?;
        let fill = format!(
            "INSERT INTO items SELECT 'item-' || g, 'large', 1, md5('item-' || g) FROM generate_series(1, {ITEMS}) AS g; \
             INSERT INTO items SELECT 'other-' || g, 'other-' || g, 1, md5('other-' || g) FROM generate_series(1, 20) AS g"
        );
        database.execute(&fill).await?;
        let mut world = World::new(server, database, &["eu-west-1"], CONTEXTS, TRUTH).await?;
        world.truth.one_in = 997;
        let relay = world.relay_to(0).await?;
        world.runs().await?;
        Ok(Self {
            world,
            relay,
            confirmed: 0,
        })
    }

    /// How many deltas came to this.
    async fn deltas(&self, outcome: &str) -> Result<f64> {
        let label = format!("outcome=\"{outcome}\"");
        let name = "hubcast_publisher_store_deltas_total";
        self.world.hub.metric(name, &label).await
    }

    /// Runs SQL and waits until the region has of this key what it says, and nothing is left to do; returns the bytes that went to
    /// the store and back.
    async fn change(&mut self, sql: &str, key: &str) -> Result<u64> {
        let (before, session) = (self.relay.bytes(), self.session()?);
        self.world.database.execute(sql).await?;
        let truth = self
            .world
            .truth
            .of(&self.world.database, "eu-west-1")
            .await?;
        let value = truth.get(&("item".to_owned(), key.to_owned()));
        let should = value.map_or((404, "{\"error\":\"not_found\"}"), |(_, v)| (200, v));
        let agent = &self.world.agents[0];
        until("the change", HEALS_WITHIN, || async {
            let (status, body) = agent.get("item", key).await.ok()?;
            ((status.as_u16(), body.as_str()) == should).then_some(())
        })
        .await?;
        settles(&self.world.hub).await?;
        self.confirmed = session;
        Ok(self.relay.bytes() - before)
    }

    /// The number of the agent's session. On a machine that is busy elsewhere one may end at any time, and the next begins whole.
    fn session(&mut self) -> Result<usize> {
        let log = self.world.agents[0].process()?.log();
        Ok(log.matches("the store is granted to a writer").count())
    }

    /// A change that goes as a delta, if the tenant was confirmed in this session.
    async fn small(&mut self, sql: &str, key: &str) -> Result<()> {
        let (taken, confirmed) = (self.deltas("taken").await?, self.confirmed);
        let bytes = self.change(sql, key).await?;
        if self.session()? == confirmed {
            assert!(bytes < SMALL, "{bytes} bytes for: {sql}");
            assert_eq!(self.deltas("taken").await?, taken + 1.0, "{sql}");
        }
        Ok(())
    }

    /// A change that goes whole, and makes the next one small.
    async fn whole(&mut self, sql: &str, key: &str) -> Result<()> {
        let taken = self.deltas("taken").await?;
        let bytes = self.change(sql, key).await?;
        assert!(bytes > LARGE, "only {bytes} bytes for: {sql}");
        assert_eq!(self.deltas("taken").await?, taken, "{sql}");
        let next = "UPDATE items SET n = n + 1 WHERE id = 'item-9'";
        self.small(next, "item-9").await
    }

    /// The one change that most tests make.
    async fn one(&mut self) -> Result<()> {
        self.small(ONE, "item-7").await
    }
}

const ONE: &str = "UPDATE items SET n = n + 1 WHERE id = 'item-7'";

#[tokio::test(flavor = "multi_thread")]
async fn one_change_of_a_very_large_tenant_is_small_and_what_comes_of_it_is_right() -> Result<()> {
    let mut stage = Stage::new().await?;
    // Nobody has confirmed it in this session: the scan found it there, or filled it.
    stage.change(ONE, "item-7").await?;
    stage.one().await?;
    let new = "INSERT INTO items VALUES ('new', 'large', 1, md5('new'))";
    stage.small(new, "new").await?;
    stage
        .small("DELETE FROM items WHERE id = 'item-8'", "item-8")
        .await?;
    let hold = "UPDATE items SET last = n, n = n + 1, pad = repeat('x', 70000) WHERE id = 'item-11'; \
                UPDATE items SET n = n + 1 WHERE id = 'item-10'";
    stage.small(hold, "item-10").await?;
    stage.world.is_true().await?;
    stage
        .small("DELETE FROM items WHERE id = 'item-11'", "item-11")
        .await?;
    stage
        .small(&hold.replace("item-11", "item-12"), "item-10")
        .await?;
    let release = "UPDATE items SET last = NULL, n = n + 1, pad = md5(id) WHERE id = 'item-12'";
    stage.small(release, "item-12").await?;
    let several = "INSERT INTO items SELECT 'more-' || g, 'large', 1, md5('more-' || g) FROM generate_series(1, 5) AS g; \
                   UPDATE items SET n = n + 1 WHERE id IN ('item-1', 'item-2'); \
                   DELETE FROM items WHERE id IN ('item-3', 'item-4')";
    stage.small(several, "item-1").await?;
    stage.world.is_true().await?;
    // A key that moves, there and back: both tenants in one commit.
    for tenant in ["other-1", "large"] {
        let moves = format!("UPDATE items SET n = n + 1, tenant = '{tenant}' WHERE id = 'item-20'");
        stage.change(&moves, "item-20").await?;
    }
    // So much that all of it is less.
    stage
        .whole(
            "UPDATE items SET n = n + 1 WHERE tenant = 'large'",
            "item-7",
        )
        .await?;
    // What a person asks for is read whole, also what no trigger saw; it goes whole, whatever is known, and the next change is
    // small again.
    let unseen =
        "SET session_replication_role = replica; UPDATE items SET n = 4711 WHERE id = 'item-30'";
    stage.world.database.execute(unseen).await?;
    let (before, taken) = (stage.relay.bytes(), stage.deltas("taken").await?);
    let republished = stage
        .world
        .hub
        .run(&["republish", "tenant", "large"])
        .await?;
    assert_eq!(republished.code, 0, "{republished:?}");
    let (_, value) = stage.world.agents[0].get("item", "item-30").await?;
    assert!(value.contains("4711"), "{value}");
    assert!(stage.relay.bytes() - before > LARGE);
    assert_eq!(stage.deltas("taken").await?, taken);
    stage.confirmed = stage.session()?;
    stage.one().await?;
    stage.world.is_true().await?;
    assert_eq!(stage.deltas("differs").await?, 0.0);
    assert_eq!(stage.deltas("unknown").await?, 0.0);
    let diff = stage.world.hub.run(&["diff"]).await?;
    assert_eq!(diff.code, 0, "{diff:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_was_acknowledged_survives_a_kill_and_a_new_session_begins_whole() -> Result<()>
{
    let mut stage = Stage::new().await?;
    stage.change(ONE, "item-7").await?;
    for _ in 0..3 {
        stage.one().await?;
    }
    // Nobody helps the agent: what it shows is what it had.
    stage.relay.cut();
    stage.world.agents[0].kill()?;
    stage.world.agents[0].start().await?;
    // What is absent it says once its rows are checked.
    stage.world.becomes_true().await?;
    stage.relay.mend();
    settles(&stage.world.hub).await?;
    stage.whole(ONE, "item-7").await?;
    stage.world.agents[0].stop().await?;
    stage.world.agents[0].start().await?;
    settles(&stage.world.hub).await?;
    stage.whole(ONE, "item-7").await
}

/// Changes a byte of a value in the file of a stopped agent, and nothing else.
fn edit(file: &Path, key: &str) -> Result<()> {
    use redb::ReadableTable;
    use spoke_agent::store::redb::tables::CONTEXTS;
    let database = redb::Database::open(file)?;
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(CONTEXTS)?;
        let name = (&b"large"[..], &b"item"[..], key.as_bytes());
        let mut bytes = table.get(name)?.ok_or("no such record")?.value().to_vec();
        let last = bytes.last_mut().ok_or("an empty record")?;
        *last ^= 1;
        table.insert(name, bytes.as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_record_of_a_large_tenant_is_mended_and_never_passed_on() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.change(ONE, "item-7").await?;
    stage.one().await?;
    stage.world.agents[0].stop().await?;
    edit(&stage.world.agents[0].data, "item-77")?;
    stage.world.agents[0].start().await?;
    // Whatever comes first, the scan of a store that restarted or this change: it comes whole.
    stage.change(ONE, "item-7").await?;
    stage.one().await?;
    stage.world.scan().await?;
    stage.world.is_true().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_delta_that_is_lost_costs_a_whole_bundle() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.change(ONE, "item-7").await?;
    stage.one().await?;
    // Of ten parts: more than a heartbeat, however small the parts are, and less than the tenant.
    stage.relay.lose_answer_to(2_400);
    let ten = "UPDATE items SET n = n + 1 WHERE id ~ '^item-1[0-9]$'";
    stage.world.database.execute(ten).await?;
    until("the relay to be cut", Duration::from_secs(60), || async {
        stage.relay.is_cut().then_some(())
    })
    .await?;
    stage.relay.mend();
    stage.world.becomes_true().await?;
    settles(&stage.world.hub).await?;
    // It was built again after the claim, and so confirmed.
    stage.confirmed = stage.session()?;
    stage.one().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_release_without_deltas_gets_whole_bundles() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.relay.hide("/push/v1/delta");
    stage.change(ONE, "item-7").await?;
    for _ in 0..3 {
        let bytes = stage.change(ONE, "item-7").await?;
        assert!(bytes > LARGE, "{bytes}");
    }
    assert_eq!(stage.deltas("taken").await?, 0.0);
    assert_eq!(stage.deltas("unknown").await?, 1.0, "it is asked once");
    let refused = "hubcast_publisher_store_bundles_refused_total";
    assert_eq!(stage.world.hub.metric(refused, "").await?, 0.0);
    // It is upgraded, and so another session begins.
    stage.relay.mend();
    stage.world.agents[0].stop().await?;
    stage.world.agents[0].start().await?;
    settles(&stage.world.hub).await?;
    stage.whole(ONE, "item-7").await
}
