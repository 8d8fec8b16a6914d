//! The two ways of a build, called as the writer calls them: at once, and step by step. They must agree, and whatever is
//! taken for granted at once must be noticed when it no longer holds.

use crate::hostile;
use crate::world::{REGIONS, sample_contexts, sample_dir};
use contexts::name::{Region, TenantId};
use publisher::source::{Source, SourceError};
use publisher::writer::{BatchId, BuildRequest, BuiltBatch, BuiltBundle, What};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::sample::{self, Size};
use system_tests::server::{Database, Server};
use system_tests::{Result, until};
use tempfile::TempDir;

/// A database, and what builds from it.
struct Works {
    source: Source,
    regions: Vec<Region>,
    agent: Agent,
    database: Database,
    _server: Server,
    dir: TempDir,
}

type Content = (TenantId, Vec<Arc<BuiltBundle>>);

impl Works {
    async fn new(server: Server, database: Database, contexts: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
        let agent = Agent::new(dir.path(), REGIONS[0])?;
        let source = Source::new("url", &SecretString::from(database.url.clone()))?;
        let regions = REGIONS
            .iter()
            .map(|r| Region::new(r))
            .collect::<Result<_, _>>()?;
        let works = Self {
            source,
            regions,
            agent,
            database,
            _server: server,
            dir,
        };
        works.migrate(contexts).await?;
        Ok(works)
    }

    async fn migrate(&self, contexts: &str) -> Result<()> {
        let hub = Hub::new(
            self.dir.path(),
            &self.database.url,
            &[&self.agent],
            contexts,
        )?;
        hub.run(&["migrate"]).await?.ok()?;
        Ok(())
    }

    async fn at_once(&self, tenants: &[TenantId]) -> Result<Option<BuiltBatch>> {
        Ok(self.source.build_at_once(tenants, &self.regions).await?)
    }

    async fn step_by_step(&self, tenants: &[TenantId]) -> Result<BuiltBatch> {
        Ok(self
            .source
            .build_step_by_step(tenants, &self.regions)
            .await?)
    }

    async fn build(&self, tenants: &[TenantId]) -> Result<BuiltBatch> {
        let request = BuildRequest::new(BatchId(0), What::Tenants(tenants.to_vec()));
        Ok(self.source.build(&request, &self.regions).await?)
    }

    /// Both ways give the same for these tenants; returns how many contexts they have.
    async fn agree(&self, tenants: &[TenantId]) -> Result<u64> {
        let slow = self.step_by_step(tenants).await?;
        let fast = self.at_once(tenants).await?.ok_or("not at once")?;
        assert_eq!(contents(&fast), contents(&slow));
        assert_eq!(fast.contexts, slow.contexts);
        assert_eq!(
            (fast.definitions, &fast.kinds, &fast.warnings),
            (slow.definitions, &slow.kinds, &slow.warnings)
        );
        assert_eq!(
            (fast.problems, fast.unsure),
            (slow.problems, slow.unsure),
            "nothing is wrong with either"
        );
        Ok(fast.contexts)
    }
}

fn contents(batch: &BuiltBatch) -> Vec<Content> {
    batch
        .tenants
        .iter()
        .map(|b| (b.tenant.clone(), b.bundles.clone()))
        .collect()
}

fn tenants(names: &[&str]) -> Result<Vec<TenantId>> {
    Ok(names
        .iter()
        .map(|n| TenantId::new(n))
        .collect::<Result<_, _>>()?)
}

