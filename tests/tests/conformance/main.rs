//! One suite for every store: the reference model, an agent with redb, a DynamoDB table. Random operations, the same for a
//! store and for the model, must have the same answers, and leave the same behind (`contexts::store` says what is promised).
//!
//! | module | is about |
//! | --- | --- |
//! | [`deeds`] | random operations |
//! | [`side`] | does them to a store, and says what came of it |
//! | [`suite`] | does them to a store and to the model, and compares |
//! | [`agent`] | an agent's store, through its push listener |
//!
//! A failing seed is printed and repeats with `HUBCAST_CONFORMANCE_SEED`. What a writer's silence does is left out: it needs
//! time, and has tests of its own.

mod agent;
mod deeds;
mod side;
mod suite;

use agent::AgentStore;
use contexts::store::model::Model;
use contexts_dynamodb::layout::{JOURNAL, STAGED};
use contexts_dynamodb::table::Table;
use deeds::{LARGE, REGION, SMALL, names};
use suite::{run, seeds};
use system_tests::Result;
use system_tests::table::TableRegion;
use tempfile::TempDir;

#[tokio::test]
async fn the_model_is_as_it_says() -> Result<()> {
    for seed in seeds(20) {
        run(&Model::new(deeds::region()), seed, SMALL, 200).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_a_store() -> Result<()> {
    for seed in seeds(3) {
        let dir = TempDir::new()?;
        let store = AgentStore::start(dir.path(), REGION).await?;
        run(&store, seed, SMALL, 150).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_one_with_large_bundles() -> Result<()> {
    for seed in seeds(1) {
        let dir = TempDir::new()?;
        let store = AgentStore::start(dir.path(), REGION).await?;
        run(&store, seed, LARGE, 30).await?;
    }
    Ok(())
}

/// A table of its own, and what is left in it.
async fn on_a_table(seed: u64, size: deeds::Size, steps: usize) -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    region.db().create().await?;
    let table = Table::new(region.db(), deeds::region());
    run(&table, seed, size, steps).await?;
    // Nothing is left of a bundle that was more than one transaction.
    let db = region.db();
    let journal = db.query(JOURNAL, "").await?;
    if !journal.is_empty() {
        return Err(format!("seed {seed}: the journal has {journal:?}").into());
    }
    for name in names(size) {
        let place = contexts_dynamodb::layout::Place::context(&name, STAGED);
        if db.get(&place).await?.is_some() {
            return Err(format!("seed {seed}: {place} is not settled").into());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_a_store() -> Result<()> {
    for seed in seeds(3) {
        on_a_table(seed, SMALL, 100).await?;
    }
    Ok(())
}

/// Most bundles are more than one transaction has room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_one_with_large_bundles() -> Result<()> {
    for seed in seeds(1) {
        on_a_table(seed, LARGE, 25).await?;
    }
    Ok(())
}