async fn agree_on_hostile(tenant_type: &str, names: &[&str], never: &str) -> Result<()> {
    let server = Server::any().await?;
    let database = hostile::database(&server, tenant_type, names).await?;
    let works = Works::new(server, database, hostile::CONTEXTS).await?;
    let mut all = tenants(names)?;
    all.push(TenantId::new(never)?);
    assert!(
        works.at_once(&all).await?.is_none(),
        "nothing is known before the first build"
    );
    assert!(works.agree(&all).await? > 30 * names.len() as u64);
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..10 {
        let n = random.random_range(0..=all.len());
        let some: Vec<TenantId> = all.choose_multiple(&mut random, n).cloned().collect();
        works.agree(&some).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_agree_on_tenants_that_are_numbers() -> Result<()> {
    agree_on_hostile("bigint", hostile::NUMBERS, "8").await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_agree_on_tenants_that_are_uuids() -> Result<()> {
    let never = "00000000-0000-0000-0000-000000000001";
    agree_on_hostile("uuid", hostile::UUIDS, never).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_agree_on_tenants_of_any_text() -> Result<()> {
    agree_on_hostile("text", hostile::TEXTS, "$1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_agree_on_the_sample_and_on_nobody() -> Result<()> {
    let works = with_sample().await?;
    works.build(&[]).await?;
    assert_eq!(works.agree(&[]).await?, 0);
    assert!(works.agree(&tenants(&SOME)?).await? > 10);
    Ok(())
}

const SOME: [&str; 3] = ["acme-0001", "birch-0002", "cobalt-0003"];

async fn with_sample() -> Result<Works> {
    let server = Server::any().await?;
    let database = server.database().await?;
    sample::load(&sample_dir(), &database.url, Size::default()).await?;
    database.execute("VACUUM ANALYZE").await?;
    Works::new(server, database, &sample_contexts()?).await
}

/// Notes of tenants that are numbers, and what may be wrong with them.
const NOTES: &str = "CREATE TABLE notes (tenant bigint NOT NULL, key text, body text, n integer NOT NULL DEFAULT 1);
    CREATE INDEX ON notes (tenant);
    INSERT INTO notes SELECT g, 'k' || g, 'body ' || g FROM generate_series(1, 20) AS g";

fn notes(select: &str) -> String {
    format!(
        "[[context]]\nkind = \"note\"\nquery = \"SELECT key, tenant, {select} FROM notes\"\n\
         watch = [{{ table = \"notes\", tenant = \"tenant\" }}]\n\
         [[context]]\nkind = \"number\"\nquery = \"SELECT 'n' || tenant AS key, tenant, 100 / n AS n FROM notes\"\n\
         watch = [{{ table = \"notes\", tenant = \"tenant\" }}]\n"
    )
}

async fn with_notes() -> Result<Works> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(NOTES).await?;
    Works::new(server, database, &notes("body")).await
}

fn numbers(n: i64) -> Result<Vec<TenantId>> {
    (1..=n)
        .map(|i| Ok(TenantId::new(&i.to_string())?))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_tenant_is_found_step_by_step() -> Result<()> {
    let works = with_notes().await?;
    let all = numbers(20)?;
    works.build(&all).await?;
    assert_eq!(works.agree(&all).await?, 40);
    works
        .database
        .execute("UPDATE notes SET n = 0 WHERE tenant = 7")
        .await?;
    assert!(works.at_once(&all).await?.is_none());
    let built = works.build(&all).await?;
    assert_eq!(contents(&built), contents(&works.step_by_step(&all).await?));
    for tenant in &built.tenants {
        let bundle = &tenant.bundles[0].bundle;
        let held = usize::from(tenant.tenant.as_str() == "7");
        assert_eq!(
            (bundle.held_kinds.len(), bundle.contexts.len()),
            (held, 2 - held),
            "{tenant:?}"
        );
    }
    assert_eq!(built.problems.len(), 1, "{:?}", built.problems);
    assert_eq!(
        works.agree(&all[..6]).await?,
        12,
        "the others are built at once"
    );
    Ok(())
}

/// Which regions an array of arrays means is anybody's guess, and the text of one reads like names that no region has:
/// the kind is held, where it would otherwise be removed everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn regions_of_more_than_one_dimension_remove_nothing() -> Result<()> {
    let works = with_notes().await?;
    let all = numbers(20)?;
    works.build(&all).await?;
    let here = &works.regions[0];
    for (regions, is_held) in [
        (format!("ARRAY['{here}']"), false),
        (format!("ARRAY[ARRAY['{here}']]"), true),
        (format!("'[0:0]={{{here}}}'::text[]"), false),
        (format!("'{{{here}}}'::varchar(20)[]"), false),
    ] {
        works
            .migrate(&notes(&format!("body, {regions} AS regions")))
            .await?;
        let slow = works.step_by_step(&all).await?;
        assert_eq!(works.at_once(&all).await?.is_none(), is_held, "{regions}");
        let built = works.build(&all).await?;
        assert_eq!(contents(&built), contents(&slow), "{regions}");
        for bundle in built.tenants.iter().map(|b| &b.bundles[0].bundle) {
            let held = usize::from(is_held);
            assert_eq!(
                (bundle.held_kinds.len(), bundle.contexts.len()),
                (held, 2 - held)
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_fails_for_everybody_is_not_asked_twice_each_time() -> Result<()> {
    let works = with_notes().await?;
    let all = numbers(20)?;
    works.build(&all).await?;
    works
        .database
        .execute("ALTER TABLE notes RENAME COLUMN body TO text")
        .await?;
    assert_eq!(works.build(&all).await?.problems.len(), 1);
    works
        .database
        .execute("ALTER TABLE notes RENAME COLUMN text TO body")
        .await?;
    assert!(
        works.at_once(&all).await?.is_none(),
        "it is left alone for a while"
    );
    assert_eq!(works.build(&all).await?.problems.len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_tenant_can_have_are_found_step_by_step() -> Result<()> {
    let works = with_notes().await?;
    works.build(&numbers(1)?).await?;
    for wrong in ["x", "007", " 7", "7.0", "99999999999999999999"] {
        let asked = tenants(&["7", wrong])?;
        assert!(works.at_once(&asked).await?.is_none(), "{wrong}");
        let built = works.build(&asked).await?;
        let kept: BTreeMap<&str, usize> = built
            .tenants
            .iter()
            .map(|b| (b.tenant.as_str(), b.bundles[0].bundle.contexts.len()))
            .collect();
        assert_eq!(kept, BTreeMap::from([("7", 2), (wrong, 0)]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_changed_are_never_used() -> Result<()> {
    let works = with_notes().await?;
    let all = numbers(20)?;
    let first = works.build(&all).await?;
    works.agree(&all).await?;
    let changes = [
        notes("upper(body) AS body"),
        notes("body, 1 AS one"),
        notes("body").replace("watch", "max_value_bytes = 100\nwatch"),
        notes("body").replace("kind = \"note\"", "kind = \"memo\""),
        notes("body"),
    ];
    for contexts in &changes {
        works.migrate(contexts).await?;
        assert!(works.at_once(&all).await?.is_none(), "{contexts}");
        works.build(&all).await?;
        works.agree(&all).await?;
    }
    let last = works.build(&all).await?;
    assert_eq!(
        (contents(&first), first.definitions),
        (contents(&last), last.definitions)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused_although_its_definitions_are_the_same() -> Result<()> {
    let mut server = Server::own().await?;
    let database = server.database().await?;
    database.execute(NOTES).await?;
    let standby = server.standby().await?;
    let works = Works::new(server, database, &notes("body")).await?;
    let twin = standby.twin(&works.database)?;
    let source = Source::new("url", &SecretString::from(twin.url.clone()))?;
    let known = until("the standby to follow", Duration::from_secs(30), || async {
        source.definitions().await.ok()
    });
    known.await?;
    let all = numbers(20)?;
    assert!(source.build_at_once(&all, &works.regions).await?.is_none());
    let request = BuildRequest::new(BatchId(0), What::Tenants(all));
    let refused = source.build(&request, &works.regions).await;
    assert!(
        matches!(refused, Err(SourceError::Standby { .. })),
        "{refused:?}"
    );
    Ok(())
}

/// While `migrate` goes back and forth, each build has the content that its definitions give, whichever they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_and_the_definitions_that_made_it_belong_together() -> Result<()> {
    let works = Arc::new(with_notes().await?);
    let all = numbers(20)?;
    let building = tokio::spawn({
        let (works, all) = (works.clone(), all.clone());
        async move {
            let mut seen: BTreeMap<u128, (u32, Vec<Content>)> = BTreeMap::new();
            loop {
                let built = works.build(&all).await?;
                let (times, content) = seen
                    .entry(built.definitions)
                    .or_insert_with(|| (0, contents(&built)));
                assert_eq!(*content, contents(&built));
                *times += 1;
                if seen.len() == 4 && seen.values().all(|(times, _)| *times > 20) {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(seen);
                }
            }
        }
    });
    let ways = ["body", "body AS text", "upper(body) AS body", "n AS body"];
    let mut turn = ways.iter().cycle();
    until(
        "all definitions to be built",
        Duration::from_secs(60),
        || {
            let (works, way) = (works.clone(), turn.next().copied().unwrap_or("body"));
            let done = building.is_finished();
            async move {
                if done {
                    return Some(Ok(()));
                }
                works.migrate(&notes(way)).await.err().map(Err)
            }
        },
    )
    .await??;
    let seen = building.await??;
    let different: std::collections::HashSet<String> =
        seen.values().map(|(_, c)| format!("{c:?}")).collect();
    assert_eq!(different.len(), seen.len(), "each gives another content");
    Ok(())
}

/// Rows of a partitioned table in no order, of 4,000 tenants, of one with 15,000 of them, and of none.
const MANY: &str = "CREATE TABLE many (id integer NOT NULL, tenant integer, body text NOT NULL) PARTITION BY HASH (id);
    CREATE TABLE many_0 PARTITION OF many FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE many_1 PARTITION OF many FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE INDEX ON many (tenant);
    INSERT INTO many SELECT n, n % 4000, repeat('x', 100) FROM generate_series(1, 40000) AS n;
    INSERT INTO many SELECT n, 17, repeat('x', 100) FROM generate_series(40001, 55000) AS n;
    INSERT INTO many SELECT n, NULL, 'nobody' FROM generate_series(55001, 55003) AS n";

/// A tenant in two ranges, or in none, would be one that a scan takes for changed or removed.
#[tokio::test(flavor = "multi_thread")]
async fn the_ranges_of_a_scan_have_every_tenant_once_and_say_who_has_none() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(MANY).await?;
    let contexts = "[[context]]\nkind = \"one\"\nquery = \"SELECT id::text AS key, tenant, body FROM many\"\n\
                    watch = [{ table = \"many\", tenant = \"tenant\" }]\n";
    let works = Works::new(server, database, contexts).await?;
    let build = |what| {
        let id = BatchId(0);
        let request = BuildRequest::new(id, what);
        let (source, regions) = (&works.source, &works.regions);
        async move { source.build(&request, regions).await }
    };
    let ranges = build(What::Bounds).await?.ranges;
    assert!((4..12).contains(&ranges.len()), "{ranges:?}");
    let (mut all, mut contexts, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for range in ranges {
        let read = build(What::Range(range)).await?;
        contexts.push(read.contexts);
        all.extend(read.tenants.iter().map(|built| built.tenant.to_string()));
        problems.extend(read.problems);
    }
    all.sort_unstable();
    let mut truth: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
    truth.sort_unstable();
    assert_eq!(all, truth);
    assert_eq!(contexts.iter().sum::<u64>(), 55_000);
    // The large tenant cannot be divided.
    assert!(contexts.iter().all(|n| *n < 27_000), "{contexts:?}");
    assert_eq!(
        problems,
        ["kind one: rows have a NULL tenant (3); nobody gets them"]
    );
    Ok(())
}
